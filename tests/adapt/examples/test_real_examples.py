"""Files that people have: how many examples they give, and what is left out of them."""

import pytest
from example_files import DATA, read, real

from underlay.adapt.examples import Conversation, Preference, Problem, Question, Tags


@real("llms-from-scratch-instructions")
def test_instructions() -> None:
    folder = DATA / "llms-from-scratch-instructions"
    reading = read(folder / "instruction-data.json.xz")
    assert (len(reading.examples), reading.left_out.counts.total()) == (1100, 0)
    assert {one.licence for one in reading.examples} == {"Apache-2.0"}
    reading = read(folder / "instruction-data-with-preference.json.xz")
    assert dict(reading.left_out.counts) == {"the chosen answer and the rejected are the same": 6}
    assert {type(one.body) for one in reading.examples} == {Preference}


@real("hh-rlhf-harmless-test")
def test_transcripts() -> None:
    reading = read(DATA / "hh-rlhf-harmless-test" / "test.jsonl.gz")
    assert (len(reading.examples), reading.left_out.counts.total()) == (2299, 13)
    for example in reading.examples:
        assert example.body.prompt[-1].role == "user"
        assert not any("\n\nHuman:" in words for words in (example.body.chosen, example.body.rejected))


@real("gsm8k")
def test_problems() -> None:
    path = DATA / "gsm8k" / "test.jsonl.xz"
    found = read(path).examples
    assert len(found) == 1319
    assert all(isinstance(one.body, Problem) and one.body.answer.strip("-0123456789,.") == "" for one in found)
    assert found[0].body.answer == "18"
    worked = read(path, worked=True).examples
    assert isinstance(worked[0].body, Conversation)
    assert worked[0].body.messages[1].content.endswith("#### 18")


@real("banking77")
def test_labels() -> None:
    found = read(DATA / "banking77" / "train.csv.xz").examples
    assert (len(found), len({one.body.labels for one in found})) == (10_003, 77)


@real("wnut17-ner")
@pytest.mark.parametrize(("name", "count"), [("wnut17train.conll.xz", 3394), ("emerging.dev.conll", 1009)])
def test_sentences(name: str, count: int) -> None:
    reading = read(DATA / "wnut17-ner" / name)
    assert len(reading.examples) + reading.left_out.counts["the same as an example before it"] == count
    tags = {tag for one in reading.examples if isinstance(one.body, Tags) for tag in one.body.tags}
    kinds = ("corporation", "creative-work", "group", "location", "person", "product")
    assert tags == {"O", *(f"{begin}-{kind}" for begin in "BI" for kind in kinds)}


@real("xquad")
@pytest.mark.parametrize("language", ["ar", "de", "en", "es", "hi", "zh"])
def test_questions(language: str) -> None:
    reading = read(DATA / "xquad" / f"xquad.{language}.json.xz")
    assert len(reading.examples) + reading.left_out.counts.total() == 1190
    assert {*reading.left_out.counts} <= {"the same as an example before it"}
    for one in reading.examples:
        assert isinstance(one.body, Question)
        assert all(one.body.context[start:].startswith(answer) for answer, start in one.body.answers)


@real("toolcall-demo")
def test_calls_of_tools_are_counted() -> None:
    reading = read(DATA / "toolcall-demo")
    assert dict(reading.left_out.counts) == {"calls of tools, which are not supported": 300}
