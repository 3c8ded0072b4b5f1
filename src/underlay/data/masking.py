"""Masked language modelling: some tokens of a row are hidden, and the model learns to say what they were.

The masks of a row depend on the seed and on the number of the sample alone. So they are others in each pass over the
data (dynamic masking, RoBERTa, arXiv:1907.11692), however batches are cut and however often a run is resumed.
"""

from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from underlay.config import Config
from underlay.errors import UserError
from underlay.models import Batch
from underlay.text import Special, Tokenizer

_LONGEST_SPAN, _SPAN_ENDS = 10, 0.2


class MaskingConfig(Config):
    """Which tokens are to be guessed, and what stands in their place (BERT, arXiv:1810.04805, section 3.1)."""

    share: float = Field(default=0.15, gt=0, lt=1)
    """Share of a row's tokens that are to be guessed."""
    unit: Literal["tokens", "words", "spans"] = "tokens"
    """What is hidden at once: single tokens, whole words, or spans of 1 to 10 tokens, 3.8 on average (SpanBERT,
    arXiv:1907.10529)."""
    kept: float = Field(default=0.1, ge=0, le=1)
    """Share of the tokens to be guessed that stay as they are."""
    replaced: float = Field(default=0.1, ge=0, le=1)
    """Share of them that become a random token; the others become the mask."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.kept + self.replaced > 1:
            raise ValueError(f"kept {self.kept} and replaced {self.replaced} are more than all")
        return self


class Rows(Protocol):
    """Where rows come from, by their numbers."""

    seed: int

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ..., count of them."""


class Masked:
    """Rows with hidden tokens: `tokens` is what is left, `targets` what was there, `weights` 1 where to guess."""

    def __init__(self, rows: Rows, tokenizer: Tokenizer, config: MaskingConfig) -> None:
        """Raises UserError where the tokenizer has no token for the mask."""
        if not tokenizer.has(Special.MASK):
            raise UserError("the tokenizer has no token for the mask; learn it with `mask: true` in its stage")
        self.rows, self.config = rows, config
        self._mask = tokenizer.special(Special.MASK)
        ordinary = [index for index in range(tokenizer.size) if index not in tokenizer.special_ids]
        self._ordinary = np.array(ordinary)
        self._special = np.ones(tokenizer.size, dtype=bool)
        self._special[self._ordinary] = False
        first, last = np.zeros((2, tokenizer.size), dtype=bool)
        for index in ordinary:
            letters = tokenizer.decode_bytes([index])
            first[index], last[index] = (_in_word(letters[at : at + 1 or None]) for at in (0, -1))
        self._first, self._last = first, last

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ... as one batch of shape (count, context)."""
        whole = self.rows.batch(first, count)
        hidden = [self._hide(row, first + number) for number, row in enumerate(whole.tokens.numpy())]
        tokens, chosen = (torch.from_numpy(np.stack(part)) for part in zip(*hidden, strict=True))
        return Batch(tokens, whole.tokens, chosen.float(), whole.documents)

    def _hide(self, row: NDArray[np.int64], sample: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        random = np.random.default_rng([self.rows.seed, sample])
        open_ = ~self._special[row]
        chosen = np.zeros(len(row), dtype=bool)
        for start, end in self._units(row, open_, random):
            if chosen.sum() >= max(1, round(self.config.share * open_.sum())):
                break
            chosen[start:end] = open_[start:end]
        draws = random.random(len(row))
        kept, replaced = draws < self.config.kept, draws >= 1 - self.config.replaced
        noise = random.choice(self._ordinary, len(row))
        filled = np.where(replaced, noise, np.where(kept, row, self._mask))
        return np.where(chosen, filled, row), chosen

    def _units(
        self, row: NDArray[np.int64], open_: NDArray[np.bool_], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """(start, end) of what may be hidden at once, in random order."""
        starts = np.flatnonzero(open_)
        if self.config.unit == "words":
            inside = self._first[row] & np.roll(self._last[row], 1)
            inside[0] = False
            starts = np.flatnonzero(open_ & ~inside)
            ends = np.append(np.flatnonzero(~inside)[1:], len(row))
            ends = ends[np.searchsorted(ends, starts, side="right")]
        elif self.config.unit == "spans":
            ends = starts + np.minimum(random.geometric(_SPAN_ENDS, len(starts)), _LONGEST_SPAN)
        else:
            ends = starts + 1
        return random.permutation(np.stack([starts, ends], axis=1))


def _in_word(letter: bytes) -> bool:
    """Whether a byte belongs to a word: letters, digits, the underscore, and all of UTF-8 beyond ASCII."""
    return letter.isalnum() or letter == b"_" or letter >= b"\x80"
