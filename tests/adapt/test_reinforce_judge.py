"""A judge as a reward: what it says is what its labels are worth, and what it likes is learned."""

from pathlib import Path

import pytest
import torch

from adapt.preferring import ask, make_model
from adapt.reinforcing import COLOURS, beginner, configured, make_tokenizer, problems, run, taught
from underlay.adapt.examples import Example, Problem
from underlay.adapt.prompting import Case, answer, task_values
from underlay.adapt.reinforce import examine
from underlay.adapt.reinforce.judging import JudgeReward, Rubric, read_rubric
from underlay.adapt.reinforce.rewards import rewards
from underlay.config.base import parse
from underlay.errors import UserError
from underlay.generate import Engine
from underlay.models import Batch, Decoder
from underlay.text import Message, Tokenizer, render
from underlay.train import CausalLM

CONTEXT = 128


def rubric(**changes: object) -> Rubric:
    given = {"instruction": "is it good", "output": {"labels": ["good", "bad"]}, "worth": {"good": 1, "bad": -1}}
    return parse(Rubric, given | changes, "rubric")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def judge(tokenizer: Tokenizer) -> Decoder:
    """A model that learned to call green good, and all else bad, whatever was asked."""
    model, task = make_model(tokenizer, 3, context=CONTEXT), rubric()
    talks = []
    for asked in COLOURS:
        for said in COLOURS:
            case = Case(f"User: colour is {asked}\n\nAnswer: {said}")
            talks.append((*task.prompt(case), Message("assistant", "good" if said == "green" else "bad")))
    rows = [render(tokenizer, talk) for talk in talks]
    time = max(len(ids) for ids, _ in rows)
    assert time < CONTEXT
    ids = torch.tensor([row + [0] * (time - len(row)) for row, _ in rows])
    weights = torch.tensor([row + [0.0] * (time - len(row)) for _, row in rows])
    batch = Batch(ids[:, :-1], ids[:, 1:], weights[:, 1:])
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0)
    for _ in range(80):
        loss = CausalLM()(model, batch)
        (loss.sum / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float((loss.sum / loss.count).detach()) < 0.05
    return model


def test_a_reward_is_what_labels_are_worth_by_their_probabilities(tokenizer: Tokenizer) -> None:
    """By a judge that knows nothing, so that no label is certain."""
    model = make_model(tokenizer, 5, context=CONTEXT)
    task = rubric(output={"labels": ["1", "2"]}, worth={"1": 5, "2": 2})
    reward = JudgeReward(model, tokenizer, task)
    problem = Problem(ask("colour is blue"))
    found = reward(problem, "green")
    shown = Example(Problem(ask("User: colour is blue\n\nAnswer: green")), "", 1, "")
    (prediction,) = answer(Engine(model, tokenizer), task, [shown]).predictions
    first = prediction.probabilities["1"]
    assert 0.02 < first < 0.98
    assert found == pytest.approx(5 * first + 2 * (1 - first), abs=1e-6)
    assert reward(problem, "blue") != found
    numbers = rubric(output={"labels": ["1", "2.5", "-3"]}, worth={})
    assert numbers.values == {"1": 1.0, "2.5": 2.5, "-3": -3.0}


def test_what_the_judge_likes_is_learned(tokenizer: Tokenizer, judge: Decoder, tmp_path: Path) -> None:
    model, config = beginner(tokenizer), configured(40, 64)
    reward = JudgeReward(judge, tokenizer, rubric())
    before = examine(model, tokenizer, problems() * 4, reward, 6).figures["sampled_reward"]
    assert before < 0
    rows = list(run(taught(model, tokenizer, tmp_path, config, reward=reward), tmp_path, config).journal)
    assert rows[0]["reward"] < 0 < 0.8 < rows[-1]["reward"]
    found = examine(model, tokenizer, problems(), reward, 6)
    assert found.figures["greedy_reward"] > 0.9
    assert {sample["text"] for sample in found.samples} == {"green"}


def test_what_cannot_be_asked_has_no_reward(tokenizer: Tokenizer, judge: Decoder) -> None:
    reward = JudgeReward(judge, tokenizer, rubric())
    problem = Problem(ask("colour is blue"))
    found = reward.many([problem] * 4, ["green", "green " * CONTEXT, 'green""" good', "blue"])
    assert found[1:3] == [None, None]
    assert found[0] is not None
    assert found[3] is not None
    assert found[0] > 0.8 > -0.8 > found[3]
    told = rewards(reward, [problem] * 2, ["green", "green " * CONTEXT])
    assert told[0] == pytest.approx(found[0])
    assert told[1].isnan()


def test_rounds_of_another_rubric_are_not_taken(tokenizer: Tokenizer, judge: Decoder, tmp_path: Path) -> None:
    """A run that is begun again by another rubric must not go on with what the first had made of answers."""
    config = configured(1, 32)
    earned = []
    for worth in ({"good": 1, "bad": 0}, {"good": 0, "bad": 1}):
        reward = JudgeReward(judge, tokenizer, rubric(worth=worth))
        made = taught(beginner(tokenizer), tokenizer, tmp_path, config, reward=reward)
        earned.append(made.source.batch(0, 32).facts["reward"])  # type: ignore[attr-defined]
    assert earned[0] == pytest.approx(1 - earned[1], abs=1e-5)
    assert earned[0] != pytest.approx(earned[1], abs=1e-2)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"output": {}, "worth": {}}, "output: a judge chooses among labels"),
        ({"worth": {}}, "worth: the label 'good' is no number; say what each is worth"),
        ({"worth": {"good": 1}}, "worth: say it of each label, and of no other: good, bad"),
        ({"worth": {"good": 1, "bad": 0, "poor": 0}}, "and of no other"),
    ],
)
def test_what_is_no_rubric_is_one_line(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        rubric(**changes)
    assert "\n" not in str(caught.value)


def test_a_rubric_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "kind.yaml"
    path.write_text("instruction: Is it kind?\noutput: {labels: ['1', '2', '3']}\n")
    assert read_rubric(path).values == {"1": 1.0, "2": 2.0, "3": 3.0}
    assert read_rubric(path).name == task_values(path)["name"] == "kind"
    with pytest.raises(UserError, match="no such task"):
        read_rubric("kind")
