"""Numbers for words, and sets of them: what compiled loops compare texts by instead of strings.

Two different runs of words in one text are taken for the same with a chance of less than one in 10^9 for texts of
100,000 words: there are 64 bits.
"""

from typing import Any

import numba
import numpy as np

_FNV, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX1, _MIX2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_S33, _S29 = np.uint64(33), np.uint64(29)
_BASE = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(cache=True, nogil=True, inline="always")
def mix(value: Any) -> Any:
    """Spread a number over all 64 bits (the finalizer of MurmurHash3)."""
    value ^= value >> _S33
    value *= _MIX1
    value ^= value >> _S33
    value *= _MIX2
    return value ^ (value >> _S33)


@numba.njit(cache=True, nogil=True)
def hash_points(points: Any, start: int, end: int) -> Any:
    """A 64-bit hash of points[start:end] (FNV-1a over code points, then mixed)."""
    value = _FNV
    for i in range(start, end):
        value = (value ^ np.uint64(points[i])) * _PRIME
    return mix(value)


@numba.njit(cache=True, nogil=True)
def roll(hashes: Any, n: int, rolled: Any) -> None:
    """Fill rolled[:n + 1] for `hash_gram`: the hash of the first i of n words is rolled[i] (Karp and Rabin, 1987)."""
    value = np.uint64(0)
    rolled[0] = value
    for i in range(n):
        value = value * _BASE + hashes[i]
        rolled[i + 1] = value


@numba.njit(cache=True, nogil=True, inline="always")
def hash_gram(rolled: Any, first: int, count: int, power: Any) -> Any:
    """The hash of `count` words in this order, from what `roll` found; `power`: base_power(count)."""
    value = rolled[first + count] - rolled[first] * power
    return value ^ (value >> _S29)


@numba.njit(cache=True, nogil=True)
def base_power(count: int) -> Any:
    """The base of `roll`, to the power of `count`, modulo 2^64."""
    value = np.uint64(1)
    for _ in range(count):
        value *= _BASE
    return value


@numba.njit(cache=True, nogil=True)
def slots(count: int) -> int:
    """The size of a table for `count` values: the power of two that leaves at least half of it empty."""
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@numba.njit(cache=True, nogil=True, inline="always")
def find(value: Any, keys: Any, marks: Any, mark: int, mask: int) -> Any:
    """The slot of `value`, or the empty one it belongs into. What bears another mark is empty: nothing is cleared."""
    slot = np.int64(value & np.uint64(mask))
    while marks[slot] == mark and keys[slot] != value:
        slot = (slot + 1) & mask
    return slot
