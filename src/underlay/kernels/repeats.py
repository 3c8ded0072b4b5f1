"""Runs of words that stand in texts more than once, word for word ("Deduplicating training data makes language models
better", Lee et al., arXiv:2107.06499).

A word is what stands between white space; in scripts written without spaces each character is one. White space itself
does not count, so the same words in lines of another length are the same run. And a run can only begin and end between
words, never within a character.

Whether a run of L words stands twice is told by a suffix array. That takes some 16 bytes a word, so it is made only of
what may be repeated at all. `landmarks` finds that: of every L words at least one run of L / 2 is chosen, always the
same one in the same L words ("Winnowing", Schleimer, Wilkerson and Aiken, 2003). Where a chosen one stands nowhere
else, no run of L words around it does; so a fourteenth of all short runs is remembered, 8 bytes each, and the result
is exact.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from underlay.kernels.characters import IDEOGRAPH, SPACE, folds, kinds
from underlay.kernels.hashes import mix
from underlay.kernels.suffix import suffix_array

_FNV, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_BASE = np.uint64(0x9E3779B97F4A7C15)


class Words(NamedTuple):
    """The words of n texts, w in all."""

    starts: NDArray[np.int64]
    """(w,) the byte of the batch at which each begins."""
    hashes: NDArray[np.uint64]
    """(w,) 64 bits of each; two words of a million have the same ones with a chance of 3 in 10^8."""
    edges: NDArray[np.int64]
    """(n + 1,) the first word of each text, and behind the last one how many there are."""


def words(text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Words:
    """Find the words of the texts text[offsets[i]:offsets[i + 1]], valid UTF-8."""
    most = len(text) // 2 + len(offsets)
    starts, hashes = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.uint64)
    edges = np.zeros(len(offsets), dtype=np.int64)
    count = _words(text, offsets, kinds(), folds(), starts, hashes, edges)
    return Words(starts[:count], hashes[:count], edges)


def landmarks(found: Words, length: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Choose short runs so that equal runs of `length` words, at least 2, have one in common at the same place.

    Returns the word at which each begins and its hash, (m,) each, in order.
    """
    starts, values = np.empty(len(found.hashes), dtype=np.int64), np.empty(len(found.hashes), dtype=np.uint64)
    count = _landmarks(found.hashes, found.edges, length, starts, values)
    return starts[:count].copy(), values[:count].copy()


def around(found: Words, starts: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Which words stand in a run of `length` that has a landmark in common with these, begun at `starts`: (w,) bool."""
    wanted = np.zeros(len(found.hashes), dtype=np.bool_)
    _around(found.edges, starts, length, wanted)
    return wanted


def copied(tokens: NDArray[np.uint32], length: int) -> NDArray[np.bool_]:
    """Which tokens stand in a run of `length` that stands further to the front too: (n,) bool.

    tokens: (n,), a number for each word; what no run may contain has a number of its own. For each token that is marked
    there is an equal one further to the front that is not, with the same ones around it.
    """
    marked = np.zeros(len(tokens), dtype=np.bool_)
    _copied(tokens, suffix_array(tokens), length, marked)
    _spread(marked, length)
    return marked


@numba.njit(cache=True, nogil=True)
def _words(text: Any, offsets: Any, table: Any, folding: Any, starts: Any, hashes: Any, edges: Any) -> int:
    n = 0
    value = _FNV
    for t in range(len(offsets) - 1):
        i, end = offsets[t], offsets[t + 1]
        inside = single = False
        while i < end:
            point, width = _point(text, i)
            space = (table[point] & SPACE) != 0
            alone = (table[point] & IDEOGRAPH) != 0
            if inside and folding[point] != 0 and (space or alone or single):  # an accent goes with what it is on
                hashes[n] = mix(value)
                n += 1
                inside = False
            if not space:
                if not inside:
                    starts[n] = i
                    value, inside, single = _FNV, True, alone
                value = (value ^ np.uint64(point)) * _PRIME
            i += width
        if inside:
            hashes[n] = mix(value)
            n += 1
        edges[t + 1] = n
    return n


@numba.njit(cache=True, nogil=True)
def _point(text: Any, i: int) -> Any:
    """The code point that begins at text[i], and its bytes."""
    byte = np.uint32(text[i])
    if byte < 0x80:
        return byte, 1
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | np.uint32(text[i + 1]) & 0x3F, 2
    two = (np.uint32(text[i + 1]) & 0x3F) << 6 | np.uint32(text[i + 2]) & 0x3F
    if byte < 0xF0:
        return (byte & 0xF) << 12 | two, 3
    return (byte & 7) << 18 | two << 6 | np.uint32(text[i + 3]) & 0x3F, 4


@numba.njit(cache=True, nogil=True)
def _landmarks(hashes: Any, edges: Any, length: int, starts: Any, values: Any) -> int:
    """Of every `length` words the run of half of them with the least hash, of equal ones the last."""
    width = length // 2
    window = length - width + 1
    power = np.uint64(1)
    for _ in range(width - 1):
        power *= _BASE
    ring = np.empty(window, dtype=np.uint64)  # the hashes of the last runs, by their places modulo its size
    n = 0
    for t in range(len(edges) - 1):
        first, count = edges[t], edges[t + 1] - edges[t]
        if count < length:
            continue
        value = np.uint64(0)
        for k in range(width):
            value = value * _BASE + hashes[first + k]
        least = 0
        for run in range(count - width + 1):
            if run:
                value = (value - hashes[first + run - 1] * power) * _BASE + hashes[first + run + width - 1]
            one = mix(value)
            ring[run % window] = one
            if least <= run - window:
                least = run - window + 1
                for other in range(least + 1, run + 1):
                    if ring[other % window] <= ring[least % window]:
                        least = other
            elif one <= ring[least % window]:
                least = run
            if run >= window - 1 and (n == 0 or starts[n - 1] != first + least):
                starts[n], values[n] = first + least, ring[least % window]
                n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _around(edges: Any, starts: Any, length: int, wanted: Any) -> None:
    reach = length - length // 2
    text = done = 0
    for start in starts:
        while edges[text + 1] <= start:
            text += 1
        last = min(edges[text + 1], start + length)
        for word in range(max(done, edges[text], start - reach), last):
            wanted[word] = True
        done = last


@numba.njit(cache=True, nogil=True)
def _copied(tokens: Any, suffixes: Any, length: int, marked: Any) -> None:
    """Mark where a run begins that stands further to the front too: suffixes that begin alike are neighbours."""
    n = len(tokens)
    i = 0
    while i < n:
        end = i + 1
        least = suffixes[i]
        while end < n and _alike(tokens, suffixes[end - 1], suffixes[end], length):
            least = min(least, suffixes[end])
            end += 1
        for k in range(i, end):
            if suffixes[k] != least:
                marked[suffixes[k]] = True
        i = end


@numba.njit(cache=True, nogil=True)
def _alike(tokens: Any, one: int, other: int, length: int) -> bool:
    if max(one, other) + length > len(tokens):
        return False
    k = 0
    while k < length and tokens[one + k] == tokens[other + k]:
        k += 1
    return k == length


@numba.njit(cache=True, nogil=True)
def _spread(marked: Any, length: int) -> None:
    """Mark the `length` tokens from each marked one on."""
    left = 0
    for i in range(len(marked)):
        if marked[i]:
            left = length
        marked[i] = left > 0
        left -= 1
