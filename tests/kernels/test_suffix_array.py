"""The suffix array against sorting, and matches against looking at every place."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.errors import UserError
from underlay.kernels.suffix import find, longest_matches, suffix_array, suffix_array_reference

OFTEN = settings(deadline=None, max_examples=200)
WIDTHS = (np.uint16, np.uint32)


@st.composite
def texts(draw: st.DrawFn, longest: int = 80) -> np.ndarray:
    """Token sequences over few values, often periodic: where suffixes share long beginnings."""
    values = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, 65_534, 65_535]), min_size=1, max_size=4, unique=True))
    text = draw(st.lists(st.sampled_from(values), max_size=longest))
    repeats = draw(st.integers(1, 4))
    return np.array(text * repeats, dtype=draw(st.sampled_from(WIDTHS)))


@OFTEN
@given(texts())
def test_suffix_array_equals_its_plain_twin(text):
    order = suffix_array(text)
    assert order.dtype == np.uint32
    np.testing.assert_array_equal(order, suffix_array_reference(text))


FAMILIES = {
    "empty": [],
    "single": [5],
    "all equal": [65_535] * 500,
    "ascending": list(range(300)),
    "descending": list(range(300, 0, -1)),
    "period 2": [1, 0] * 200,
    "period 3": [2, 0, 1] * 150 + [2],
    "greatest values": [65_535, 65_534, 65_535, 0, 65_535, 65_535],
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("text", FAMILIES.values(), ids=FAMILIES.keys())
def test_extreme_texts(text, width):
    tokens = np.array(text, dtype=width)
    np.testing.assert_array_equal(suffix_array(tokens), suffix_array_reference(tokens))


def test_deep_recursion_on_a_fibonacci_word():
    one, other = [1], [1, 0]
    while len(other) < 3000:
        one, other = other, other + one
    tokens = np.array(other, dtype=np.uint16)
    np.testing.assert_array_equal(suffix_array(tokens), suffix_array_reference(tokens))


def test_sparse_values_of_32_bits_cost_no_table_of_their_size():
    tokens = np.array([2**32 - 1, 7, 2**31, 2**32 - 1, 7, 0], dtype=np.uint32)
    np.testing.assert_array_equal(suffix_array(tokens), suffix_array_reference(tokens))


def test_a_long_natural_text_is_in_order():
    rng = np.random.default_rng(0)
    phrases = [rng.zipf(1.5, size=rng.integers(3, 40)) % 5000 for _ in range(300)]
    tokens = np.concatenate([phrases[i] for i in rng.integers(0, 300, 10_000)]).astype(np.uint16)
    order = suffix_array(tokens).astype(np.int64)
    assert np.array_equal(np.sort(order), np.arange(len(tokens)))
    # Neighbours are in order if their first tokens are, or tie and the suffixes one further on are in order.
    rank = np.full(len(tokens) + 1, -1)
    rank[order] = np.arange(len(tokens))
    one, other = order[:-1], order[1:]
    tie = tokens[one] == tokens[other]
    assert np.all((tokens[one] < tokens[other]) | (tie & (rank[one + 1] < rank[other + 1])))


def test_progress_ends_at_the_number_of_tokens():
    heard = []
    suffix_array(np.array([1, 0] * 50, dtype=np.uint16), lambda done, total: heard.append((done, total)))
    assert heard[-1] == (100, 100)
    assert heard == sorted(heard)


@pytest.mark.parametrize("tokens", [np.zeros((2, 2), np.uint16), np.zeros(3, np.int64)])
def test_what_is_no_token_sequence_is_refused(tokens):
    with pytest.raises(UserError, match="flat uint16 or uint32"):
        suffix_array(tokens)


def places(text: list[int], phrase: list[int]) -> list[int]:
    """Every position of `text` at which `phrase` stands, by looking."""
    return [i for i in range(len(text)) if text[i : i + len(phrase)] == phrase]


@OFTEN
@given(texts(longest=40), st.data())
def test_longest_matches_equal_looking_everywhere(text, data):
    values = sorted({*text.tolist(), 1, -1})
    query = data.draw(st.lists(st.sampled_from(values), max_size=15))
    if len(text) and data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(text) - 1))
        query = query[:3] + text[start : start + 12].tolist() + query[3:]
    order = suffix_array(text)
    lengths, first, last = longest_matches(text, order, query)
    plain = text.tolist()
    for i, length in enumerate(lengths):
        phrase = query[i : i + length]
        assert sorted(order[first[i] : last[i]].tolist()) == places(plain, phrase)
        if i + length < len(query):
            assert not places(plain, query[i : i + length + 1])
    for a, b in itertools.pairwise(lengths):
        assert b >= a - 1


@OFTEN
@given(texts(longest=40), st.data())
def test_find_gives_every_occurrence_and_nothing_else(text, data):
    plain = text.tolist()
    start = data.draw(st.integers(0, len(plain)))
    pattern = plain[start : start + data.draw(st.integers(0, 12))] + data.draw(st.lists(st.integers(0, 3), max_size=1))
    order = suffix_array(text)
    first, last = find(text, order, pattern)
    assert sorted(order[first:last].tolist()) == places(plain, pattern)


def test_values_beyond_the_tokens_width_do_not_wrap():
    text = np.array([0, 1, 2], dtype=np.uint16)
    order = suffix_array(text)
    assert find(text, order, [65_536]) == (0, 0)
    assert longest_matches(text, order, [65_537, -65_535]).lengths.tolist() == [0, 0]


def test_mapped_files_answer_like_arrays(tmp_path: Path):
    text = np.random.default_rng(1).integers(0, 50, 2000).astype(np.uint16)
    order = suffix_array(text)
    np.save(tmp_path / "text.npy", text)
    np.save(tmp_path / "order.npy", order)
    mapped = np.load(tmp_path / "text.npy", mmap_mode="r"), np.load(tmp_path / "order.npy", mmap_mode="r")
    query = np.concatenate([text[500:530], text[3:9]])
    for one, other in zip(longest_matches(text, order, query), longest_matches(*mapped, query), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_suffix_array_of_another_text_is_refused():
    text = np.array([0, 1, 2], dtype=np.uint16)
    with pytest.raises(UserError, match="2 suffixes do not belong to 3 tokens"):
        find(text, suffix_array(text[:2]), [1])


def test_damaged_suffixes_give_wrong_answers_but_read_nothing_outside():
    text = np.arange(1000, dtype=np.uint16)
    damaged = np.full(1000, 2**32 - 1, dtype=np.uint32)
    found = longest_matches(text, damaged, text[:50])
    assert found.lengths.tolist() == [0] * 50
    assert find(text, damaged, [5]) == (0, 0)
