"""What a model learns from a batch. The loop calls an objective and knows nothing else about it."""

from dataclasses import dataclass
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

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Loss over the batch's targets, each counted by its weight."""
        logits = model(batch.tokens, dtype=self.dtype).float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        if batch.weights is None:
            return Loss(losses.sum(), losses.new_tensor(float(batch.targets.numel())))
        weights = batch.weights.flatten()
        return Loss((losses * weights).sum(), weights.sum())
