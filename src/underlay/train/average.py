"""An average of the weights over the steps, which is often better than the last of them (arXiv:2407.20177)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from underlay.train.spread import Spread


class Average:
    """An exponential moving average of all weights that learn.

    Its decay rises with the steps, min(decay, (1 + n) / (10 + n)), so that the random beginning is soon forgotten.
    """

    def __init__(self, spread: Spread, decay: float) -> None:
        self.decay = decay
        self._pieces = spread.pieces
        self._weights = [piece.local.detach() for piece in spread.pieces]
        self._means = [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights after the `steps`-th step."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(self._means, self._weights, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average into the model."""
        torch._foreach_copy_(self._weights, self._means)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the average in the model for the length of a block; afterwards all is as it was, bit for bit."""
        before = [weight.clone() for weight in self._weights]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._weights, before)

    def state(self) -> dict[str, Tensor]:
        """The average, by the names of the weights."""
        return {piece.name: piece.named(mean) for piece, mean in zip(self._pieces, self._means, strict=True)}
