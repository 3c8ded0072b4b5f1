"""What the filters of web corpora measure, for a batch of texts: Gopher, C4, FineWeb, MinHash.

A batch is decoded once into code points, cut once into words, and each word hashed once; what follows are loops over
integers, each compiled by itself (together they run at half the speed), and only those that somebody asks for. C4
rewrites a text, so what comes after it in such a chain may look at the rewritten one.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from underlay.kernels import gopher, lines, minhash
from underlay.kernels.characters import folds, kinds
from underlay.kernels.hashes import hash_points, slots
from underlay.kernels.words import decode, known_words, split


@dataclass(frozen=True)
class Words:
    """Where the words of a batch begin and end, counted from the beginning of their texts, and their hashes."""

    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    hashes: NDArray[np.uint64]
    places: NDArray[np.int64]
    """Where each text's words begin in these, and behind the last one where they end."""


@dataclass(frozen=True)
class Cleaned:
    """The lines that C4 keeps."""

    points: NDArray[np.uint32]
    places: NDArray[np.int64]
    words: NDArray[np.int64]
    """How many words each text has left."""
    figures: NDArray[np.float64]
    """(n, len(C4))"""


class Batch:
    """n texts as code points, and what can be measured of them."""

    def __init__(self, text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        """Take the texts text[offsets[i]:offsets[i + 1]], valid UTF-8."""
        self.count = len(offsets) - 1
        self.points = np.empty(int(offsets[-1] - offsets[0]), dtype=np.uint32)
        self.places = np.zeros(len(offsets), dtype=np.int64)
        """Where each text begins in `points`, and behind the last one where it ends."""
        _decode(text, offsets, self.points, self.places)

    @cached_property
    def words(self) -> Words:
        """The words of all texts, cut as English is written."""
        size = int(self.places[-1])
        starts, ends = np.empty((2, size + 1), dtype=np.int32)
        hashes, places = np.empty(size, dtype=np.uint64), np.zeros_like(self.places)
        _split(self.points, self.places, kinds(), known_words(), starts, ends, hashes, places)
        return Words(starts, ends, hashes, places)

    @cached_property
    def cleaned(self) -> Cleaned:
        """What C4 measures, and leaves."""
        words = self.words
        kept = np.empty(int(self.places[-1]) + 2 * self.count, dtype=np.uint32)
        found = Cleaned(kept, np.zeros_like(self.places), np.zeros(self.count, dtype=np.int64), self._figures(lines.C4))
        spare = np.empty((2, self._longest + 2), dtype=np.int32)
        tables = (kinds(), known_words(), _phrases())
        _clean(self.points, self.places, tables, words.starts, words.ends, words.places, spare, *vars(found).values())
        return found

    def clean(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The texts with only the lines that C4 keeps, as bytes and offsets."""
        cleaned = self.cleaned
        text, offsets = np.empty(4 * int(cleaned.places[-1]), dtype=np.uint8), np.zeros_like(cleaned.places)
        _encode(cleaned.points, cleaned.places, text, offsets)
        return text[: offsets[-1]], offsets

    def plain(self) -> NDArray[np.float64]:
        """(n, len(TEXT)): figures that make sense for any text."""
        figures = self._figures(lines.TEXT)
        _plain(self.points, self.places, kinds(), *_set(self._longest), figures)
        return figures

    def gopher(self) -> NDArray[np.float64]:
        """(n, len(GOPHER)): what Gopher's rules look at."""
        figures = self._figures(gopher.GOPHER)
        words = self.words
        size = self._longest + 2
        scratch = (
            *_set(size),
            *np.empty((2, slots(size)), dtype=np.int32),
            np.empty(size, dtype=np.int32),
            np.empty(size, dtype=np.uint64),
        )
        stretches = (self.points, self.places, words.starts, words.ends, words.hashes, words.places)
        _quality(*stretches, kinds(), _stop_words(), figures)
        _repetition(*stretches, kinds(), scratch, figures)
        return figures

    def fineweb(self, cleaned: bool = False) -> NDArray[np.float64]:
        """(n, len(FINEWEB)): what FineWeb's rules look at; with `cleaned`, of the lines that C4 keeps."""
        figures = self._figures(lines.FINEWEB)
        rest = self.cleaned if cleaned else self
        words = self.cleaned.words if cleaned else np.diff(self.words.places)
        _shares(rest.points, rest.places, kinds(), words, *_set(self._longest), figures)
        return figures

    def signatures(self, functions: NDArray[np.uint32], shingle: int, cleaned: bool = False) -> NDArray[np.uint32]:
        """(n, count): MinHash signatures by some `minhash.functions`; with `cleaned`, of the lines that C4 keeps."""
        found = np.empty((self.count, functions.shape[1]), dtype=np.uint32)
        rest = self.cleaned if cleaned else self
        hashes = np.empty((2, self._longest + 2), dtype=np.uint64)
        _sign(rest.points, rest.places, kinds(), folds(), functions, shingle, hashes, found)
        return found

    @property
    def _longest(self) -> int:
        return int(np.diff(self.places).max(initial=0))

    def _figures(self, columns: tuple[str, ...]) -> NDArray[np.float64]:
        return np.zeros((self.count, len(columns)))


def _set(longest: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Keys and marks of an empty set for what a text of this length can hold."""
    size = slots(longest + 2)
    return np.empty(size, dtype=np.uint64), np.zeros(size, dtype=np.int64)


@cache
def _stop_words() -> NDArray[np.uint64]:
    points = [np.array([ord(char) for char in word], dtype=np.uint32) for word in gopher.STOP_WORDS]
    return np.array([hash_points(word, 0, len(word)) for word in points], dtype=np.uint64)


@cache
def _phrases() -> Any:
    return lines.phrases_and_notes()


# --- Loops over the texts of a batch ------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _decode(text: Any, offsets: Any, points: Any, places: Any) -> None:
    for i in range(len(offsets) - 1):
        places[i + 1] = places[i] + decode(text, offsets[i], offsets[i + 1], points[places[i] :])


@numba.njit(cache=True, nogil=True)
def _split(points: Any, places: Any, table: Any, known: Any, starts: Any, ends: Any, hashes: Any, words: Any) -> None:
    for i in range(len(places) - 1):
        text = points[places[i] : places[i + 1]]
        at = words[i]
        n = split(text, len(text), table, known, starts[at : at + len(text)], ends[at : at + len(text)])
        words[i + 1] = at + n
        for w in range(at, at + n):
            hashes[w] = hash_points(text, starts[w], ends[w])


@numba.njit(cache=True, nogil=True)
def _plain(points: Any, places: Any, table: Any, keys: Any, marks: Any, figures: Any) -> None:
    for i in range(len(places) - 1):
        text = points[places[i] : places[i + 1]]
        lines.plain(text, len(text), table, keys, marks, i + 1, figures[i])


@numba.njit(cache=True, nogil=True)
def _quality(
    points: Any, places: Any, starts: Any, ends: Any, hashes: Any, words: Any, table: Any, stops: Any, figures: Any
) -> None:
    for i in range(len(places) - 1):
        text, first, last = points[places[i] : places[i + 1]], words[i], words[i + 1]
        these = hashes[first:last]
        gopher.quality(
            text, len(text), starts[first:last], ends[first:last], these, last - first, table, stops, figures[i]
        )


@numba.njit(cache=True, nogil=True)
def _repetition(
    points: Any, places: Any, starts: Any, ends: Any, hashes: Any, words: Any, table: Any, scratch: Any, figures: Any
) -> None:
    mark = 1
    for i in range(len(places) - 1):
        text, first, last = points[places[i] : places[i + 1]], words[i], words[i + 1]
        these, n = hashes[first:last], last - first
        mark = gopher.repetition(
            text, len(text), starts[first:last], ends[first:last], these, n, table, scratch, mark, figures[i]
        )


@numba.njit(cache=True, nogil=True)
def _clean(
    points: Any,
    places: Any,
    tables: Any,
    starts: Any,
    ends: Any,
    words: Any,
    spare: Any,
    kept: Any,
    kept_places: Any,
    left: Any,
    figures: Any,
) -> None:
    table, known, phrases = tables
    again = (spare[0], spare[1])
    for i in range(len(places) - 1):
        text, first, last = points[places[i] : places[i + 1]], words[i], words[i + 1]
        these = (starts[first:last], ends[first:last])
        rest = kept[kept_places[i] :]
        size, left[i] = lines.clean_lines(
            text, len(text), table, known, phrases, these, last - first, again, rest, figures[i]
        )
        kept_places[i + 1] = kept_places[i] + size


@numba.njit(cache=True, nogil=True)
def _shares(points: Any, places: Any, table: Any, words: Any, keys: Any, marks: Any, figures: Any) -> None:
    for i in range(len(places) - 1):
        text = points[places[i] : places[i + 1]]
        lines.line_shares(text, len(text), table, words[i], keys, marks, i + 1, figures[i])


@numba.njit(cache=True, nogil=True)
def _sign(
    points: Any, places: Any, table: Any, folding: Any, functions: Any, shingle: int, hashes: Any, signatures: Any
) -> None:
    of_words, rolled = hashes[0], hashes[1]
    for i in range(len(places) - 1):
        text = points[places[i] : places[i + 1]]
        n = minhash.folded_words(text, len(text), table, folding, of_words)
        minhash.sign(of_words, n, shingle, functions, rolled, signatures[i])


@numba.njit(cache=True, nogil=True)
def _encode(points: Any, places: Any, text: Any, offsets: Any) -> None:
    """Code points as UTF-8."""
    at = 0
    for i in range(len(places) - 1):
        for k in range(places[i], places[i + 1]):
            point = points[k]
            if point < 0x80:
                text[at] = point
                at += 1
                continue
            if point < 0x800:
                text[at] = 0xC0 | point >> 6
                at += 1
            else:
                if point < 0x10000:
                    text[at] = 0xE0 | point >> 12
                    at += 1
                else:
                    text[at], text[at + 1] = 0xF0 | point >> 18, 0x80 | point >> 12 & 0x3F
                    at += 2
                text[at] = 0x80 | point >> 6 & 0x3F
                at += 1
            text[at] = 0x80 | point & 0x3F
            at += 1
        offsets[i + 1] = at
