"""MinHash: a short signature of a text, whose agreement with another's estimates how alike the two texts are.

Each of many hash functions keeps its least value over all shingles (runs of five words) of a text. Two texts agree in
one of them with the probability of their shingles' Jaccard similarity (Broder, "On the resemblance and containment of
documents", 1997). Cut into bands, signatures that share a whole band are candidates: with 14 bands of 8, texts that are
0.8 alike meet with probability 0.92, and 0.5 with 0.05 (Leskovec, Rajaraman and Ullman, "Mining of massive datasets",
chapter 3).

Words are compared in lower case, without accents and punctuation, with every number alike; in scripts written without
spaces each character is a word.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from underlay.kernels.characters import IDEOGRAPH
from underlay.kernels.hashes import base_power, hash_gram, mix, roll

_FNV, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_SPACE, _ZERO, _HALF = np.uint32(32), np.uint32(48), np.uint64(32)
_NOTHING = np.uint32(0xFFFFFFFF)


def functions(count: int, seed: int = 1) -> NDArray[np.uint32]:
    """Draw `count` hash functions x -> (a x + b) mod 2^32 with odd a: (2, count) uint32."""
    drawn = np.random.default_rng(seed).integers(0, 1 << 32, (2, count), dtype=np.uint32)
    drawn[0] |= 1
    return drawn


@numba.njit(cache=True, nogil=True)
def folded_words(points: Any, size: int, kinds: Any, folds: Any, hashes: Any) -> int:
    """Write the hashes of the words of points[:size], as they are compared, into `hashes`; returns how many."""
    n = 0
    value, length, zero = _FNV, 0, False
    for i in range(size + 1):
        point = folds[points[i]] if i < size else _SPACE
        if point == 0:
            continue
        alone = i < size and (kinds[points[i]] & IDEOGRAPH) != 0
        if (point == _SPACE or alone) and length:
            hashes[n] = mix(value)
            n += 1
            value, length, zero = _FNV, 0, False
        if point == _SPACE:
            continue
        if alone:
            hashes[n] = mix((_FNV ^ np.uint64(point)) * _PRIME)
            n += 1
        elif point != _ZERO or not zero:
            value = (value ^ np.uint64(point)) * _PRIME
            length += 1
            zero = point == _ZERO
    return n


@numba.njit(cache=True, nogil=True)
def sign(hashes: Any, n: int, shingle: int, lanes: Any, rolled: Any, signature: Any) -> None:
    """Fill `signature`, (count,) uint32, from the hashes of n words; fewer than `shingle` words are one shingle.

    lanes: (2, count) uint32, from `functions`; rolled: room for n + 1 hashes. Of no words every value is the largest.
    """
    signature[:] = _NOTHING
    if not n:
        return
    width = min(n, shingle)
    roll(hashes, n, rolled)
    power = base_power(width)
    factors, offsets = lanes[0], lanes[1]
    for w in range(n - width + 1):
        value = np.uint32(mix(hash_gram(rolled, w, width, power)) >> _HALF)
        for k in range(len(signature)):
            signature[k] = min(signature[k], np.uint32(factors[k] * value + offsets[k]))


def bands(signatures: NDArray[np.uint32], rows: int) -> NDArray[np.uint64]:
    """A number for each band of `rows` values: (n, count) uint32 -> (n, count // rows) uint64.

    Of texts without a word all numbers are 0: they have nothing to be alike in.
    """
    n, count = signatures.shape
    found = np.empty((n, count // rows), dtype=np.uint64)
    _bands(np.ascontiguousarray(signatures), rows, found)
    return found


@numba.njit(cache=True, nogil=True)
def _bands(signatures: Any, rows: int, found: Any) -> None:
    for i in range(found.shape[0]):
        if signatures[i].min() == _NOTHING:
            found[i] = 0
            continue
        for band in range(found.shape[1]):
            value = np.uint64(band)
            for k in range(rows):
                value = (value ^ np.uint64(signatures[i, band * rows + k])) * _PRIME
                value ^= value >> _HALF
            found[i, band] = mix(value)
