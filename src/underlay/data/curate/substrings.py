"""Passages that stand in a corpus more than once: the first one stays, the others are cut out of their documents.

Near-duplicates are found document by document; a licence, a menu or a quoted chapter within documents that have
nothing else in common is not. Here any run of at least `min_tokens` words counts that stands, word for word, further
to the front of the corpus too: in a document with a lesser id, or in the same one. Of every word that goes an equal
one stays there (`underlay.kernels.repeats`).

Words and not bytes: a cut never goes through a character or a word, and the suffix array is a sixth as long. Not
tokens of a tokenizer: there is none yet.

The texts are read twice. In memory are, of all texts, 8 bytes for every fourteenth word; of passages that may be
copies some 70 bytes a word. One suffix array orders up to 2^31 such words.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from underlay.config import Config
from underlay.data.corpus import Unit
from underlay.data.curate.texts import Texts
from underlay.errors import UserError
from underlay.kernels.repeats import Words, around, copied, landmarks, words
from underlay.kernels.suffix import LONGEST

TextsOf = Callable[[Unit], Texts]


class SubstringsConfig(Config):
    """Which passages count as copied."""

    min_tokens: int = Field(default=50, ge=10, le=10_000)
    """Least length of a passage, in words; each character is a word in scripts without spaces."""
    min_left: int = Field(default=100, ge=0)
    """Documents of which fewer characters are left are dropped."""


class Copies(NamedTuple):
    """Passages to cut, m of them, in the order of their texts and places."""

    texts: NDArray[np.int64]
    """(m,) the number of the text, counted over all units."""
    starts: NDArray[np.int64]
    """(m,) the byte of the text at which the passage begins."""
    ends: NDArray[np.int64]
    """(m,) the byte at which what follows begins."""

    def of(self, text: int) -> list[tuple[int, int]]:
        """The passages of one text."""
        first, last = np.searchsorted(self.texts, [text, text + 1]).tolist()
        return list(zip(self.starts[first:last].tolist(), self.ends[first:last].tolist(), strict=True))


class _Candidates(NamedTuple):
    """Words, c of them, that stand in what may be copied."""

    hashes: NDArray[np.uint64]
    texts: NDArray[np.int64]
    starts: NDArray[np.int64]
    """The byte of its text at which each begins."""
    ends: NDArray[np.int64]
    """The byte at which the next word of the text begins, or the text ends."""
    fresh: NDArray[np.bool_]
    """Whether the word before it is another text's, or no candidate."""


def find(units: Sequence[Unit], texts: TextsOf, length: int) -> Copies:
    """Find the runs of at least `length` words that stand further to the front too.

    texts: gives the texts of a unit, the same ones each time. Raises UserError where too many words may be copied.
    """
    values = [landmarks(_words(texts(unit)), length)[1] for unit in units]
    known = _repeated(np.concatenate([np.zeros(0, dtype=np.uint64), *values]))
    del values
    parts, number = [_nothing()], 0
    if len(known):
        for unit in units:
            batch = texts(unit)
            parts.append(_candidates(batch, known, length, number))
            number += len(batch)
    columns: list[NDArray[Any]] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    found = _Candidates(*columns)
    del parts
    if not len(found.hashes):
        return Copies(found.texts, found.starts, found.ends)
    goes = copied(_tokens(found), length)[_places(found)]
    with_next = np.append(goes[:-1] & goes[1:] & ~found.fresh[1:], False)
    begins, ends = goes & ~np.roll(with_next, 1), goes & ~with_next
    return Copies(found.texts[begins], found.starts[begins], found.ends[ends])


def cut(text: str, passages: Sequence[tuple[int, int]]) -> str:
    """The text without some passages, given in bytes; their line breaks stay, so lines keep their numbers."""
    data = text.encode()
    pieces, at = [], 0
    for start, end in passages:
        pieces += [data[at:start], b"\n" * data.count(b"\n", start, end)]
        at = end
    return b"".join([*pieces, data[at:]]).decode()


def _words(texts: Texts) -> Words:
    return words(texts.bytes, texts.offsets)


def _repeated(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those that are there more than once, in order; sorts what it is given."""
    values.sort()
    return np.unique(values[1:][values[1:] == values[:-1]])


def _nothing() -> _Candidates:
    none = np.zeros(0, dtype=np.int64)
    return _Candidates(none.astype(np.uint64), none, none, none, none.astype(np.bool_))


def _candidates(texts: Texts, known: NDArray[np.uint64], length: int, number: int) -> _Candidates:
    """The words of some texts, the first of which is the `number`-th, around landmarks that are known."""
    found = _words(texts)
    starts, values = landmarks(found, length)
    nearest = np.minimum(np.searchsorted(known, values), len(known) - 1)
    wanted = np.flatnonzero(around(found, starts[known[nearest] == values], length))
    text = np.searchsorted(found.edges, wanted, side="right") - 1
    fresh = np.ones(len(wanted), dtype=np.bool_)
    fresh[1:] = (np.diff(wanted) > 1) | (np.diff(text) > 0)
    ends = np.append(found.starts, 0)[wanted + 1]
    last = wanted + 1 == found.edges[text + 1]
    ends[last] = texts.offsets[text[last] + 1]
    first = texts.offsets[text]
    return _Candidates(found.hashes[wanted], text + number, found.starts[wanted] - first, ends - first, fresh)


def _places(found: _Candidates) -> NDArray[np.int64]:
    """Where each candidate stands among the tokens: each stretch of them is followed by a separator."""
    return np.arange(len(found.fresh)) + np.cumsum(found.fresh) - 1


def _tokens(found: _Candidates) -> NDArray[np.uint32]:
    """A number for each word, and between stretches numbers that stand nowhere else."""
    stretches = int(found.fresh.sum())
    size = len(found.hashes) + stretches
    if size > LONGEST:
        raise UserError(f"substrings: {size:,} words may be copied, more than {LONGEST:,}; curate the corpus in parts")
    distinct, numbers = np.unique(found.hashes, return_inverse=True)
    tokens = np.empty(size, dtype=np.uint32)
    places = _places(found)
    tokens[places] = numbers
    separators = np.append(places[1:][found.fresh[1:]] - 1, size - 1)
    tokens[separators] = len(distinct) + np.arange(stretches)
    return tokens
