"""Small changes to a model's matrices, over one set of weights (LoRA, arXiv:2106.09685).

The product of a matrix with its change is W x + scale B (A x); the two thin matrices are kept apart from W, so that
requests with different adapters, or with none, share a step.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from underlay.errors import UserError
from underlay.models.decoder import Decoder
from underlay.models.encoder import Encoder
from underlay.models.growing import TokenRows, with_rows
from underlay.models.parts import Linear

M = TypeVar("M", Decoder, Encoder)


@dataclass(frozen=True)
class LowRank:
    """The change of one matrix."""

    down: Tensor
    """A: (rank, inputs) float32."""
    up: Tensor
    """B: (outputs, rank) float32, with the adapter's scale already multiplied in."""


@dataclass(frozen=True)
class Adapter:
    """Changes by the name of the matrix, as the model calls it: `blocks.0.attention.query`."""

    changes: Mapping[str, LowRank]
    tokens: TokenRows | None = None
    """What was learned of tokens that the model did not have."""

    def negated(self) -> "Adapter":
        """What takes the changes back; tokens that were learned stay."""
        return Adapter({name: LowRank(change.down, -change.up) for name, change in self.changes.items()})


def check(adapter: Adapter, model: nn.Module, where: str = "the adapter") -> None:
    """Raise UserError, which names `where`, if the adapter changes what the model has not, or in another shape."""
    matrices = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    for name, change in adapter.changes.items():
        if name not in matrices:
            raise UserError(f"{where}: the model has no matrix {name}; was it made for another one?")
        outputs, inputs = matrices[name].weight.shape
        (rank, down), (up, same) = change.down.shape, change.up.shape
        if rank != same or (up, down) != (outputs, inputs):
            raise UserError(
                f"{where}: {name} is changed from {down} inputs to {up} outputs by ranks {rank} and {same}, "
                f"the model has {inputs} and {outputs}; was it made for another one?"
            )


def changed(model: M, adapter: Adapter) -> M:
    """A copy of a model with an adapter's changes in its weights. Raises UserError where they do not fit it."""
    check(adapter, model)
    merged = copy.deepcopy(model) if adapter.tokens is None else with_rows(model, adapter.tokens)
    with torch.no_grad():
        for name, change in adapter.changes.items():
            weight: Tensor = merged.get_submodule(name).weight  # type: ignore[assignment]
            weight += change.up.to(weight) @ change.down.to(weight)
    return merged
