"""What a model reads in one go: tensors with their shapes, and the documents they came from."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows of tokens with what a model is to say at each of them."""

    tokens: Tensor
    """(batch, time) int64: what the model reads."""
    targets: Tensor
    """(batch, time) int64: what is to be said at each position: what comes next, or what was hidden."""
    weights: Tensor | None = None
    """(batch, time) float32: how much each target counts; None: all count 1."""
    documents: tuple[tuple[int, ...], ...] = ()
    """For each row, the numbers (rows in the dataset's table) of the documents in it."""
    segments: Tensor | None = None
    """(batch, time) int64: the document of each token, where documents must not see each other; None: they may."""

    def to(self, device: torch.device) -> Self:
        """The same on a device, with all tensors that kinds of batches add."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: one.to(device) for name, one in held.items() if isinstance(one, Tensor)}
        return replace(self, **moved)

    def cut(self, pieces: int) -> "Batch":
        """The same tokens in rows cut into `pieces` equal parts: (batch * pieces, time // pieces)."""
        if pieces == 1:
            return self

        def shorter(tensor: Tensor) -> Tensor:
            return tensor.reshape(tensor.shape[0] * pieces, -1)

        weights = None if self.weights is None else shorter(self.weights)
        segments = None if self.segments is None else shorter(self.segments)
        documents = tuple(row for row in self.documents for _ in range(pieces))
        return Batch(shorter(self.tokens), shorter(self.targets), weights, documents, segments)
