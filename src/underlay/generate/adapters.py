"""Small changes to a model's matrices, chosen request by request over one set of weights (LoRA, arXiv:2106.09685).

The product of a matrix with its change is W x + scale B (A x); the two thin matrices are kept apart from W, so that
requests with different adapters, or with none, share a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


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
