"""Figures of answers, against values by hand and by others."""

import json
import math
from collections.abc import Sequence

import pytest
from prompt_world import task, texts

from underlay.adapt.prompting import Answers, Prediction, measure
from underlay.adapt.prompting.comparing import fields_right, rouge_l
from underlay.adapt.prompting.measure import calibration_error, resampled, wilson
from underlay.errors import UserError


def answers(*found: str | None, sure: Sequence[float] = ()) -> Answers:
    confidences = list(sure) or [None] * len(found)
    return Answers([Prediction(one, confidence) for one, confidence in zip(found, confidences, strict=True)])


def test_wilsons_interval_has_the_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        found = wilson(right, count)
        assert found.value == right / count
        assert found.low == pytest.approx(low, abs=5e-5)
        assert found.high == pytest.approx(high, abs=5e-5)
    assert wilson(1, 29).high == pytest.approx(0.1718, abs=5e-5)
    assert wilson(20, 20)[:3] == pytest.approx((1, 1 - 0.1611, 1), abs=5e-5)


def test_resampling_is_as_wide_as_theory_says() -> None:
    values = [float(i % 10) for i in range(400)]
    found = resampled(400, lambda some: sum(values[i] for i in some) / len(some))
    half = 1.96 * math.sqrt(8.25 / 400)
    assert found.value == 4.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.12)
    assert found == resampled(400, lambda some: sum(values[i] for i in some) / len(some))


def test_the_calibration_error_is_worked_out_by_hand() -> None:
    # Bins [0.6, 0.7) with two, of which one is right, and [0.9, 1] with two, both right.
    assert calibration_error([0.6, 0.65, 0.95, 1.0], [True, False, True, True]) == pytest.approx(
        (abs(1.25 - 1) + abs(1.95 - 2)) / 4
    )
    assert calibration_error([1.0], [True]) == 0


def test_rouge_l_is_worked_out_by_hand() -> None:
    # "police the gunman" and its kin (Lin 2004): two and three of four words in order.
    right = "police killed the gunman"
    assert rouge_l(right, "police kill the gunman") == 0.75
    assert rouge_l(right, "the gunman kill police") == 0.5
    assert rouge_l(right, "Police, killed.") == 2 * 2 / 6
    assert rouge_l("", "") == 1
    assert rouge_l(right, "") == 0


def test_fields_are_paths_to_values() -> None:
    right = {"a": 1, "b": {"c": [1, 2]}, "d": []}
    assert fields_right(json.dumps(right), json.dumps(right)) == 1
    assert fields_right(json.dumps(right), json.dumps({"a": 1, "b": {"c": [1, 3]}, "d": []})) == 3 / 4
    assert fields_right(json.dumps(right), json.dumps({**right, "e": 5})) == 4 / 5
    assert fields_right(json.dumps(right), None) == 0


def test_labels_are_measured() -> None:
    given = texts(("a", "good"), ("b", "good"), ("c", "bad"), ("d", "bad"))
    found = answers("good", "bad", "bad", None, sure=(0.9, 0.8, 0.7, 0.0))
    figures = measure(task(), found, given)
    assert set(figures) == {"answered", "accuracy", "calibration_error"}
    assert figures["accuracy"] == wilson(2, 4)
    assert figures["answered"] == wilson(3, 4)
    assert figures["calibration_error"].value == pytest.approx((0.1 + 0.8 + 0.3) / 4)
    macro = measure(task(scorer="macro_f1"), found, given)
    # good: 1 of 1 claimed, 2 held; bad: 1 of 2 claimed, 2 held.
    assert macro["macro_f1"].value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert macro["macro_f1"].low < macro["macro_f1"].value < macro["macro_f1"].high


def test_texts_are_measured() -> None:
    free = task(output={}, demonstrations=[])
    given = texts(("a", "The cat"), ("b", "1,200"), ("c", "x y"))
    found = answers("cat.", "It is 1200.0", None)
    assert measure(free, found, given)["exact"] == wilson(1, 3)
    assert measure(free.model_copy(update={"scorer": "number"}), found, given)["number"] == wilson(1, 3)
    squad = measure(free.model_copy(update={"scorer": "squad"}), answers("cat sat", "1200", "y"), given)
    assert squad["squad_f1"].value == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    rouge = measure(free.model_copy(update={"scorer": "rouge_l"}), answers("the dog", None, "y x"), given)
    assert rouge["rouge_l"].value == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)


def test_json_is_measured() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    records = task(output={"json_schema": schema}, demonstrations=[])
    given = texts(("x", '{"a": 1, "b": 2}'), ("y", '{"b": 2, "a": 1}'), ("z", '{"a": 1}'))
    figures = measure(records, answers('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', None), given)
    assert figures["valid"] == wilson(2, 3)
    assert figures["exact"] == wilson(1, 3)
    assert figures["fields"].value == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_the_direct_answer_is_always_told_beside_reasoning() -> None:
    given = texts(("a", "good"), ("b", "bad"))
    found = Answers(answers("good", "bad").predictions, 0, answers("good", "good"))
    figures = measure(task(), found, given)
    assert figures["accuracy"] == wilson(2, 2)
    assert figures["direct/accuracy"] == wilson(1, 2)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="1 answers cannot be compared with 2 examples"):
        measure(task(), answers("good"), texts(("a", "good"), ("b", "bad")))
    with pytest.raises(UserError, match=r"texts\.jsonl:1: it is not known what is right"):
        measure(task(), answers("good"), texts(("a", "")))
