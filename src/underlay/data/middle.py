"""Filling in the middle: some documents of a row are rearranged, so that a decoder learns to fill gaps.

A document's piece of the row is cut at two of its characters into prefix, middle and suffix, and what stands behind
the gap is moved ahead of it (arXiv:2207.14255; `underlay.text.gap` has the two layouts). Cuts fall between characters
and not between tokens, for a gap in use begins and ends anywhere. Rows are cut first and rearranged then (the paper's
context level), so that no part of an arrangement lies in another row.

Every token stays in its document's place, BOS and EOS included, and rows keep their length. The marks and the words
that were cut in two need some places more than there were, so the text loses a few tokens, at an edge where it was cut
before if there is one:

    ... lies beyond the row's end    its last tokens, which the row's end had cut at random anyway. EOS takes one place
                                     more: this arrangement is complete, and the model learns where a middle ends
    ... began before the row         its first tokens, likewise
    a whole document                 its last tokens, for its beginning says more about it

They are taken from prefix or suffix, and from the middle only where there is nothing else: what is to be filled in
always leads up to what follows it. Which documents, where and how depends on the seed and on the number of the sample.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from underlay.config import Config
from underlay.data.masking import Rows
from underlay.models import Batch
from underlay.text import Gap, Special, Tokenizer

_LEAST_TOKENS = 8
"""Shorter pieces stay as they are: the marks would take the place of most of their text."""


class MiddleConfig(Config):
    """How many documents are rearranged, and how (arXiv:2207.14255, section 4)."""

    rate: float = Field(default=0.5, gt=0, le=1)
    """Share of documents that are rearranged; 0.5 to 0.9 cost nothing of what is learned from left to right there."""
    spm: float = Field(default=0.5, ge=0, le=1)
    """Share of those in which the suffix comes first, then prefix and middle in one piece."""


class Middles:
    """Rows with rearranged documents; `weights` is 0 where a target only pads."""

    def __init__(self, rows: Rows, tokenizer: Tokenizer, config: MiddleConfig) -> None:
        """Raises UserError where the tokenizer has no marks for a gap."""
        self.rows, self.config = rows, config
        self._tokenizer, self._gap = tokenizer, Gap(tokenizer)
        self._eos, self._pad = tokenizer.special(Special.EOS), tokenizer.special(Special.PAD)
        self._special = np.isin(np.arange(tokenizer.size), list(tokenizer.special_ids))

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ... as one batch of shape (count, context)."""
        plain = self.rows.batch(first, count)
        window = torch.cat([plain.tokens, plain.targets[:, -1:]], 1).numpy()
        for number, row in enumerate(window):
            self._rearrange(row, np.random.default_rng([self.rows.seed, first + number]))
        tokens = torch.from_numpy(window)
        targets = tokens[:, 1:].contiguous()
        weights = (targets != self._pad).float()
        return Batch(tokens[:, :-1].contiguous(), targets, weights, plain.documents, plain.segments)

    def _rearrange(self, row: NDArray[np.int64], random: np.random.Generator) -> None:
        """Rearrange documents of a row (context + 1,), which ends with the last token's target, in place."""
        text = np.flatnonzero(np.diff(~self._special[row], prepend=False, append=False))
        for start, end in text.reshape(-1, 2).tolist():
            if end - start < _LEAST_TOKENS or random.random() >= self.config.rate:
                continue
            data = self._tokenizer.decode_bytes(row[start:end].tolist())
            cuts = _characters(data)
            if len(cuts) < 2:
                continue
            # Any pair of different cuts is as likely: prefix and suffix may be empty, the middle never is.
            low, high = np.sort(cuts[random.choice(len(cuts), 2, replace=False)]).tolist()
            prefix, middle, suffix = map(self._tokenizer.encode_bytes, (data[:low], data[low:high], data[high:]))
            ended = [self._eos] if end == len(row) else []
            room = end - start - len(self._gap.marks) - len(ended)
            prefix, middle, suffix = _fitted(prefix, middle, suffix, room, at_start=start == 0 and not ended)
            ids = self._gap.arranged(prefix, suffix, middle + ended, spm=random.random() < self.config.spm)
            row[start:end] = [self._pad] * (end - start - len(ids)) + ids


def _characters(data: bytes) -> NDArray[np.int64]:
    """Where UTF-8 may be cut: before each character, and at the end."""
    letters = np.frombuffer(data, np.uint8)
    return np.append(np.flatnonzero(letters & 0xC0 != 0x80), len(data))


def _fitted(
    prefix: list[int], middle: list[int], suffix: list[int], room: int, at_start: bool
) -> tuple[list[int], list[int], list[int]]:
    """The parts of a text without what is too much for `room` tokens, at its start or at its end."""
    surplus = max(0, len(prefix) + len(middle) + len(suffix) - room)
    behind = min(len(suffix), max(0, surplus - len(prefix)) if at_start else surplus)
    ahead = surplus - behind
    return prefix[ahead:], middle[max(0, ahead - len(prefix)) :], suffix[: len(suffix) - behind]
