"""What the filters of web corpora measure, for a batch of texts in one pass: Gopher, C4, FineWeb, MinHash.

A text is decoded once into code points, cut once into words, and each word hashed once; what follows are loops over
integers. C4 rewrites a text, so what comes after it in such a chain may look at the rewritten one.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from underlay.kernels import gopher, lines, minhash
from underlay.kernels.characters import folds, kinds
from underlay.kernels.hashes import hash_points, slots
from underlay.kernels.words import decode, known_words, split


@dataclass(frozen=True)
class Measures:
    """Figures of n texts."""

    text: NDArray[np.float64]
    """(n, len(TEXT))"""
    gopher: NDArray[np.float64]
    """(n, len(GOPHER))"""
    c4: NDArray[np.float64]
    """(n, len(C4))"""
    fineweb: NDArray[np.float64]
    """(n, len(FINEWEB))"""
    signatures: NDArray[np.uint32]
    """(n, number of hash functions)"""


def measure(
    text: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    functions: NDArray[np.uint32],
    shingle: int = 5,
    cleaned: bool = False,
) -> Measures:
    """Measure the texts text[offsets[i]:offsets[i + 1]], valid UTF-8.

    functions: from `minhash.functions`. With `cleaned`, FineWeb and MinHash look at the lines that C4 keeps.
    """
    n = len(offsets) - 1
    found = Measures(
        np.zeros((n, len(lines.TEXT))),
        np.zeros((n, len(gopher.GOPHER))),
        np.zeros((n, len(lines.C4))),
        np.zeros((n, len(lines.FINEWEB))),
        np.empty((n, functions.shape[1]), dtype=np.uint32),
    )
    scratch = _scratch(int(np.diff(offsets).max(initial=0)))
    _measure(text, offsets, _tables(), functions, shingle, cleaned, scratch, *vars(found).values())
    return found


def clean(text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The texts with only the lines that C4 keeps; text and offsets as `measure` takes them."""
    cleaned = np.empty(len(text) + 4 * len(offsets), dtype=np.uint8)
    places = np.zeros_like(offsets)
    _clean(text, offsets, _tables(), _scratch(int(np.diff(offsets).max(initial=0))), cleaned, places)
    return cleaned[: places[-1]].copy(), places


def _scratch(longest: int) -> Any:
    """Room for the longest text: code points, words, hashes, and a table of hashes."""
    size = longest + 2
    table = slots(size)
    return (
        (np.empty(size, dtype=np.uint32), np.empty(size, dtype=np.uint32)),
        (np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)),
        np.empty(size, dtype=np.uint64),
        (
            np.empty(table, dtype=np.uint64),
            np.zeros(table, dtype=np.int64),
            np.empty(table, dtype=np.int32),
            np.empty(table, dtype=np.int32),
            np.empty(size, dtype=np.int32),
        ),
    )


@cache
def _tables() -> Any:
    """What is the same for every text."""
    stops = np.array([hash_points(_points(word), 0, len(word)) for word in gopher.STOP_WORDS], dtype=np.uint64)
    phrases = tuple(map(_points, ("lorem ipsum", "javascript", "[edit]", "[citation needed]")))
    return kinds(), folds(), known_words(), stops, (*phrases, tuple(map(_points, lines.POLICIES)))


def _points(text: str) -> NDArray[np.uint32]:
    return np.array([ord(char) for char in text], dtype=np.uint32)


@numba.njit(cache=True, nogil=True)
def _measure(
    text: Any,
    offsets: Any,
    tables: Any,
    functions: Any,
    shingle: int,
    cleaned: bool,
    scratch: Any,
    of_text: Any,
    of_gopher: Any,
    of_c4: Any,
    of_fineweb: Any,
    signatures: Any,
) -> None:
    table, folding, known, stops, phrases = tables
    (points, kept), (starts, ends), hashes, sets = scratch
    mark = 1
    for i in range(len(offsets) - 1):
        size = decode(text, offsets[i], offsets[i + 1], points)
        n = split(points, size, table, known, starts, ends)
        for w in range(n):
            hashes[w] = hash_points(points, starts[w], ends[w])
        lines.plain(points, size, table, sets[0], sets[1], mark, of_text[i])
        mark += 1
        gopher.quality(points, size, starts, ends, hashes, n, table, stops, of_gopher[i])
        mark = gopher.repetition(points, size, starts, ends, hashes, n, table, sets, mark, of_gopher[i])
        length = lines.clean_lines(points, size, table, known, phrases, starts, ends, kept, of_c4[i])
        rest = points
        if cleaned:
            rest, size = kept, length
            n = split(rest, size, table, known, starts, ends)
        lines.line_shares(rest, size, table, n, sets[0], sets[1], mark, of_fineweb[i])
        mark += 1
        n = minhash.folded_words(rest, size, table, folding, hashes)
        minhash.sign(hashes, n, shingle, functions, signatures[i])


@numba.njit(cache=True, nogil=True)
def _clean(text: Any, offsets: Any, tables: Any, scratch: Any, cleaned: Any, places: Any) -> None:
    table, _, known, _, phrases = tables
    (points, kept), (starts, ends), _, _ = scratch
    unused = np.empty(4)
    at = 0
    for i in range(len(offsets) - 1):
        size = decode(text, offsets[i], offsets[i + 1], points)
        length = lines.clean_lines(points, size, table, known, phrases, starts, ends, kept, unused)
        for k in range(length):
            at = _encode(kept[k], cleaned, at)
        places[i + 1] = at


@numba.njit(cache=True, nogil=True)
def _encode(point: Any, text: Any, at: int) -> int:
    """Write one code point as UTF-8; returns where the next one goes."""
    if point < 0x80:
        text[at] = point
        return at + 1
    if point < 0x800:
        text[at], text[at + 1] = 0xC0 | point >> 6, 0x80 | point & 0x3F
        return at + 2
    if point < 0x10000:
        text[at], text[at + 1], text[at + 2] = 0xE0 | point >> 12, 0x80 | point >> 6 & 0x3F, 0x80 | point & 0x3F
        return at + 3
    text[at], text[at + 1] = 0xF0 | point >> 18, 0x80 | point >> 12 & 0x3F
    text[at + 2], text[at + 3] = 0x80 | point >> 6 & 0x3F, 0x80 | point & 0x3F
    return at + 4
