"""A text with a gap, as tokens: what a decoder that was taught to fill in reads (arXiv:2207.14255).

    PREFIX prefix SUFFIX suffix MIDDLE middle     suffix before middle (PSM)
    PREFIX SUFFIX suffix MIDDLE prefix middle     prefix and middle in one piece (SPM, the paper's second variant)

A decoder writes from left to right, so what stands behind the gap is moved ahead of it. The parts are encoded each by
itself, in training as in use, and the marks are written by id.
"""

from collections.abc import Sequence

from underlay.errors import UserError
from underlay.text.special import GAP
from underlay.text.tokenizer import Tokenizer


class Gap:
    """The marks of a tokenizer, and how texts with a gap are put between them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises UserError where the tokenizer has no marks."""
        if not all(map(tokenizer.has, GAP)):
            raise UserError(
                "the tokenizer has no tokens for prefix, suffix and middle; learn it with `fim: true` in its stage, "
                "and the model with `fim`"
            )
        self._tokenizer = tokenizer
        self._prefix, self._suffix, self._middle = map(tokenizer.special, GAP)

    @property
    def marks(self) -> frozenset[int]:
        """Ids of the marks."""
        return frozenset((self._prefix, self._suffix, self._middle))

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end what is filled in: it is text, so any special token does, whatever its maker ends it with."""
        return self._tokenizer.special_ids

    def prompt(self, prefix: str, suffix: str) -> list[int]:
        """Ids after which a decoder writes what stands between the two texts; they begin as any text does."""
        encode = self._tokenizer.encode
        return [*self._tokenizer.start, *self.arranged(encode(prefix), encode(suffix), [])]

    def arranged(
        self, prefix: Sequence[int], suffix: Sequence[int], middle: Sequence[int], spm: bool = False
    ) -> list[int]:
        """Ids of the three parts between their marks, three more than they have together."""
        if spm:
            return [self._prefix, self._suffix, *suffix, self._middle, *prefix, *middle]
        return [self._prefix, *prefix, self._suffix, *suffix, self._middle, *middle]
