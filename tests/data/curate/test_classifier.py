"""A classifier learns from examples, is the same each time, and is refused where it is damaged."""

import json
import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from underlay.data.curate.classifier import CONFIG, WEIGHTS, Classifier, ClassifierConfig, measures, train
from underlay.data.curate.texts import Texts
from underlay.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
SMALL = ClassifierConfig(bits=14)
GOOD = [f"The committee read chapter {n} and found that it explains the matter with care." for n in range(60)]
POOR = [f"BUY cheap watches now!!! offer {n} click here click here best price" for n in range(60)]


def test_it_parts_good_from_poor_also_where_it_has_not_learned() -> None:
    classifier, found = train(GOOD, POOR, SMALL)
    assert found["auc"] == 1.0
    assert found["examples"] == {"like": 60, "unlike": 60, "both": 0, "heldout": 24}
    scores = classifier.score(Texts(pa.array(["The committee explains it with care.", "click here, cheap!", ""])))
    assert scores[0] > 0.5 > scores[1]


def test_the_order_of_examples_and_copies_of_them_change_nothing() -> None:
    one, _ = train(GOOD, POOR, SMALL)
    other, _ = train([*GOOD[::-1], GOOD[0]], POOR[::-1], SMALL)
    assert (one.weights == other.weights).all()
    assert one.bias == other.bias


def test_texts_on_both_sides_are_left_out() -> None:
    _, found = train([*GOOD, "on both sides"], [*POOR, "on both sides"], SMALL)
    assert found["examples"]["both"] == 1
    assert found["examples"]["like"] == 60


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    classifier, _ = train(GOOD, POOR, SMALL)
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path)
    texts = Texts(pa.array([*GOOD, *POOR]))
    assert (again.score(texts) == classifier.score(texts)).all()


@pytest.mark.parametrize("damage", ["missing", "config", "other-size", "cut", "nan"])
def test_damage_is_one_line(tmp_path: Path, damage: str) -> None:
    classifier, _ = train(GOOD, POOR, SMALL)
    if damage == "nan":
        classifier.weights[3] = np.nan
    classifier.save(tmp_path)
    if damage == "missing":
        (tmp_path / WEIGHTS).unlink()
    elif damage == "config":
        (tmp_path / CONFIG).write_text("{")
    elif damage == "other-size":
        (tmp_path / CONFIG).write_text(json.dumps({**SMALL.model_dump(), "bits": 15}))
    elif damage == "cut":
        (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(UserError, match=r"classifier|damaged"):
        Classifier.load(tmp_path)


def test_too_few_examples_are_an_error() -> None:
    with pytest.raises(UserError, match="unlike: 9 texts"):
        train(GOOD, POOR[:9], SMALL)


def test_measures_by_hand() -> None:
    found = measures(np.array([0.9, 0.6, 0.4, 0.4, 0.1], dtype=np.float32), np.array([1, 0, 1, 0, 0], dtype=np.float32))
    assert found["precision"] == found["recall"] == found["f1"] == 0.5
    assert found["auc"] == pytest.approx((3 + 1.5) / 6)


@pytest.mark.skipif(not (SHARED / "onestopenglish").exists(), reason="needs ../shared/data/onestopenglish")
def test_it_tells_simple_from_advanced_news() -> None:
    with lzma.open(SHARED / "onestopenglish" / "onestop.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    sides = [[row["text"] for row in rows if row["level"] == level] for level in ("elementary", "advanced")]
    _, found = train(*sides, ClassifierConfig())
    assert found["auc"] > 0.85
