"""MinHash signatures: against a plain twin, and against what the theory says of their agreement."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.data.curate.texts import Texts
from underlay.kernels.characters import IDEOGRAPH, folds, kinds
from underlay.kernels.minhash import bands, folded_words, functions, sign
from underlay.kernels.words import decode

COUNT = 1024


def spelt(number: int) -> str:
    """A word of letters: all numbers are compared as one."""
    return str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def signatures(texts: list[str], count: int = 112, shingle: int = 5) -> np.ndarray:
    return Texts(pa.array(texts, pa.large_string())).batch.signatures(functions(count), shingle)


def plain_words(text: str) -> list[str]:
    """The words that texts are compared by."""
    folding, table = folds(), kinds()
    spelt = ""
    for char in text:
        point = int(folding[ord(char)])
        if point:
            spelt += f" {chr(point)} " if table[ord(char)] & IDEOGRAPH else chr(point)
    return re.sub("0+", "0", spelt).split(" ")


def compared(text: str) -> list[str]:
    return [word for word in plain_words(text) if word]


def shingles(text: str, width: int = 5) -> set[tuple[str, ...]]:
    words = compared(text)
    width = min(width, len(words))
    return {tuple(words[i : i + width]) for i in range(len(words) - width + 1)} if words else set()


def hashes(text: str) -> list[int]:
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    points = np.empty(len(data) + 1, dtype=np.uint32)
    found = np.empty(len(data) + 2, dtype=np.uint64)
    size = decode(data, 0, len(data), points)
    return found[: folded_words(points, size, kinds(), folds(), found)].tolist()


TEXT = st.text(st.sampled_from("aAbÉé1٢2 .,-\n中文กx̂"), max_size=40) | st.text(max_size=20)


@given(TEXT, TEXT)
def test_words_are_equal_where_their_hashes_are(one, other):
    left, right = compared(one), compared(other)
    assert len(hashes(one)) == len(left)
    for word, value in zip(left, hashes(one), strict=True):
        for another, its in zip(right, hashes(other), strict=True):
            assert (word == another) == (value == its)


@pytest.mark.parametrize(
    ("one", "other"),
    [("The Café, 1999!", "the cafe 7"), ("a-b", "a b"), ("中文", "中 文"), ("  x\ty\n", "X Y"), ("12.5", "3.75")],
)
def test_what_is_compared_as_equal(one, other):
    assert hashes(one) == hashes(other) != []


@pytest.mark.parametrize(("one", "other"), [("ab", "a b"), ("a1", "a"), ("naive", "native"), ("", "a")])
def test_what_is_compared_as_different(one, other):
    assert hashes(one) != hashes(other)


@given(TEXT, TEXT)
def test_texts_of_the_same_shingles_have_the_same_signature(one, other):
    same = shingles(one) == shingles(other)
    assert np.array_equal(*signatures([one, other])) == same


def test_a_signature_is_the_least_value_of_each_function():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 1 << 64, 50, dtype=np.uint64)
    lanes = functions(16)
    whole, part, other = (np.empty(16, dtype=np.uint32) for _ in range(3))
    room = np.empty(51, dtype=np.uint64)
    sign(words, 50, 3, lanes, room, whole)
    sign(words[:30], 30, 3, lanes, room, part)
    sign(words[28:], 22, 3, lanes, room, other)
    np.testing.assert_array_equal(whole, np.minimum(part, other))


@pytest.mark.parametrize("similar", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_agreement_estimates_jaccard_similarity_without_bias_and_within_its_error(similar):
    rng = np.random.default_rng(int(100 * similar))
    errors, expected = [], []
    for pair in range(60):
        size = int(rng.integers(200, 600))
        shared = round(size * 2 * similar / (1 + similar))
        words = [f"{spelt(pair)} {spelt(i)}".replace(" ", "x") for i in range(2 * size)]
        # Words by themselves are shingles of one word here: so similarities can be had exactly.
        one, other = words[:size], words[size - shared : 2 * size - shared]
        left, right = signatures([" ".join(one), " ".join(other)], COUNT, 1)
        jaccard = len({*one} & {*other}) / len({*one} | {*other})
        errors.append((left == right).mean() - jaccard)
        expected.append(jaccard * (1 - jaccard) / COUNT)
    # The mean of 60 errors, and their mean square, have errors of their own; four of these leave room for chance.
    assert abs(np.mean(errors)) < 4 * np.sqrt(np.mean(expected) / 60)
    assert np.mean(np.square(errors)) == pytest.approx(np.mean(expected), rel=4 * np.sqrt(2 / 60))


@given(st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=2, max_size=6))
def test_bands_are_equal_where_their_rows_are(rows):
    values = np.array(rows, dtype=np.uint32)
    found = bands(values, 2)
    for i in range(len(rows)):
        for k in range(len(rows)):
            for band in range(3):
                same = rows[i][2 * band : 2 * band + 2] == rows[k][2 * band : 2 * band + 2]
                assert (found[i, band] == found[k, band]) == same


def test_texts_without_words_have_no_bands():
    found = bands(signatures(["", "...", " \n", "a"]), 8)
    assert not found[:3].any()
    assert found[3].all()
