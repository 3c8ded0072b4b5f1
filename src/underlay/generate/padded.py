"""Texts of many lengths as batches: sorted by length, so that little is padded, and padded on the right."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from underlay.text.tokenizer import Framed

BATCH_TOKENS = 8192
"""Tokens read in one go, padding included."""


class Padded(NamedTuple):
    """Some of the texts, in one shape; `time` is the length of the longest."""

    rows: list[int]
    """Which of the texts they are."""
    tokens: Tensor
    """(batch, time) int64; 0 where there is no token."""
    present: Tensor
    """(batch, time) bool, True where a token is real."""
    types: Tensor
    """(batch, time) int64, the kind of segment; 0 where there is no token."""


def padded(texts: Sequence[Framed], batch_tokens: int, device: torch.device) -> Iterator[Padded]:
    """Batches that hold every text once, the longest first, each of at most `batch_tokens` or of one text."""
    batch: list[int] = []
    for row in sorted(range(len(texts)), key=lambda row: -len(texts[row].ids)):
        if batch and len(texts[batch[0]].ids) * (len(batch) + 1) > batch_tokens:
            yield _pad(texts, batch, device)
            batch = []
        batch.append(row)
    if batch:
        yield _pad(texts, batch, device)


def _pad(texts: Sequence[Framed], rows: list[int], device: torch.device) -> Padded:
    lengths = torch.tensor([len(texts[row].ids) for row in rows])
    present = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens, types = torch.zeros(present.shape, dtype=torch.int64), torch.zeros(present.shape, dtype=torch.int64)
    for place, row in enumerate(rows):
        tokens[place, : lengths[place]] = torch.tensor(texts[row].ids, dtype=torch.int64)
        types[place, : lengths[place]] = torch.tensor(texts[row].type_ids, dtype=torch.int64)
    return Padded(rows, tokens.to(device), present.to(device), types.to(device))
