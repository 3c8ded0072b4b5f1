"""Runs of words and of characters in texts, as features of a linear classifier.

A feature is a hash of a run, cut to some bits (the hashing trick, arXiv:0902.2206): no vocabulary is kept, and texts of
any language have features. Words are compared as MinHash compares them, in lower case and without accents; so are
characters, with one space between words. A text's features weigh 1 + log(count), and have length 1 together.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from underlay.kernels.characters import folds, kinds
from underlay.kernels.hashes import mix
from underlay.kernels.minhash import folded_words
from underlay.kernels.words import decode

_FNV, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_SPACE = np.uint32(32)
_LOGS = 1 + np.log(np.arange(1, 257))
_FIRSTS = np.uint64(0xFFFF)


class Shape(NamedTuple):
    """Which features there are."""

    bits: int
    """There are 2^bits."""
    words: int
    """Longest run of words; 0: none."""
    shortest: int
    longest: int
    """Runs of characters from `shortest` to `longest`; `longest` 0: none."""
    read: int
    """Bytes of a text that are looked at."""


class Features(NamedTuple):
    """Features of n texts, row by row: those of text i stand at offsets[i]:offsets[i + 1]."""

    offsets: NDArray[np.int64]
    """(n + 1,)"""
    numbers: NDArray[np.int32]
    weights: NDArray[np.float32]


def features(text: NDArray[np.uint8], offsets: NDArray[np.int64], shape: Shape) -> Features:
    """The features of the texts text[offsets[i]:offsets[i + 1]], valid UTF-8."""
    sizes = np.minimum(np.diff(offsets), shape.read)
    room = int(sizes.sum()) * (shape.words + max(0, shape.longest - shape.shortest + 1)) + 1
    found = Features(
        np.zeros(len(offsets), dtype=np.int64), np.empty(room, dtype=np.int32), np.empty(room, dtype=np.float32)
    )
    _features(text, offsets, kinds(), folds(), tuple(shape), _scratch(sizes, shape), *found)
    return Features(found.offsets, found.numbers[: found.offsets[-1]].copy(), found.weights[: found.offsets[-1]].copy())


def scores(
    text: NDArray[np.uint8], offsets: NDArray[np.int64], shape: Shape, weights: NDArray[np.float32], bias: float
) -> NDArray[np.float32]:
    """How much texts are like what `weights`, (2^bits,), were fitted to: (n,) float32 from 0 to 1."""
    sizes = np.minimum(np.diff(offsets), shape.read)
    found = np.empty(len(offsets) - 1, dtype=np.float32)
    _scores(text, offsets, kinds(), folds(), tuple(shape), _scratch(sizes, shape), weights, bias, found)
    return found


def fit(
    found: Features,
    likes: NDArray[np.float32],
    importance: NDArray[np.float32],
    order: NDArray[np.int64],
    bits: int,
    rate: float,
    decay: float,
) -> tuple[NDArray[np.float32], float]:
    """Fit a logistic regression by stochastic gradient descent with AdaGrad's rates (Duchi et al., JMLR 12, 2011).

    likes: (n,), 1 for texts that it should find and 0 for others; importance: (n,), how much each counts; order: the
    rows in which texts are read, any number of times. Returns the weights, (2^bits,), and the bias.
    """
    weights = np.zeros(1 << bits, dtype=np.float32)
    bias = np.zeros(1, dtype=np.float64)
    _fit(*found, likes, importance, order, rate, decay, weights, np.full(1 << bits, 1e-6, dtype=np.float32), bias)
    return weights, float(bias[0])


def _scratch(sizes: NDArray[np.int64], shape: Shape) -> Any:
    longest = int(sizes.max(initial=0)) + 2
    runs = longest * (shape.words + max(0, shape.longest - shape.shortest + 1))
    return (
        np.empty(longest, dtype=np.uint32),
        np.empty(longest, dtype=np.uint32),
        np.empty(longest, dtype=np.uint64),
        np.zeros(1 << shape.bits, dtype=np.int32),
        np.empty(runs, dtype=np.int32),
    )


@numba.njit(cache=True, nogil=True, inline="always")
def hash_run(hashes: Any, first: int, count: int) -> Any:
    """The hash of a short run of words, from their hashes."""
    value = hashes[first]
    for k in range(1, count):
        value = value * _BASE + hashes[first + k]
    return value


@numba.njit(cache=True, nogil=True, inline="always")
def _weight(count: Any) -> Any:
    return _LOGS[count - 1] if count <= 256 else 1 + np.log(count)


@numba.njit(cache=True, nogil=True)
def _whole(text: Any, start: int, end: int, read: int) -> int:
    """Where a text ends of which at most `read` bytes are looked at, and no character is cut."""
    if end - start <= read:
        return end
    end = start + read
    while end > start and text[end] & 0xC0 == 0x80:
        end -= 1
    return end


@numba.njit(cache=True, nogil=True)
def _note(value: Any, bits: int, counts: Any, touched: Any, n: int) -> int:
    number = np.int64(mix(value) >> np.uint64(64 - bits))
    if counts[number] == 0:
        touched[n] = number
        n += 1
    counts[number] += 1
    return n


@numba.njit(cache=True, nogil=True)
def _collect(text: Any, start: int, end: int, table: Any, folding: Any, shape: Any, scratch: Any) -> int:
    """Count the runs of one text; returns how many features it has. `counts` and `touched` hold them."""
    bits, words, shortest, longest, read = shape
    points, folded, hashes, counts, touched = scratch
    size = decode(text, start, _whole(text, start, end, read), points)
    n = 0
    if words:
        known = folded_words(points, size, table, folding, hashes)
        for count in range(1, words + 1):
            for first in range(known - count + 1):
                n = _note(hash_run(hashes, first, count) + np.uint64(count), bits, counts, touched, n)
    if longest:
        length = 0
        for i in range(size):
            point = folding[points[i]]
            if point and (point != _SPACE or (length and folded[length - 1] != _SPACE)):
                folded[length] = point
                length += 1
        for first in range(length):
            value = _FNV
            for last in range(first, min(length, first + longest)):
                value = (value ^ np.uint64(folded[last])) * _PRIME
                if last - first + 1 >= shortest:
                    n = _note(value, bits, counts, touched, n)
    return n


@numba.njit(cache=True, nogil=True)
def _features(
    text: Any, offsets: Any, table: Any, folding: Any, shape: Any, scratch: Any, places: Any, numbers: Any, weights: Any
) -> None:
    counts, touched = scratch[3], scratch[4]
    at = 0
    for i in range(len(offsets) - 1):
        n = _collect(text, offsets[i], offsets[i + 1], table, folding, shape, scratch)
        total = 0.0
        for k in range(n):
            total += _weight(counts[touched[k]]) ** 2
        for k in range(n):
            numbers[at + k] = touched[k]
            weights[at + k] = _weight(counts[touched[k]]) / np.sqrt(total)
            counts[touched[k]] = 0
        at += n
        places[i + 1] = at


@numba.njit(cache=True, nogil=True)
def _scores(
    text: Any, offsets: Any, table: Any, folding: Any, shape: Any, scratch: Any, weights: Any, bias: float, found: Any
) -> None:
    counts, touched = scratch[3], scratch[4]
    for i in range(len(offsets) - 1):
        n = _collect(text, offsets[i], offsets[i + 1], table, folding, shape, scratch)
        total = product = 0.0
        for k in range(n):
            weight = _weight(counts[touched[k]])
            total += weight**2
            product += weight * weights[touched[k]]
            counts[touched[k]] = 0
        found[i] = 1 / (1 + np.exp(-bias - (product / np.sqrt(total) if n else 0.0)))


@numba.njit(cache=True, nogil=True)
def _fit(
    places: Any,
    numbers: Any,
    values: Any,
    likes: Any,
    importance: Any,
    order: Any,
    rate: float,
    decay: float,
    weights: Any,
    squares: Any,
    bias: Any,
) -> None:
    bias_square = 1e-6
    for row in order:
        product = bias[0]
        for k in range(places[row], places[row + 1]):
            product += weights[numbers[k]] * values[k]
        error = (1 / (1 + np.exp(-product)) - likes[row]) * importance[row]
        for k in range(places[row], places[row + 1]):
            slope = error * values[k] + decay * weights[numbers[k]]
            squares[numbers[k]] += slope * slope
            weights[numbers[k]] -= rate * slope / np.sqrt(squares[numbers[k]])
        bias_square += error * error
        bias[0] -= rate * error / np.sqrt(bias_square)


class Phrases(NamedTuple):
    """Words and phrases to look for."""

    hashes: NDArray[np.uint64]
    """(m,): in order."""
    firsts: NDArray[np.bool_]
    """(65536,): whether a phrase may begin with a word, by the last bits of the word's hash."""
    longest: int
    """How many words the longest one has."""


def phrases(lines: list[str]) -> Phrases:
    """Words and phrases, one a line, compared as above; lines without a word are passed over."""
    found, longest = set(), 0
    firsts = np.zeros(int(_FIRSTS) + 1, dtype=np.bool_)
    for line in lines:
        points = np.array([ord(char) for char in line], dtype=np.uint32)
        hashes = np.empty(len(points) + 1, dtype=np.uint64)
        count = folded_words(points, len(points), kinds(), folds(), hashes)
        if count:
            found.add(int(hash_run(hashes, 0, count)))
            firsts[int(hashes[0] & _FIRSTS)] = True
            longest = max(longest, count)
    return Phrases(np.array(sorted(found), dtype=np.uint64), firsts, longest)


def count_phrases(text: NDArray[np.uint8], offsets: NDArray[np.int64], wanted: Phrases) -> NDArray[np.int32]:
    """How often phrases stand in texts, the longest at each place: (n,) int32."""
    found = np.zeros(len(offsets) - 1, dtype=np.int32)
    size = int(np.diff(offsets).max(initial=0)) + 2
    scratch = np.empty(size, dtype=np.uint32), np.empty(size, dtype=np.uint64)
    _count_phrases(text, offsets, kinds(), folds(), tuple(wanted), scratch, found)
    return found


@numba.njit(cache=True, nogil=True)
def _count_phrases(text: Any, offsets: Any, table: Any, folding: Any, wanted: Any, scratch: Any, found: Any) -> None:
    sought, firsts, longest = wanted
    points, hashes = scratch
    for i in range(len(offsets) - 1):
        size = decode(text, offsets[i], offsets[i + 1], points)
        known = folded_words(points, size, table, folding, hashes)
        first = 0
        while first < known:
            step = 1
            if firsts[np.int64(hashes[first] & _FIRSTS)]:
                for count in range(min(longest, known - first), 0, -1):
                    value = hash_run(hashes, first, count)
                    place = np.searchsorted(sought, value)
                    if place < len(sought) and sought[place] == value:
                        found[i] += 1
                        step = count
                        break
            first += step
