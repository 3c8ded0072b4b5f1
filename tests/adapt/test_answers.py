"""A teacher's answers as examples: what is asked, what is kept, what a student learns of it, and stopping midway."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapt.answering import ANSWERS, CONTEXT, asked, learned, prompts, said, talk, teacher
from adapt.preferring import ask, example, make_model, make_tokenizer
from underlay.adapt.answers import AnswerConfig, answered, write_tasks
from underlay.adapt.answers.choosing import NOT_BEST, UNTOLD, WORTH_LESS, refused
from underlay.adapt.answers.label_studio import INTERFACE, TASKS
from underlay.adapt.answers.talking import CUT, LONGER
from underlay.adapt.examples import Conversation, Example, ExamplesConfig, Label, Problem, Tags, read_examples
from underlay.adapt.prompting import Case, Task
from underlay.adapt.reinforce import named
from underlay.config.base import parse
from underlay.errors import UserError
from underlay.generate import Answer, Engine, Request, Sampling
from underlay.text import Message, Tokenizer, render, train_tokenizer

SETTINGS = AnswerConfig(max_tokens=12)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def knowing(tokenizer: Tokenizer) -> Engine:
    return teacher(tokenizer)


@pytest.fixture(scope="module")
def wavering(tokenizer: Tokenizer) -> Engine:
    """Knows that a colour is asked for, and not which."""
    talks = [talk(f"colour of {thing}", colour) for thing in ANSWERS for colour in ANSWERS.values()]
    return Engine(learned(make_model(tokenizer, 1, context=CONTEXT), tokenizer, talks, 60), tokenizer, slots=4)


def test_a_student_of_other_tokens_learns_to_say_what_its_teacher_says(knowing: Engine, tmp_path: Path) -> None:
    found = answered(knowing, prompts(), SETTINGS, 0, tmp_path)
    assert [said(one.body) for one in found.examples] == list(ANSWERS.values())
    own = train_tokenizer(["the colours of sky and sea and snow, blue white black green"] * 3, 280)
    assert not own.same_tokens(knowing.tokenizer)
    talks = [one.body.messages for one in found.examples if isinstance(one.body, Conversation)]
    student = Engine(learned(make_model(own, 5, context=64, depth=1), own, talks), own, slots=4)
    requests = [Request(render(own, ask(f"colour of {thing}"), reply=True)[0], 12, Sampling(0)) for thing in ANSWERS]
    assert [answer.text for answer in student.generate(requests)] == list(ANSWERS.values())


def test_where_a_prompt_comes_from_goes_with_its_answer(knowing: Engine, tmp_path: Path) -> None:
    given = [asked("sea", line=7, licence="CC-BY-4.0")]
    (made,) = answered(knowing, given, SETTINGS, 0, tmp_path).examples
    assert replace(made, body=given[0].body) == given[0]
    assert (made.licence, made.document) == ("CC-BY-4.0", "document 7")


def test_each_turn_of_the_assistant_is_the_teachers(knowing: Engine, tmp_path: Path) -> None:
    """The user's stay as they are, and what was answered before is what is read on."""
    words = talk("colour of sea", "I do not know", "colour of snow", "I do not care", "colour of sky")
    given = [example(Conversation(words[:4])), example(Conversation((Message("system", "it is"), *words[:2])), 2)]
    first, second = answered(knowing, given, SETTINGS, 0, tmp_path).examples
    assert first.body == Conversation(talk("colour of sea", "green", "colour of snow", "white"))
    assert isinstance(second.body, Conversation)
    assert [one.role for one in second.body.messages] == ["system", "user", "assistant"]
    (tmp_path / "open").mkdir()
    (open_,) = answered(knowing, [example(Conversation(words[2:]))], SETTINGS, 0, tmp_path / "open").examples
    assert open_.body == Conversation(talk("colour of snow", "white", "colour of sky", "blue"))


def several(engine: Engine, folder: Path, seed: int = 0, at_once: int = 64, **more: Any) -> list[str]:
    folder.mkdir()
    settings = AnswerConfig(samples=6, temperature=1.0, max_tokens=12)
    return [said(one.body) for one in answered(engine, prompts(), settings, seed, folder, at_once=at_once).examples]


def test_samples_follow_from_the_seed_alone(wavering: Engine, tmp_path: Path) -> None:
    whole = several(wavering, tmp_path / "a")
    assert len(whole) > 12
    assert len(set(whole)) > 2
    assert several(wavering, tmp_path / "b", at_once=1) == whole
    assert several(wavering, tmp_path / "c", seed=1) != whole


def test_the_same_prompt_again_is_answered_by_another_chance(wavering: Engine, tmp_path: Path) -> None:
    settings = AnswerConfig(samples=6, temperature=1.0, max_tokens=12)
    found = answered(wavering, [asked("sea", line=line) for line in (1, 2)], settings, 0, tmp_path).examples
    first, second = ([said(one.body) for one in found if one.line == line] for line in (1, 2))
    assert first != second


class Counting(Engine):
    """Counts what it is asked."""

    count = 0

    def generate(self, requests: Sequence[Request], *args: Any, **kwargs: Any) -> list[Answer]:
        self.count += len(requests)
        return super().generate(requests, *args, **kwargs)


def test_stopped_and_resumed_equals_never_stopped(wavering: Engine, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = learned(make_model(tokenizer, 1, context=CONTEXT), tokenizer, [talk("colour of sea", "green")], 20)
    settings = AnswerConfig(samples=3, max_tokens=12)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()

    def go(name: str, stop: float = 9) -> tuple[Any, int]:
        engine = Counting(model, tokenizer, slots=4)

        def progress(done: float, total: float | None, **facts: float | str) -> None:
            if done >= stop:
                raise InterruptedError

        try:
            found = answered(engine, prompts() * 2, settings, 3, tmp_path / name, None, None, progress, at_once=2)
        except InterruptedError:
            return None, engine.count
        return found.examples, engine.count

    whole, all_ = go("whole")
    assert all_ == 24
    assert go("stopped", 4) == (None, 12)
    assert go("stopped") == (whole, 12)


def test_a_reward_keeps_what_is_right(wavering: Engine, tmp_path: Path) -> None:
    given = [asked(thing, colour, line) for line, (thing, colour) in enumerate(ANSWERS.items(), 1)]
    settings = AnswerConfig(samples=12, temperature=1.0, max_tokens=12, keep="matches")
    found = answered(wavering, given, settings, 0, tmp_path, reward=named("matches"))
    assert len(found.examples) > 4
    for one in found.examples:
        assert isinstance(one.body, Conversation)
        thing = one.body.messages[0].content.removeprefix("colour of ")
        assert said(one.body).strip() == ANSWERS[thing]
    dropped = found.left_out.counts
    assert dropped[WORTH_LESS] > 10
    assert len(found.examples) + dropped.total() == 48


def test_the_best_of_several(wavering: Engine, tmp_path: Path) -> None:
    settings = AnswerConfig(samples=12, temperature=1.0, max_tokens=12, keep="length", best=True)
    found = answered(wavering, prompts(), settings, 0, tmp_path, reward=lambda _, answer: float(answer == "black"))
    assert [said(one.body) for one in found.examples] == ["black"] * 4
    assert found.left_out.counts[NOT_BEST] == 48 - 4


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, [WORTH_LESS, None, None, UNTOLD, None]),
        ({"worth": 0.2}, [None, None, None, UNTOLD, None]),
        ({"worth": 2}, [WORTH_LESS, WORTH_LESS, None, UNTOLD, None]),
        ({"best": True}, [NOT_BEST, NOT_BEST, None, UNTOLD, NOT_BEST]),
        ({"best": True, "worth": 4}, [WORTH_LESS] * 3 + [UNTOLD, WORTH_LESS]),
    ],
)
def test_what_is_refused(settings: dict[str, Any], why: list[str | None]) -> None:
    assert refused([0.5, 1.0, 3.0, None, 3.0], AnswerConfig(keep="length", **settings)) == why


def task(**settings: Any) -> Task:
    given = {"name": "kind", "instruction": "what is it", "output": {"labels": ["sky", "sea"]}}
    return parse(Task, given | settings, "task")


@pytest.fixture(scope="module")
def labeller(tokenizer: Tokenizer) -> Engine:
    """Is certain of blue and of green; white was called both."""
    one, known = task(), (("blue", "sky"), ("green", "sea"), ("white", "sky"), ("white", "sea"))
    talks = [(*one.prompt(Case(a)), Message("assistant", b)) for a, b in known]
    return Engine(learned(make_model(tokenizer, 2, context=CONTEXT), tokenizer, talks, 160), tokenizer, slots=4)


def texts(*words: str) -> list[Example]:
    return [Example(Label(word, ("unknown",)), "texts.csv", line, "MIT") for line, word in enumerate(words, 1)]


def test_labels_go_where_their_teacher_is_sure_of_them_and_come_back_from_people(
    labeller: Engine, tmp_path: Path
) -> None:
    given = texts("blue", "green", "white")
    settings = AnswerConfig(task="kind", least=0.9)
    found = answered(labeller, given, settings, 0, tmp_path, task())
    assert [one.body for one in found.examples] == [Label("blue", ("sky",)), Label("green", ("sea",))]
    assert all(one.probability is not None and one.probability > 0.9 for one in found.sure)
    (unsure,) = found.unsure
    assert unsure.probability is not None
    assert 0.5 <= unsure.probability < 0.9
    assert sum(unsure.probabilities.values()) == pytest.approx(1)
    assert found.left_out.counts.total() == 1

    write_tasks(found.unsure, ("sky", "sea"), "model:teacher@1", tmp_path)
    (to_do,) = json.loads((tmp_path / TASKS).read_text())
    assert to_do["data"] == {"text": "white", "source": "texts.csv", "line": 3, "licence": "MIT"}
    (guess,) = to_do["predictions"]
    assert (guess["model_version"], guess["score"]) == ("model:teacher@1", unsure.probability)
    (region,) = guess["result"]
    assert region["value"] == {"choices": [unsure.label]}
    interface = (tmp_path / INTERFACE).read_text()
    assert f'<Choices name="{region["from_name"]}" toName="{region["to_name"]}"' in interface
    assert f'<Text name="{region["to_name"]}" value="$text"/>' in interface
    assert region["type"] == "choices"

    region["value"]["choices"] = ["sea"]
    other = {"data": {"text": "night"}, "annotations": [{"result": [{**region, "value": {"choices": ["sky"]}}]}]}
    export = [{**to_do, "id": 1, "annotations": [{"id": 4, "was_cancelled": False, "result": [region]}]}, other]
    (tmp_path / "export.json").write_text(json.dumps(export))
    back = read_examples(ExamplesConfig(source=(str(tmp_path / "export.json"),))).examples
    assert back[0].body == Label("white", ("sea",))
    assert back[0].licence == "MIT"


def test_what_is_right_is_not_shown_to_a_teacher(labeller: Engine, tmp_path: Path) -> None:
    for name, label in (("a", "sky"), ("b", "sea")):
        (tmp_path / name).mkdir()
        given = [example(Label("blue", (label,)))]
        (found,) = answered(labeller, given, AnswerConfig(task="kind"), 0, tmp_path / name, task()).examples
        assert found.body == Label("blue", ("sky",))


def test_written_answers_are_learned_in_the_words_of_their_task(labeller: Engine, tmp_path: Path) -> None:
    free = task(output={})
    found = answered(labeller, texts("blue", "green"), AnswerConfig(task="kind", max_tokens=12), 0, tmp_path, free)
    assert [said(one.body) for one in found.examples] == ["sky", "sea"]
    assert isinstance(found.examples[0].body, Conversation)
    assert found.examples[0].body.messages[:-1] == free.prompt(Case("blue"))


def test_a_task_that_asks_for_text_has_no_use_for_half_of_it(labeller: Engine, tmp_path: Path) -> None:
    """Where a pattern takes the answer out of the text, the rest of the text does not matter."""
    given = AnswerConfig(task="kind", max_tokens=1)
    with pytest.raises(UserError, match=f"no answer is kept, of 2 prompts: 2 left out: {CUT}"):
        answered(labeller, texts("blue", "green"), given, 0, tmp_path, task(output={}))
    (tmp_path / "part").mkdir()
    part = task(output={"pattern": "^s."})
    found = answered(labeller, texts("blue"), AnswerConfig(task="kind", max_tokens=3), 0, tmp_path / "part", part)
    assert [said(one.body) for one in found.examples] == ["sk"]


def test_a_torn_file_is_made_again(knowing: Engine, tmp_path: Path) -> None:
    whole = answered(knowing, prompts(), SETTINGS, 0, tmp_path).examples
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert answered(knowing, prompts(), SETTINGS, 0, tmp_path).examples == whole


def test_written_answers_vote_or_are_chosen_from(wavering: Engine, tmp_path: Path) -> None:
    free = task(instruction="colour of", output={"pattern": "blue|green|white|black"})
    given = [asked("sky", "blue"), asked("sea", "green", 2)]
    for name in ("votes", "sure", "right"):
        (tmp_path / name).mkdir()
    many = {"task": "kind", "samples": 16, "temperature": 1.0, "max_tokens": 12}
    voted = answered(wavering, given, AnswerConfig(**many), 0, tmp_path / "votes", free)
    assert len(voted.examples) == 2
    with pytest.raises(UserError, match="no answer is kept, of 2 prompts: 2 left out: an answer that is less sure"):
        answered(wavering, given, AnswerConfig(**many, least=1.0), 0, tmp_path / "sure", free)
    chosen = answered(wavering, given, AnswerConfig(**many), 0, tmp_path / "right", free, named("matches"))
    assert [said(one.body) for one in chosen.examples] == ["blue", "green"]


def test_what_does_not_fit_or_does_not_end_is_left_out(knowing: Engine, tmp_path: Path) -> None:
    given = [*prompts(), asked("sea " * CONTEXT, line=5)]
    found = answered(knowing, given, SETTINGS, 0, tmp_path)
    assert (len(found.examples), found.left_out.counts) == (4, {LONGER: 1})
    assert found.left_out.first[LONGER] == "prompts.jsonl:5"
    (tmp_path / "cut").mkdir()
    with pytest.raises(UserError, match=f"no answer is kept, of 4 prompts: 4 left out: {CUT}") as caught:
        answered(knowing, prompts(), AnswerConfig(max_tokens=1), 0, tmp_path / "cut")
    assert "\n" not in str(caught.value)


def test_texts_that_a_task_cannot_take_are_left_out(labeller: Engine, tmp_path: Path) -> None:
    given = [*texts("blue", 'green """ and sky', "sea " * CONTEXT), example(Tags(("a",), ("O",)), 9)]
    found = answered(labeller, given, AnswerConfig(task="kind"), 0, tmp_path, task())
    assert [one.body for one in found.examples] == [Label("blue", ("sky",))]
    assert list(found.left_out.counts.values()) == [3]
    assert 'holds the delimiter """' in next(iter(found.left_out.first.values()))


@pytest.mark.parametrize(
    ("given", "settings", "more", "complaint"),
    [
        ([example(Label("blue", ("sky",)), 3)], {}, {}, "pairs.jsonl:3: a label is no prompt; say by a task"),
        (texts("blue"), {"task": "kind"}, {"task": task(), "reward": named("length")}, "keep: labels have probab"),
        (prompts(), {"best": True}, {}, "best: needs a reward that tells"),
        (prompts(), {"worth": 2}, {}, "worth: needs a reward that tells"),
    ],
)
def test_what_cannot_be_is_one_line(
    knowing: Engine, tmp_path: Path, given: list[Example], settings: dict[str, Any], more: Any, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        answered(knowing, given, AnswerConfig(**settings), 0, tmp_path, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"samples": 2, "temperature": 0}, "samples: at temperature 0 all would be alike"),
        ({"keep": "matches", "rubric": "r.yaml"}, "keep: either a reward, or a rubric"),
        ({"least": 0.5}, "least: an answer without a task has no confidence"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        parse(AnswerConfig, settings, "answer")


def test_a_problem_is_what_a_reward_is_asked_about(knowing: Engine, tmp_path: Path) -> None:
    seen: list[tuple[Problem, str]] = []

    def reward(problem: Problem, answer: str) -> float:
        seen.append((problem, answer))
        return 1.0

    given = [example(Conversation(talk("colour of sea", "I do not know", "colour of sky", "blue")))]
    answered(knowing, given, SETTINGS, 0, tmp_path, reward=reward)
    assert seen == [(Problem(talk("colour of sea", "green", "colour of sky"), "blue"), "blue")]
