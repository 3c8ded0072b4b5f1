"""What answers are worth, by their text alone, by a user's function, and by a reward model."""

from pathlib import Path

import pytest
import torch

from adapt.preferring import ask, make_model, make_tokenizer
from underlay.adapt.examples import Problem
from underlay.adapt.preference import score, with_reward
from underlay.adapt.reinforce import ModelReward, named
from underlay.adapt.reinforce.checks import length, matches, parses, resembles, signature
from underlay.adapt.reinforce.rewards import content, rewards
from underlay.errors import UserError

HEADER = Problem(ask('def add(a: int, b: int) -> int:\n    """Sum."""\n'))
BARE = Problem(ask("def add(a, b):"))
PROSE = Problem(ask("Write `def add(a, b)` for me, please."))


@pytest.mark.parametrize(
    ("problem", "answer", "parsed", "same"),
    [
        (HEADER, "    return a + b\n", 1, 1),
        (HEADER, "    return a +\n", 0, 0),
        (HEADER, "return a + b\n", 0, 0),  # outside of the function
        (HEADER, "", 0, 0),
        (HEADER, "  \n", 0, 0),
        (HEADER, "    return a + b\n\ndef other():\n    pass\n", 1, 0),
        (HEADER, "```python\ndef add(a, b):\n    return a + b\n```\nDone.", 1, 1),  # the whole again
        (BARE, "\n    return a + b", 1, 1),
        (PROSE, "def add(a, b):\n    return a + b", 1, 1),
        (PROSE, "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", 1, 1),
        (PROSE, "def add(b, a):\n    return a + b", 1, 0),
        (PROSE, "def plus(a, b):\n    return a + b", 1, 0),
        (PROSE, "def add(a, b, *c):\n    return a + b", 1, 0),
        (PROSE, "def add(a, *, b):\n    return a + b", 1, 0),
        (PROSE, "Sure, I will!", 0, 0),
        (PROSE, "x = 1\0", 0, 0),
        (PROSE, "(" * 5000, 0, 0),
    ],
)
def test_code_is_judged_by_pythons_parser(problem: Problem, answer: str, parsed: int, same: int) -> None:
    assert parses(problem, answer) == parsed
    assert signature(problem, answer) == same


def test_code_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    assert parses(PROSE, f"open({str(trap)!r}, 'w')") == 1
    assert not trap.exists()


def test_a_signature_that_nobody_asked_for_cannot_be_scored() -> None:
    assert signature(Problem(ask("Add two numbers.")), "def add(a, b):\n    return a + b") is None


RIGHT = Problem(HEADER.prompt, "    return a + b\n")


@pytest.mark.parametrize(
    ("answer", "worth"),
    [
        ("    return a + b\n", 1.0),
        ("    return a\n", 2 * 2 / (2 + 4)),
        ("    return None\n", 2 * 1 / (2 + 4)),
        ("    pass\n", 0.0),
        ("    return a + a + a + b\n", 2 * 4 / (8 + 4)),  # as often as it stands there, and no more
        ("    return a + b +\n", 0.0),
        ("return a + b\n", 0.0),
    ],
)
def test_what_stands_for_nothing_earns_little(answer: str, worth: float) -> None:
    assert resembles(RIGHT, answer) == pytest.approx(worth)


def test_what_cannot_be_compared_cannot_be_scored() -> None:
    assert resembles(HEADER, "    return a + b\n") is None
    assert resembles(Problem(ask("Add two numbers."), "a + b"), "a + b") is None


@pytest.mark.parametrize(
    ("right", "answer", "worth"),
    [
        ("Half of 48 is 24.\n#### 72", "24 + 48 = 72\n#### 72", 1),
        ("#### 1,200", "So it is $1200.00.", 1),
        ("#### 72", "72, no, 73", 0),
        ("#### 72", "#### 72\nThat is 100%.", 1),
        ("#### 72", "It was 72.\n#### 73", 0),
        ("-3", "minus: -3.0", 1),
        ("72", "none", 0),
        ("72", "", 0),
        ("Paris", "It is a city.\n Paris. ", 1),
        ("Paris", "paris", 1),
        ("Paris", "London, not Paris", 0),
        ("Paris", "", 0),
        ("New  York", "new york!", 1),
    ],
)
def test_answers_match_by_their_last_number_or_line(right: str, answer: str, worth: int) -> None:
    assert matches(Problem(ask("?"), right), answer) == worth


def test_without_a_right_answer_nothing_can_be_matched() -> None:
    assert matches(Problem(ask("?")), "72") is None
    assert length(Problem(ask("?")), "four") == 4


def test_a_users_function_is_imported_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def worth(problem, answer):\n    return None if answer == '?' else len(answer) / 2\n")
    reward = named(f"{path}:worth")
    found = rewards(reward, [PROSE] * 3, ["abc", "?", "a"])
    assert found.isnan().tolist() == [False, True, False]
    assert found[[0, 2]].tolist() == [1.5, 0.5]
    before = content(f"{path}:worth")
    path.write_text("def worth(problem, answer):\n    return 1\n")
    assert content(f"{path}:worth") != before


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("def worth(problem, answer):\n    return 'high'\n", "worth", r"the reward of 'abc' is 'high'"),
        ("def worth(problem, answer):\n    return float('nan')\n", "worth", r"is nan; give a finite number, or None"),
        ("def worth(problem, answer):\n    return 1 / 0\n", "worth", r"fails on the answer 'abc': ZeroDivisionError"),
        ("worth = 3\n", "worth", "has no function 'worth'"),
        ("raise RuntimeError('no')\n", "worth", "cannot be imported: RuntimeError: no"),
    ],
)
def test_what_goes_wrong_in_a_users_file_is_one_line(tmp_path: Path, text: str, name: str, told: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        rewards(named(f"{path}:{name}"), [PROSE], ["abc"])
    assert "\n" not in str(caught.value)


def test_rewards_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match="no 'helpful'; take parses, signature, resembles, matches, length, or path"):
        named("helpful")
    with pytest.raises(UserError, match=r"nowhere\.py: no such file"):
        named("nowhere.py:worth")


def test_a_reward_model_scores_as_it_does_elsewhere() -> None:
    tokenizer = make_tokenizer()
    judge = with_reward(make_model(tokenizer), 3)
    with torch.no_grad():
        assert judge.task is not None
        judge.task.output.weight.mul_(50)
    problems, answers = [Problem(ask("sky")), Problem(ask("colour of snow"))], ["it is blue", "white"]
    found = rewards(ModelReward(judge, tokenizer), problems, answers)
    wanted = score(judge, tokenizer, [one.prompt for one in problems], answers)
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    assert abs(wanted[0] - wanted[1]) > 1e-3
