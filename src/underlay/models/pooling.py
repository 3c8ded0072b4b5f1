"""From the states of a text's tokens to one vector for the text (Sentence-BERT, arXiv:1908.10084)."""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "cls", "last"]
"""mean: of all tokens; cls: the first token's state; last: the last token's, for decoders."""


def pool(hidden: Tensor, present: Tensor, pooling: Pooling, normalised: bool = True) -> Tensor:
    """One vector a text: (batch, time, width) to (batch, width) float32.

    present: (batch, time) bool, True where a token is real; every row has one. normalised: scale to length one.
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    wide = hidden.float()
    if pooling == "mean":
        weights = present[..., None].float()
        vectors = (wide * weights).sum(1) / weights.sum(1)
    elif pooling == "cls":
        vectors = wide[rows, present.int().argmax(1)]
    else:
        vectors = wide[rows, present.shape[1] - 1 - present.flip(1).int().argmax(1)]
    return torch.nn.functional.normalize(vectors, dim=-1) if normalised else vectors
