"""Formats: what the columns of a record say, and that nothing of a conversation is lost in silence."""

from pathlib import Path
from typing import Any

import pytest
from example_files import bodies, lines, read, refusal, turns
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.adapt.examples import (
    FORMS,
    Conversation,
    Form,
    Judgement,
    Label,
    Preference,
    Problem,
    Question,
    Similar,
    Tags,
    example_id,
)
from underlay.adapt.examples.formats import FORMATS, format_of
from underlay.adapt.examples.unusable import Unusable
from underlay.text import Message

SYSTEM = Message("system", "Be kind.")
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
GOOD, BAD = {"role": "assistant", "content": "Hello"}, {"role": "assistant", "content": "Go away"}
HUMAN = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
TEXT = {"context": "Bees make honey.", "question": "Who?"}

KNOWN: list[tuple[dict[str, Any], Form]] = [
    ({"instruction": "Add", "output": "3"}, Conversation(turns("Add", "3"))),
    ({"instruction": "Add", "input": " ", "output": "3", "system": None}, Conversation(turns("Add", "3"))),
    ({"instruction": "Add", "input": "1, 2", "output": "3"}, Conversation(turns("Add\n\n1, 2", "3"))),
    (
        {"instruction": "c", "output": "d", "system": "Be kind.", "history": [["a", "b"]]},
        Conversation((SYSTEM, *turns("a", "b", "c", "d"))),
    ),
    (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be kind."},
        Conversation((SYSTEM, *turns("Hi", "Hello"))),
    ),
    ({"messages": [{"role": "system", "content": "Be kind."}, *TALK]}, Conversation((SYSTEM, *turns("Hi", "Hello")))),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                GOOD,
            ]
        },
        Conversation(turns("Hi", "Hello")),
    ),
    ({"prompt": "Hi", "completion": "Hello"}, Conversation(turns("Hi", "Hello"))),
    ({"prompt": TALK[:1], "completion": [GOOD]}, Conversation(turns("Hi", "Hello"))),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}, Preference(turns("Hi"), "Hello", "Go away")),
    (
        {"prompt": "Hi", "chosen": [TALK[0], GOOD], "rejected": [TALK[0], BAD]},
        Preference(turns("Hi"), "Hello", "Go away"),
    ),
    ({"prompt": TALK[:1], "chosen": [GOOD], "rejected": [BAD]}, Preference(turns("Hi"), "Hello", "Go away")),
    ({"chosen": [TALK[0], GOOD], "rejected": [TALK[0], BAD]}, Preference(turns("Hi"), "Hello", "Go away")),
    ({"chosen": f"{HUMAN} d", "rejected": f"{HUMAN} e"}, Preference(turns("a", "b", "c"), "d", "e")),
    ({"prompt": HUMAN, "chosen": "d", "rejected": "e"}, Preference(turns("a", "b", "c"), "d", "e")),
    (
        {"instruction": "Add", "input": "1", "output": "3", "chosen": "4", "rejected": "5"},
        Preference(turns("Add\n\n1"), "4", "5"),
    ),
    ({"prompt": "Hi", "completion": "Hello", "label": True}, Judgement(turns("Hi"), "Hello", True)),
    ({"prompt": "Hi", "completion": "Hello", "label": "False"}, Judgement(turns("Hi"), "Hello", False)),
    ({"question": "6 * 7?", "answer": "It is\n#### 42"}, Problem(turns("6 * 7?"), "42")),
    ({"prompt": "Write a poem"}, Problem(turns("Write a poem"), None)),
    ({"text": "good", "label": "yes"}, Label("good", ("yes",))),
    ({"sentence": "good", "category": 1}, Label("good", ("1",))),
    ({"text": "good", "labels": ["a", "b"]}, Label("good", ("a", "b"))),
    ({"text": "good", "labels": []}, Label("good", ())),
    ({"text": "good", "label": True}, Label("good", ("true",))),
    (
        {"premise": "it rains", "hypothesis": "it is wet", "label": "yes"},
        Label("it rains", ("yes",), None, "it is wet"),
    ),
    ({"sentence1": "a", "sentence2": "b", "score": 4}, Label("a", (), 4.0, "b")),
    ({"text": "good", "label": 0.25}, Label("good", (), 0.25)),
    ({"tokens": ["Ann", "ran"], "ner_tags": ["B-person", "O"]}, Tags(("Ann", "ran"), ("B-person", "O"))),
    ({"words": ["Ann"], "tags": ["B-person"]}, Tags(("Ann",), ("B-person",))),
    (
        {**TEXT, "answers": {"text": ["Bees", "Bees"], "answer_start": [0, 0]}},
        Question("Who?", "Bees make honey.", (("Bees", 0),)),
    ),
    (
        {**TEXT, "answers": [{"text": "honey", "answer_start": 10}]},
        Question("Who?", "Bees make honey.", (("honey", 10),)),
    ),
    ({**TEXT, "answers": [], "is_impossible": True}, Question("Who?", "Bees make honey.", ())),
    ({"anchor": "a", "positive": "b", "negative": "c"}, Similar("a", "b", ("c",))),
    ({"query": "a", "positive": "b"}, Similar("a", "b")),
]


@pytest.mark.parametrize(
    ("record", "expected"), KNOWN, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_columns_tell_the_form(tmp_path: Path, record: dict[str, Any], expected: Form) -> None:
    other = {"text": "another", "label": "no"}  # a single label teaches nothing
    found = bodies(tmp_path, record, *([other] if isinstance(expected, Label) and expected.value is None else []))
    assert found[0] == expected


TALKS = "messages"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"instruction": "Add", "output": ""}, "the output is empty"),
    ({"instruction": "Add", "output": None}, "the output is missing or null"),
    ({"instruction": "Add", "output": " \n"}, "the output is empty"),
    ({"instruction": "Add", "output": 3}, "the output is no text"),
    ({"instruction": "Add\0", "output": "3"}, "the instruction holds a zero character"),
    ({"instruction": "Add", "output": "3", "history": ["a"]}, "a history that is no list of question and answer"),
    ({TALKS: TALK[:1]}, "no assistant speaks"),
    ({TALKS: [*TALK, TALK[0]]}, "does not end with the assistant"),
    ({TALKS: TALK[1:]}, "that the assistant begins"),
    ({TALKS: [*TALK, GOOD]}, "roles out of order"),
    ({TALKS: [*TALK, {"role": "system", "content": "x"}, *TALK]}, "roles out of order"),
    ({TALKS: []}, "a conversation without turns"),
    ({TALKS: ["Hi"]}, "a turn that is no object"),
    ({TALKS: [{"role": "narrator", "content": "x"}, GOOD]}, "a role that is not known"),
    ({TALKS: [TALK[0], {"role": "tool", "content": "x"}, GOOD]}, "calls of tools"),
    ({TALKS: [TALK[0], {"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "calls of tools"),
    ({TALKS: TALK, "tools": [{"name": "search"}]}, "calls of tools"),
    ({"conversations": [{"from": "human", "value": "x"}, {"from": "observation", "value": "y"}]}, "calls of tools"),
    ({TALKS: [TALK[0], {**GOOD, "weight": 0}]}, "a weight of their own"),
    ({TALKS: [TALK[0], {**GOOD, "reasoning_content": "hm"}]}, "thoughts apart"),
    ({TALKS: [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, GOOD]}, "parts of a message"),
    ({"prompt": "Hi", "chosen": "a", "rejected": "a "}, "are the same"),
    ({"prompt": "Hi", "chosen": "a", "rejected": ""}, "the rejected answer is empty"),
    ({"prompt": "Hi", "chosen": [*TALK, *TALK], "rejected": "b"}, "not the prompt and one answer"),
    ({"chosen": "a", "rejected": "b"}, "answers without a prompt"),
    ({"chosen": f"{HUMAN} d", "rejected": "\n\nHuman: x\n\nAssistant: y"}, "part before the last answer"),
    ({"prompt": "Hi", "completion": "x", "label": 0.5}, "neither true nor false"),
    ({"question": "6 * 7?", "answer": "42"}, "an answer without ####"),
    ({"question": "6 * 7?", "answer": "It is\n####  "}, "the answer is empty"),
    ({"text": "good", "label": None}, "the label is missing or null"),
    ({"text": "", "label": "a"}, "the text is empty"),
    ({"text": "good", "labels": ["a", ["b", "c"]]}, "the label is no text"),
    ({"text": "good", "labels": ["a", 0.5]}, "the label is no text"),
    ({"text": "good", "score": "high"}, "a value that is no number"),
    ({"text": "good", "score": float("nan")}, "a value that is no number"),
    ({"tokens": ["a", "b"], "tags": ["O"]}, "not as many tags as words"),
    ({"tokens": ["a"], "ner_tags": [3]}, "tags that are numbers"),
    ({"tokens": [], "tags": []}, "a sentence without words"),
    ({"tokens": "a b", "tags": "O O"}, "words or tags that are no list"),
    ({**TEXT, "answers": [{"text": "Bees", "answer_start": 1}]}, "does not stand at its offset"),
    ({**TEXT, "answers": [{"text": "", "answer_start": 0}]}, "an answer is empty"),
    ({**TEXT, "answers": {"text": ["Bees"], "answer_start": []}}, "answers without an offset"),
    ({**TEXT, "answers": [{"text": "Bees"}]}, "answers without an offset"),
    ({**TEXT, "answers": [{"text": "Bees", "answer_start": 0}], "is_impossible": True}, "is_impossible, with answers"),
    ({"question": "Who?", "context": "Bees.", "answer": "#### Bees"}, "columns that no format has"),
    ({"prompt": "Hi", "completion": "Hello", "context": "It is late."}, "columns that no format has"),
    ({"body": "x"}, "columns that no format has"),
]


@pytest.mark.parametrize(("record", "reason"), WRONG)
def test_what_is_unusable_is_counted_with_its_place(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    good = [{"instruction": f"say {n}", "output": f"{n}"} for n in range(2)]
    reading = read(lines(tmp_path / "some.jsonl", good[0], record, good[1], record))
    assert len(reading.examples) == 2
    ((found, count),) = reading.left_out.counts.items()
    assert reason in found
    assert count == 2
    assert reading.left_out.first[found].startswith(f"{tmp_path / 'some.jsonl'}:2")


def test_worked_answers_become_conversations(tmp_path: Path) -> None:
    record = {"question": "6 * 7?", "answer": "It is\n#### 42"}
    assert bodies(tmp_path, record, worked=True) == [Conversation(turns("6 * 7?", "It is\n#### 42"))]
    assert "worked" in refusal(lines(tmp_path / "a.jsonl", record), worked=True, form="label")


def test_a_person_says_the_form_where_columns_fit_several(tmp_path: Path) -> None:
    plain = {"question": "6 * 7?", "answer": "42"}
    assert bodies(tmp_path, plain, form="problem") == [Problem(turns("6 * 7?"), "42")]
    assert bodies(tmp_path, plain, form="conversation") == [Conversation(turns("6 * 7?", "42"))]
    both = {"instruction": "Add", "output": "3", "chosen": "3", "rejected": "4"}
    assert isinstance(bodies(tmp_path, both)[0], Preference)
    assert bodies(tmp_path, both, form="conversation") == [Conversation(turns("Add", "3"))]


def test_where_one_label_has_a_fraction_all_are_numbers(tmp_path: Path) -> None:
    whole = [{"text": text, "label": label} for text, label in (("a", "4"), ("b", 2), ("c", 1.0))]
    assert [one.labels for one in bodies(tmp_path, *whole)] == [("4",), ("2",), ("1",)]
    found = bodies(tmp_path, *whole, {"text": "d", "label": "3.5"})
    assert [(one.labels, one.value) for one in found] == [((), 4.0), ((), 2.0), ((), 1.0), ((), 3.5)]
    mixed = lines(tmp_path / "mixed.jsonl", {"text": "a", "label": "good"}, {"text": "b", "label": 0.5})
    assert "mixed.jsonl:1: the label 'good' is no number" in refusal(mixed)


def test_a_transcript_may_quote_a_turn_only_within_a_line(tmp_path: Path) -> None:
    said = "\n\nHuman: He said Human: no\n\nAssistant: ok"
    assert bodies(tmp_path, {"chosen": said, "rejected": f"{said}!"})[0].prompt == turns("He said Human: no")


NAMES = sorted(
    {name for one in FORMATS for names in (*one.needs, one.also) for name in names}
    | {"from", "value", "role", "content", "answer_start"}
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["user", "assistant", "tool", "####", "\n\nHuman: a\n\nAssistant: b", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=400)
@given(st.data())
def test_whatever_stands_in_known_columns_is_read_or_left_out(data: st.DataObject) -> None:
    format_ = data.draw(st.sampled_from(FORMATS))
    fields = {data.draw(st.sampled_from(names)): data.draw(VALUES) for names in format_.needs}
    fields |= data.draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
    found = format_of(fields, None, worked=False)
    said = ""
    try:
        body = found.make(fields) if found else None
        assert body is None or isinstance(body, tuple(FORMS.values()))
        if body:
            example_id(body)
    except Unusable as error:
        said = error.reason + error.detail
    assert said.isprintable()


def test_lone_surrogates_do_not_reach_the_examples(tmp_path: Path) -> None:
    (body,) = bodies(tmp_path, {"instruction": "a\ud800b", "output": "c"})
    assert body.messages[0].content.encode() == b"a?b"
