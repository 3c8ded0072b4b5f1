"""Runs of words that texts have in common with a collection of short texts, such as the questions of a test.

Words are those that near-duplicates are compared by (`minhash`): in lower case, without accents and punctuation,
numbers alike. A short text of at least `width` words is known by all its runs of `width` words; one of fewer, but at
least eight, by itself. A run in which fewer than half of the words differ, such as a table of numbers, is nobody's.
All runs are hashed into one sorted array. Whether one may begin at a word is told by the hash of eight words and a
table of bits, so of most texts nothing is ever searched for.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from underlay.kernels.characters import folds, kinds
from underlay.kernels.hashes import base_power, hash_gram, mix, roll
from underlay.kernels.minhash import folded_words
from underlay.kernels.words import decode

LEAST = 8
"""Shorter runs stand in anybody's prose."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
_ONE, _LOW, _HALF = np.uint64(1), np.uint64(7), np.uint64(32)


@dataclass(frozen=True)
class Known:
    """The runs of words of m short texts, r different ones."""

    widths: NDArray[np.int64]
    """How many words runs have, in order."""
    runs: NDArray[np.uint64]
    """(r,) hashes, in order."""
    edges: NDArray[np.int64]
    """(r + 1,) where in `owners` those of each run begin."""
    owners: NDArray[np.int32]
    """The short texts that each run stands in."""
    sizes: NDArray[np.int64]
    """(m,) how many different runs each short text has; 0: it cannot be told from any other text."""
    begins: NDArray[np.uint8]
    """Some 32 bits for each run, of which two are set by the hash of the eight words that it begins with."""


@dataclass(frozen=True)
class Overlap:
    """What n texts have in common with short texts."""

    runs: NDArray[np.int64]
    """(n,) how many words of a text a run begins at."""
    share: NDArray[np.float64]
    """(n,) of the short text that is there most completely, the share of its runs that are there."""
    nearest: NDArray[np.int64]
    """(n,) which short text that is; -1: none."""


def known(text: NDArray[np.uint8], offsets: NDArray[np.int64], width: int = 13) -> Known:
    """Index the short texts text[offsets[i]:offsets[i + 1]], valid UTF-8, by runs of `width` >= 8 words."""
    most = len(text) + len(offsets)
    values, owners = np.empty(most, dtype=np.uint64), np.empty(most, dtype=np.int32)
    first = np.empty(most, dtype=np.uint64)
    used = np.zeros(width + 1, dtype=np.int64)
    count = _runs(text, offsets, (kinds(), folds()), _scratch(offsets), width, values, owners, first, used)
    order = np.lexsort((owners[:count], values[:count]))
    values, owners = values[order], owners[order]
    new = np.ones(count, dtype=np.bool_)
    new[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
    values, owners = values[new], owners[new]
    runs, starts = np.unique(values, return_index=True)
    bits = max(1 << 16, 1 << (32 * count).bit_length())
    begins = np.zeros(bits // 8, dtype=np.uint8)
    _set(first[:count], begins)
    return Known(
        np.flatnonzero(used),
        runs,
        np.append(starts, len(values)),
        owners,
        np.bincount(owners, minlength=len(offsets) - 1),
        begins,
    )


def overlap(text: NDArray[np.uint8], offsets: NDArray[np.int64], with_: Known) -> Overlap:
    """Look for runs of known short texts in the texts text[offsets[i]:offsets[i + 1]], valid UTF-8."""
    n = len(offsets) - 1
    found = Overlap(np.zeros(n, dtype=np.int64), np.zeros(n), np.full(n, -1))
    marks = (
        np.full(len(with_.runs), -1, dtype=np.int32),
        np.full(len(with_.sizes), -1, dtype=np.int32),
        np.zeros(len(with_.sizes), dtype=np.int64),
    )
    tables = (kinds(), folds())
    _overlap(text, offsets, tables, _scratch(offsets), tuple(vars(with_).values()), marks, *vars(found).values())
    return found


def _scratch(offsets: NDArray[np.int64]) -> Any:
    """Room for the longest text: code points, hashes of words and of the words up to each."""
    size = int(np.diff(offsets).max(initial=0)) + 2
    return np.empty(size, dtype=np.uint32), np.empty(size, dtype=np.uint64), np.empty(size, dtype=np.uint64)


@numba.njit(cache=True, nogil=True)
def _runs(
    text: Any,
    offsets: Any,
    tables: Any,
    scratch: Any,
    width: int,
    values: Any,
    owners: Any,
    first: Any,
    used: Any,
) -> int:
    """Write every run, the short text it stands in, and the hash of its first words; returns how many there are."""
    points, hashes, rolled = scratch
    count = 0
    eighth = base_power(LEAST)
    for i in range(len(offsets) - 1):
        size = decode(text, offsets[i], offsets[i + 1], points)
        n = folded_words(points, size, tables[0], tables[1], hashes)
        if n < LEAST:
            continue
        words = min(n, width)
        used[words] = 1
        power = base_power(words)
        roll(hashes, n, rolled)
        for w in range(n - words + 1):
            if not _telling(hashes, w, words):
                continue
            values[count], owners[count] = _run(rolled, w, words, power), i
            first[count] = mix(hash_gram(rolled, w, LEAST, eighth))
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _telling(hashes: Any, first: int, words: int) -> bool:
    """Whether at least half of the words of a run differ."""
    different = 0
    for i in range(first, first + words):
        before = first
        while hashes[before] != hashes[i]:
            before += 1
        different += before == i
    return 2 * different >= words


@numba.njit(cache=True, nogil=True, inline="always")
def _run(rolled: Any, first: int, words: int, power: Any) -> Any:
    """The hash of a run; runs of different length have different ones."""
    return mix(hash_gram(rolled, first, words, power) + _BASE * np.uint64(words))


@numba.njit(cache=True, nogil=True)
def _set(values: Any, bits: Any) -> None:
    mask = np.uint64(8 * len(bits) - 1)
    for value in values:
        for bit in (value & mask, value >> _HALF & mask):
            bits[np.int64(bit >> np.uint64(3))] |= np.uint8(_ONE << (bit & _LOW))


@numba.njit(cache=True, nogil=True)
def _is_set(bit: Any, bits: Any) -> Any:
    return (bits[np.int64(bit >> np.uint64(3))] >> np.uint8(bit & _LOW)) & 1


@numba.njit(cache=True, nogil=True)
def _overlap(
    text: Any,
    offsets: Any,
    tables: Any,
    scratch: Any,
    with_: Any,
    marks: Any,
    of_runs: Any,
    of_share: Any,
    of_nearest: Any,
) -> None:
    points, hashes, rolled = scratch
    widths, runs, edges, owners, sizes, begins = with_
    powers = np.empty(len(widths), dtype=np.uint64)
    for k in range(len(widths)):
        powers[k] = base_power(widths[k])
    eighth = base_power(LEAST)
    seen, touched, counts = marks  # a text's number where a run was seen in it, a short text touched
    mask = np.uint64(8 * len(begins) - 1)
    for i in range(len(offsets) - 1):
        size = decode(text, offsets[i], offsets[i + 1], points)
        n = folded_words(points, size, tables[0], tables[1], hashes)
        roll(hashes, n, rolled)
        for w in range(n - LEAST + 1):
            value = mix(hash_gram(rolled, w, LEAST, eighth))
            if not _is_set(value & mask, begins) or not _is_set(value >> _HALF & mask, begins):
                continue
            hit = False
            for which in range(len(widths)):
                if w + widths[which] > n:
                    break
                wanted = _run(rolled, w, widths[which], powers[which])
                run = np.searchsorted(runs, wanted)
                if run == len(runs) or runs[run] != wanted:
                    continue
                hit = True
                if seen[run] == i:
                    continue
                seen[run] = i
                for k in range(edges[run], edges[run + 1]):
                    owner = owners[k]
                    if touched[owner] != i:
                        touched[owner], counts[owner] = i, 0
                    counts[owner] += 1
                    share = counts[owner] / sizes[owner]
                    if share > of_share[i]:
                        of_share[i], of_nearest[i] = share, owner
            of_runs[i] += hit
