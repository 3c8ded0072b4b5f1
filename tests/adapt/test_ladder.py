"""Which way pays: baselines learn, chance is told from difference, and the frontier holds what nothing beats."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.adapt.ladder import (
    RUNGS,
    Classical,
    Learning,
    Majority,
    RungName,
    Serving,
    Trial,
    by_chance,
    frontier,
    recommended,
    standings,
    timed,
    why_not,
)
from underlay.adapt.ladder.standing import permuted
from underlay.adapt.prompting import Prediction
from underlay.adapt.prompting.measure import wilson
from underlay.errors import UserError

TEXTS = [f"the {thing} is {word}" for thing in ("film", "book", "play", "song", "meal") for word in ("good", "bad")] * 3
LABELS = ["up" if "good" in text else "down" for text in TEXTS]


def trial(rung: RungName, scores: list[float], seed: int = 0, seconds: float = 1.0, **more: object) -> Trial:
    serving = Serving(seconds=seconds, alone=seconds)
    return Trial.model_validate(
        {
            "model": "m",
            "rung": rung,
            "seed": seed,
            "answers": ["yes"] * len(scores),
            "scores": scores,
            "serving": serving,
            "learning": Learning(seconds=3.0),
        }
        | more
    )


def test_the_majority_is_what_is_right_most_often() -> None:
    model = Majority(["b", "a", "b", "a", "c", "b"])
    assert [(one.answer, one.confidence) for one in model(["x", "y"])] == [("b", 0.5)] * 2
    assert Majority(["b", "a"]).answer == "a"


def test_the_classical_one_learns_and_says_how_sure_it_is() -> None:
    model = Classical(TEXTS, LABELS)
    found = model(["a very good thing", "what a bad one"])
    assert [one.answer for one in found] == ["up", "down"]
    assert all(one.confidence is not None and 0.5 < one.confidence <= 1 for one in found)
    assert model.parameters > 100
    again = Classical(TEXTS, LABELS)(["a very good thing"])
    assert again[0].confidence == found[0].confidence


@pytest.mark.parametrize(("texts", "labels", "message"), [(["a", "b"], ["x", "x"], "nothing to tell apart"),
                                                         (["", " "] * 6, ["x", "y"] * 6, "no words")])  # fmt: skip
def test_what_the_classical_one_cannot_learn_is_refused(texts: list[str], labels: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classical(texts, labels)


def test_the_p_value_is_that_of_all_exchanges() -> None:
    chance = np.random.default_rng(1)
    one, other = chance.random(10), chance.random(10) + 0.2
    differences = one - other
    every = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=10)]
    exact = float(np.mean([value >= abs(differences.sum()) - 1e-9 for value in every]))
    assert permuted(one, other) == pytest.approx(exact, abs=0.025)
    assert permuted(one, one) == 1.0
    assert permuted(np.ones(200), np.zeros(200)) < 0.001
    assert permuted(one, other) == permuted(other, one)


def test_quality_is_the_mean_of_seeds_and_its_interval_holds_them_all() -> None:
    found = standings([trial("full", [1.0] * 90 + [0.0] * 10), trial("full", [1.0] * 70 + [0.0] * 30, seed=1)])
    (one,) = found
    assert one.seeds == (0.9, 0.7)
    assert one.quality.value == pytest.approx(0.8)
    plain = wilson(80, 100)
    assert (one.quality.low, one.quality.high) == (min(plain.low, 0.7), max(plain.high, 0.9))
    assert standings([trial("full", [1.0] * 80 + [0.0] * 20)])[0].quality == pytest.approx(wilson(80, 100))


def test_the_cheapest_way_that_chance_could_have_put_first_is_recommended() -> None:
    best, near, far = [1.0] * 95 + [0.0] * 5, [1.0] * 93 + [0.0] * 7, [1.0] * 50 + [0.0] * 50
    found = standings(
        [trial("full", best, seconds=9), trial("head", near, seconds=2), trial("tfidf", far, seconds=0.1, model="")]
    )
    assert [one.rung for one in found] == ["full", "head", "tfidf"]
    assert [one.as_good for one in found] == [True, True, False]
    assert recommended(found).rung == "head"
    assert found[0].p == 1.0
    assert (found[0].title, found[2].title) == ("m, full fine-tuning", "TF-IDF, logistic regression")


@given(st.lists(st.tuples(st.floats(0.1, 9), st.integers(0, 20)), min_size=1, max_size=8))
def test_the_frontier_holds_what_nothing_beats(ways: list[tuple[float, int]]) -> None:
    rungs = list(RUNGS)
    found = standings([trial(rungs[n], [1.0] * q + [0.0] * (20 - q), seconds=c) for n, (c, q) in enumerate(ways)])
    cost = [one.trials[0].serving.seconds for one in found]
    kept = frontier(found, cost)
    for number, one in enumerate(found):
        beaten = any(
            (cost[n] <= cost[number] and other.quality.value > one.quality.value)
            or (cost[n] < cost[number] and other.quality.value >= one.quality.value)
            for n, other in enumerate(found)
        )
        alike = any(
            found[n].quality.value == one.quality.value and cost[n] == cost[number] for n in kept if n != number
        )
        assert (number in kept) == (not beaten and not (alike and number not in kept))


def test_calibration_and_answers_are_told() -> None:
    sure = trial("head", [1.0, 0.0, 1.0, 1.0], confidences=(0.75, 0.75, 0.75, 0.75), answers=("a", None, "a", "a"))
    (one,) = standings([sure])
    assert one.calibration == pytest.approx(0.0)
    assert one.answered == 0.75
    assert standings([trial("head", [1.0])])[0].calibration is None


def test_each_way_is_for_models_that_can_go_it() -> None:
    assert [rung for rung in RUNGS if why_not(rung, decoder=True, labels=True)] == []
    assert {rung for rung in RUNGS if why_not(rung, decoder=False, labels=True)} == {
        "prompt", "few_shot", "chain_of_thought", "self_consistency",
    }  # fmt: skip
    assert {rung for rung in RUNGS if why_not(rung, decoder=True, labels=False)} == {"tfidf", "head"}
    assert by_chance("few_shot", labels=2, shots=8)
    assert not by_chance("few_shot", labels=77, shots=8)  # the nearest are always the same
    assert not by_chance("prompt", 2, 8)


def test_every_text_is_answered_once_and_in_order_and_time_is_of_one_text() -> None:
    asked: list[list[int]] = []

    def slow(numbers: object) -> list[Prediction]:
        chosen = list(numbers)  # type: ignore[call-overload]
        asked.append(chosen)
        return [Prediction(str(number)) for number in chosen]

    found, seconds, alone, memory = timed(slow, 300)
    assert [one.answer for one in found] == [str(number) for number in range(300)]
    assert seconds > 0
    assert alone > 0
    assert memory is None or memory > 1_000_000
    assert [one for many in asked[1:3] for one in many] == list(range(300))
