"""Measures by their definitions: formulas by hand, published examples, and other implementations where they are."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.adapt.heads import measures
from underlay.adapt.heads.measures import Entity, entities
from underlay.errors import UserError

CLASSES = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=30)
NUMBERS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30)
TAG = st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])
PARTS = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(1, 3)), max_size=8)


def test_by_hand() -> None:
    right, found = list("aaab"), list("aabb")
    assert measures.accuracy(right, found) == 3 / 4
    assert measures.macro_f1(right, found) == pytest.approx((4 / 5 + 2 / 3) / 2)
    # true positives 2, true negatives 1, false positives 0, false negatives 1
    assert measures.matthews(right, found) == pytest.approx(2 / (2 * 3 * 1 * 2) ** 0.5)
    assert measures.pearson([1, 2, 3], [1, 2, 5]) == pytest.approx(4 / (2 * 26 / 3) ** 0.5)
    assert measures.spearman([1, 2, 3, 4], [1, 2, 2, 100]) == pytest.approx(4.5 / (5 * 4.5) ** 0.5)


@given(CLASSES)
def test_classes_as_sklearn_has_them(pairs: list[tuple[str, str]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    right, found = map(list, zip(*pairs, strict=True))
    assert measures.accuracy(right, found) == pytest.approx(metrics.accuracy_score(right, found))
    assert measures.macro_f1(right, found) == pytest.approx(metrics.f1_score(right, found, average="macro"))
    assert measures.matthews(right, found) == pytest.approx(metrics.matthews_corrcoef(right, found), abs=1e-12)


@given(NUMBERS)
def test_correlations_as_scipy_has_them(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    one, other = map(list, zip(*pairs, strict=True))
    if len(set(one)) < 2 or len(set(other)) < 2:
        assert measures.pearson(one, other) == measures.spearman(one, other) == 0
        return
    assert measures.pearson(one, other) == pytest.approx(stats.pearsonr(one, other)[0])
    assert measures.spearman(one, other) == pytest.approx(stats.spearmanr(one, other)[0])


def test_several_labels_count_each_by_itself() -> None:
    right, found = [{"a", "b"}, set(), {"b"}], [{"a"}, {"c"}, {"b"}]
    assert measures.macro_f1(right, found) == pytest.approx((1 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-a I-a O", [("a", 1, 3)]),
        ("B-a B-a I-a", [("a", 0, 1), ("a", 1, 3)]),
        ("I-a I-a O I-b", [("a", 0, 2), ("b", 3, 4)]),
        ("B-a I-b", [("a", 0, 1), ("b", 1, 2)]),
        ("I-a B-a", [("a", 0, 1), ("a", 1, 2)]),
        ("B-a", [("a", 0, 1)]),
        ("S-a B-a E-a E-b", [("a", 0, 1), ("a", 1, 3), ("b", 3, 4)]),
        ("B-a I-a E-a I-a", [("a", 0, 3), ("a", 3, 4)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
        ("", []),
    ],
)
def test_entities_as_conlleval_reads_tags(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert list(entities(tags.split())) == [Entity(*one) for one in expected]


@given(PARTS)
def test_entities_come_back_from_their_tags(parts: list[tuple[str | None, int]]) -> None:
    tags: list[str] = []
    expected = []
    for kind, length in parts:
        if kind:
            expected.append(Entity(kind, len(tags), len(tags) + length))
            tags += [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
        else:
            tags += ["O"] * length
    assert list(entities(tags)) == expected


@given(st.lists(TAG, max_size=12))
def test_entities_are_what_chunk_rules_say(tags: list[str]) -> None:
    """The rules of conlleval.pl, written out: an entity starts, or ends, between two neighbouring tags."""

    def split(tag: str) -> Sequence[str]:
        return (tag, "") if tag == "O" else tag.split("-")

    found, start = [], None
    for place, (before, now) in enumerate(zip(["O", *tags], [*tags, "O"], strict=True)):
        (was, kind), (is_, own) = split(before), split(now)
        ends = was in "BI" and (is_ in "BO" or kind != own)
        starts = is_ == "B" or (is_ == "I" and (was == "O" or kind != own))
        if ends and start is not None:
            found.append(Entity(kind, start, place))
            start = None
        if starts:
            start = place
    assert list(entities(tags)) == found


def test_entity_scores() -> None:
    right = [["B-a", "I-a", "O", "B-b"], ["O", "B-a"]]
    found = [["B-a", "O", "O", "B-b"], ["B-a", "B-a"]]
    score = measures.entity_score(right, found)  # 2 of 3 are found, among 4
    assert score == (2 / 4, 2 / 3, pytest.approx(4 / 7))
    assert measures.entity_score([["O"]], [["O"]]) == (0, 0, 0)
    assert measures.entity_score(right, right) == (1, 1, 1)


@pytest.mark.parametrize(
    ("right", "found", "exact", "f1"),
    [
        (["The Eiffel Tower!"], "eiffel  tower", 1, 1),
        (["Denver Broncos", "Broncos"], "the Broncos", 1, 1),
        (["Saint Bernadette Soubirous"], "Bernadette Soubirous", 0, 0.8),
        (["a b c"], "b d", 0, 0.5),
        (["in 1858 1858"], "1858 1858 1858", 0, 2 / 3),
        (["yes"], "", 0, 0),
        ([], "", 1, 1),
        ([], "yes", 0, 0),
        (["U.S."], "us", 1, 1),
    ],
)
def test_answers_as_squad_compares_them(right: list[str], found: str, exact: float, f1: float) -> None:
    assert measures.exact_match(right, found) == exact
    assert measures.answer_f1(right, found) == pytest.approx(f1)


def test_ranks() -> None:
    likeness = np.array([[0.9, 0.1, 0.5], [0.9, 0.9, 0.1], [0.3, 0.2, 0.1]], np.float32)
    places = measures.ranks(likeness, [0, 1, 2])
    assert places.tolist() == [1, 2, 3]  # an equal one does not come behind
    assert measures.recall_at(places, 1) == pytest.approx(1 / 3)
    assert measures.recall_at(places, 2) == pytest.approx(2 / 3)
    assert measures.reciprocal_rank(places) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="1 predictions cannot be compared with 2"):
        measures.accuracy(["a", "b"], ["a"])
    with pytest.raises(UserError, match="0 predictions"):
        measures.macro_f1([], [])
    with pytest.raises(UserError, match="compared"):
        measures.entity_score([["O", "O"]], [["O"]])
