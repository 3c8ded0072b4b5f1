"""A text as tokens and as bytes at once, to be laid beside the places of the training data that quote it.

A tokenizer cuts the same words differently where their surroundings differ: at the start of a text a word has no
space before it, and a sentence may be cut in the middle of a word. So a quotation is found by a core of tokens that
both sides share, and from there followed byte by byte in both directions, as far as the bytes agree.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import log

import numpy as np

from underlay.errors import UserError
from underlay.trace.index import Codec, TraceIndex

CANDIDATES = 1000
"""A core that occurs more often is not followed byte by byte: its span ends with its tokens."""

# Scripts written without spaces: Thai to Tibetan, Myanmar, Khmer, and all of the East Asian blocks but Hangul.
_UNSPACED = (
    (0x0E00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0xA4CF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_WORD = re.compile("w(?:[wmz]|'w)*|.(?:m|z.?)+")


@dataclass(frozen=True)
class Passage:
    """A stretch of the query: its bytes, and the core of tokens by which it is found."""

    start: int
    """First byte."""
    end: int
    """Byte after the last."""
    core: tuple[int, int]
    """Query tokens [a, b) inside the bytes, which occur as they are in the training data."""


class Quotation:
    """A query's bytes, its tokens, where they start, and where a word may be cut off.

    Raises UserError where the tokens' bytes are not the text's: then offsets would point beside the words.
    """

    def __init__(self, text: str, ids: Sequence[int], index: TraceIndex, codec: Codec) -> None:
        self.index = index
        self.codec = codec
        self.ids = np.asarray(ids, dtype=np.int64)
        self.bytes = text.encode()
        self._pieces: dict[int, bytes] = {}
        self._shares: dict[int, float] = {}
        pieces = [self.piece(i) for i in ids]
        if b"".join(pieces) != self.bytes:
            raise UserError(
                "trace: the tokenizer does not give back the text's bytes; only lossless ones can be traced"
            )
        self.offsets = list(accumulate(map(len, pieces), initial=0))
        self._breaks = _breaks(text)

    def piece(self, token: int) -> bytes:
        """Return the bytes of one token."""
        if token not in self._pieces:
            self._pieces[token] = self.codec.decode_bytes([token])
        return self._pieces[token]

    def seeds(self, shortest: int) -> list[tuple[int, int]]:
        """List the runs of tokens [a, b) that occur in the training data and no longer ones do, from `shortest` on."""
        lengths = self.index.longest_matches(self.ids).lengths
        ends = np.arange(len(lengths)) + lengths
        maximal = np.diff(ends, prepend=-1) > 0
        return [(int(a), int(ends[a])) for a in np.flatnonzero(maximal & (lengths >= shortest))]

    def widest(self, core: tuple[int, int]) -> Passage | None:
        """Return the longest passage around `core` that one occurrence agrees with, cut back to whole words."""
        a, b = core
        around = (self._around(position, core) for position in self._positions(core) or [])
        left, right = max(around, key=sum, default=(0, 0))
        return self.trim(self.offsets[a] - left, self.offsets[b] + right, core)

    def trim(self, start: int, end: int, core: tuple[int, int]) -> Passage | None:
        """Cut the bytes [start, end) back to whole words, and `core` to them; None if no token of it is left."""
        while start < end and not self._breaks[start]:
            start += 1
        while start < end and not self._breaks[end]:
            end -= 1
        if not self.bytes[start:end].strip():
            return None
        inside = self._inside(start, end)
        a, b = max(inside[0], core[0]), min(inside[1], core[1])
        return Passage(start, end, (a, b)) if a < b else None

    def length(self, passage: Passage) -> int:
        """Count the query's tokens that lie wholly in `passage`."""
        a, b = self._inside(passage.start, passage.end)
        return b - a

    def rarity(self, passage: Passage) -> float:
        """Sum the logs of the shares that the tokens in `passage` have of the training data (unseen: as if once)."""
        a, b = self._inside(passage.start, passage.end)
        return sum(map(self._log_share, self.ids[a:b].tolist()))

    def _log_share(self, token: int) -> float:
        if token not in self._shares:
            first, last = self.index.find([token])
            self._shares[token] = log(max(1, last - first) / len(self.index.tokens))
        return self._shares[token]

    def _inside(self, start: int, end: int) -> tuple[int, int]:
        """The tokens [a, b) that lie wholly in the bytes [start, end)."""
        a = bisect_left(self.offsets, start)
        return a, max(a, bisect_right(self.offsets, end) - 1)

    def occurrences(self, passage: Passage) -> tuple[Passage, int, list[int]]:
        """Return how often `passage` occurs, and the positions of its core there, ascending, at most `CANDIDATES`.

        The passage comes back with the core by which it was found: without the words at its edges, if that is rare
        enough to look at what stands around each occurrence, for these words may be cut into other tokens elsewhere.
        Where the whole core is too common for that, the passage is cut back to it, and counts with these tokens only.
        """
        a, b = passage.core
        words = [i for i in range(a, b + 1) if self._breaks[self.offsets[i]]]
        inner = (words[1], words[-2]) if len(words) > 3 else passage.core
        for core in (inner, passage.core):
            positions = self._positions(core)
            if positions is not None:
                reaching = [p for p in positions if self._reaches(p, replace(passage, core=core))]
                return replace(passage, core=core), len(reaching), reaching
        if (passage.start, passage.end) == (self.offsets[a], self.offsets[b]):
            first, last = self.index.find(self.ids[a:b])
            return passage, last - first, np.sort(self.index.suffixes[first : first + CANDIDATES]).tolist()
        shorter = self.trim(self.offsets[a], self.offsets[b], passage.core)
        return self.occurrences(shorter) if shorter else (passage, 0, [])

    def _positions(self, core: tuple[int, int]) -> list[int] | None:
        """Where the tokens of `core` stand, ascending; None if that is in more than `CANDIDATES` places."""
        first, last = self.index.find(self.ids[slice(*core)])
        return np.sort(self.index.suffixes[first:last]).tolist() if last - first <= CANDIDATES else None

    def _reaches(self, position: int, passage: Passage) -> bool:
        """Whether the bytes around the core's occurrence at `position` agree as far as `passage` goes."""
        a, b = passage.core
        left, right = self._around(position, passage.core)
        return passage.start >= self.offsets[a] - left and passage.end <= self.offsets[b] + right

    def _around(self, position: int, core: tuple[int, int]) -> tuple[int, int]:
        """How many bytes before and after the core agree with those around its occurrence at token `position`."""
        a, b = core
        return self._before(position, self.offsets[a]), self._after(position + b - a, self.offsets[b])

    def _before(self, position: int, end: int) -> int:
        start = end
        while start > 0 and position > 0:
            position -= 1
            piece = self.piece(int(self.index.tokens[position]))
            if not piece or not self.bytes.endswith(piece, 0, start):
                return end - start + _common(piece[::-1], self.bytes[max(0, start - len(piece)) : start][::-1])
            start -= len(piece)
        return end - start

    def _after(self, position: int, start: int) -> int:
        end = start
        while end < len(self.bytes) and position < len(self.index.tokens):
            piece = self.piece(int(self.index.tokens[position]))
            if not piece or not self.bytes.startswith(piece, end):
                return end - start + _common(piece, self.bytes[end : end + len(piece)])
            end += len(piece)
            position += 1
        return end - start


def _common(one: bytes, other: bytes) -> int:
    """Length of the common start of two byte strings."""
    shared = 0
    for x, y in zip(one, other, strict=False):
        if x != y:
            break
        shared += 1
    return shared


def _breaks(text: str) -> list[bool]:
    """For every byte offset of `text` and its end, whether a span may start or end there: between whole words.

    Words are runs of letters and digits, also around an apostrophe. Scripts without spaces may be cut between any two
    characters, but marks stay with what they mark, and no character is cut.
    """
    kinds = "".join(map(_kind, text))
    cut = [True] * (len(text) + 1)
    for word in _WORD.finditer(kinds):
        cut[word.start() + 1 : word.end()] = [False] * (len(word.group()) - 1)
    breaks = []
    for character, allowed in zip(text, cut, strict=False):
        breaks += [allowed] + [False] * (len(character.encode()) - 1)
    return [*breaks, True]


def _kind(character: str) -> str:
    """One letter for how a character joins its neighbours: as part of a word, as a mark, as a joiner, not at all."""
    if character == "\u200d":  # the joiner of emoji
        return "z"
    if unicodedata.category(character).startswith("M") or "\U0001f3fb" <= character <= "\U0001f3ff":  # skin tones
        return "m"
    if any(low <= ord(character) <= high for low, high in _UNSPACED):
        return "u"
    if character.isalnum() or character == "_":
        return "w"
    return "'" if character in "'’" else "."
