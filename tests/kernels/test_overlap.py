"""Runs of words in common with short texts against sets of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from underlay.kernels.overlap import LEAST, known, overlap


def batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    data = [text.encode() for text in texts]
    return np.frombuffer(b"".join(data), dtype=np.uint8), np.cumsum([0, *map(len, data)])


def runs(words: list[str], width: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + width]) for i in range(len(words) - width + 1)]


def plain(documents: list[str], items: list[str], width: int) -> list[tuple[int, float]]:
    """At how many words a run of an item begins, and the largest share of an item's runs."""
    wanted = []
    for item in items:
        words = item.split()
        found = runs(words, min(width, len(words))) if len(words) >= LEAST else []
        wanted.append({run for run in found if 2 * len(set(run)) >= len(run)})
    found_in = []
    for document in documents:
        words = document.split()
        there = [
            {run for size in range(LEAST, width + 1) for run in runs(words[i : i + size], size)}
            for i in range(len(words))
        ]
        every = set().union(*wanted)
        hits = sum(bool(at & every) for at in there)
        everything = set().union(*there) if there else set()
        shares = [len(item & everything) / len(item) for item in wanted if item]
        found_in.append((hits, max(shares, default=0.0)))
    return found_in


# Stretches of one sequence, so that texts have runs in common; parts of it repeat, and so do not tell.
SEQUENCE = "abcdefghijklmabcdabcdabcdefaaaaabbbbbcccccdddddeeeee"
PARTS = st.tuples(st.integers(0, len(SEQUENCE) - 4), st.integers(1, 24)).map(lambda at: SEQUENCE[at[0] : sum(at)])
TEXTS = st.lists(st.lists(PARTS, max_size=3).map(lambda parts: " ".join("".join(parts))), min_size=1, max_size=5)


@given(TEXTS, TEXTS, st.integers(LEAST, 14))
def test_overlap_equals_sets_of_runs(documents, items, width):
    found = overlap(*batch(documents), known(*batch(items), width))
    expected = plain(documents, items, width)
    assert found.runs.tolist() == [hits for hits, _ in expected]
    np.testing.assert_allclose(found.share, [share for _, share in expected])


@given(TEXTS, TEXTS)
def test_the_nearest_item_is_one_with_that_share(documents, items):
    index = known(*batch(items))
    found = overlap(*batch(documents), index)
    for number, document in enumerate(documents):
        nearest = int(found.nearest[number])
        assert (nearest == -1) == (found.share[number] == 0)
        if nearest >= 0:
            ((_, share),) = plain([document], [items[nearest]], 13)
            assert share == found.share[number]


def test_case_punctuation_and_numbers_do_not_matter():
    item = "If Jane has 12 apples, and buys 1,000 more: how many has she got?"
    document = "Once: «if jane has 7 apples and buys 2.5 more, how many has she got» they asked."
    found = overlap(*batch([document]), known(*batch([item])))
    assert found.share.tolist() == [1.0]


def test_tables_of_numbers_are_nobodys():
    index = known(
        *batch(["1 2 3 4 5 6 7 8 9 10 11 12 13 14", "the sum of 1 2 3 4 5 is said to be more than forty or so", ""])
    )
    assert index.sizes.tolist()[0] == 0
    assert index.sizes.tolist()[1] > 0
    found = overlap(*batch([" ".join(map(str, range(100)))]), index)
    assert found.runs.tolist() == [0]


def test_short_items_are_not_looked_for_and_counted_as_such():
    index = known(*batch(["one two three four five six seven", "a b c d e f g h", ""]))
    assert index.sizes.tolist() == [0, 1, 0]
    found = overlap(*batch(["one two three four five six seven", "x a b c d e f g h y", ""]), index)
    assert found.runs.tolist() == [0, 1, 0]
