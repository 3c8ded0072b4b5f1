"""Merging an adapter into its model, and the certificate that says what that changed.

Changes are added in float32 and rounded once. What was merged computes the same in exact arithmetic; how far it drifts
here is measured on text, not believed: silent changes of merged models are an old pain (arXiv:2305.14314 keeps its base
in 4 bits, and merging into those changed answers).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from underlay.models import Decoder
from underlay.models.adapter import Adapter, changed

TOLERANCE = 1e-4
"""Nats of divergence a token above which a merged model is another model."""


@dataclass(frozen=True)
class Drift:
    """How far two models are apart on some tokens."""

    tokens: int
    logits: float
    """Largest difference of a logit."""
    divergence: float
    """Mean Kullback-Leibler divergence of the distributions over the next token, in nats."""
    agreement: float
    """Share of tokens for which both find the same next token likeliest."""


@torch.no_grad()
def drift(one: Decoder, other: Decoder, rows: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32) -> Drift:
    """Compare what two models say of rows of token ids, computed in `dtype`."""
    assert rows, "something to compare on"
    tokens, largest, divergence, agreed = 0, 0.0, 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        first, second = (model(ids, dtype=dtype).float()[0] for model in (one, other))
        largest = max(largest, float((first - second).abs().max()))
        divergence += float(_divergence(first, second))
        agreed += int((first.argmax(-1) == second.argmax(-1)).sum())
        tokens += len(row)
    return Drift(tokens, largest, divergence / tokens, agreed / tokens)


def merge(model: Decoder, adapter: Adapter) -> Decoder:
    """A model of its own with the adapter's changes in its float32 weights. Raises UserError where they do not fit."""
    return changed(model, adapter)


def unmerge(model: Decoder, adapter: Adapter) -> Decoder:
    """The way back: a model without the changes that were merged into it, but for float32's rounding."""
    return changed(model, adapter.negated())


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    p, q = one.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum()
