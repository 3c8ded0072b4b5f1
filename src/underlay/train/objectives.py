"""What a model learns from a batch. The loop calls an objective and knows nothing else about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from underlay.models import Batch, Decoder, Encoder
from underlay.models.parts import masks


@dataclass(frozen=True)
class Loss:
    """A sum over what was predicted, and how much that was; the loop divides once, over all micro-batches."""

    sum: Tensor
    """Scalar float32: summed loss, in nats."""
    count: Tensor
    """Scalar float32: summed weight of the targets."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalar float32 each, summed as the loss is: what else is told of a step, such as how often it was right."""


class Objective(Protocol):
    """Callable from a model and a batch to a loss."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Run the model on the batch."""


_EVEN = 32
"""Targets that count are filled up to a multiple of so many."""


def where_counted(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The places of targets that count, and their weights: (rows,) each; the last may be others, of weight 0.

    Libraries keep what they prepare for each number of rows, and memory is parted for it; as many numbers as there are
    steps would take more and more of it. So only multiples come.
    """
    flat = weights.flatten()
    places = flat.nonzero()[:, 0]
    rest = -len(places) % _EVEN
    return torch.cat([places, places.new_zeros(rest)]), torch.cat([flat[places], flat.new_zeros(rest)])


@dataclass(frozen=True)
class CausalLM:
    """Predict each next token; the loss is cross-entropy in nats.

    Any model will do that has `hidden` and `cross_entropy`, so masked language modelling is the same thing, with other
    targets. The head is computed for targets that count alone.
    """

    dtype: torch.dtype = torch.float32
    """Of activations and matrix products; logits are reduced in float32."""
    compile: bool = False
    """Fuse the reduction of the logits by torch.compile."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Loss over the batch's targets, each counted by its weight."""
        assert isinstance(model, Decoder | Encoder)
        hidden = self._hidden(model, batch).flatten(0, 1)
        targets = batch.targets.flatten()
        if batch.weights is None:
            weights = torch.ones(len(targets), device=hidden.device)
        else:
            counted, weights = where_counted(batch.weights)
            hidden, targets = hidden[counted], targets[counted]
        return Loss(model.cross_entropy(hidden, targets, weights, self.compile), weights.sum())

    def _hidden(self, model: Decoder | Encoder, batch: Batch) -> Tensor:
        if batch.segments is None:
            return model.hidden(batch.tokens, dtype=self.dtype)
        assert isinstance(model, Decoder), "documents in one row are kept apart for decoders"
        mask, positions = masks.isolated(batch.segments)
        return model.hidden(batch.tokens, positions, mask, dtype=self.dtype)
