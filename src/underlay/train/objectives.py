"""What a model learns from a batch. The loop calls an objective and knows nothing else about it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underlay.models import Batch


@dataclass(frozen=True)
class Loss:
    """A sum over what was predicted, and how much that was; the loop divides once, over all micro-batches."""

    sum: Tensor
    """Scalar float32: summed loss, in nats."""
    count: Tensor
    """Scalar float32: summed weight of the targets."""


class Objective(Protocol):
    """Callable from a model and a batch to a loss."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Run the model on the batch."""


@dataclass(frozen=True)
class CausalLM:
    """Predict each next token; the loss is cross-entropy in nats."""

    dtype: torch.dtype = torch.float32
    """Of activations and matrix products; logits are reduced in float32."""
    compile: bool = False
    """Fuse the reduction of the logits by torch.compile."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Loss over the batch's targets, each counted by its weight."""
        reduce = _compiled_losses() if self.compile else _losses
        losses = reduce(model(batch.tokens, dtype=self.dtype), batch.targets)
        if batch.weights is None:
            return Loss(losses.sum(), losses.new_tensor(float(batch.targets.numel())))
        weights = batch.weights.flatten()
        return Loss((losses * weights).sum(), weights.sum())


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in float32 of each target: (batch, time, vocabulary), (batch, time) to (batch * time,)."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")


@cache
def _compiled_losses() -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(_losses)
