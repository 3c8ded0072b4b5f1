"""An average of the weights over the steps, which is often better than the last of them (arXiv:2407.20177)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of all weights that learn.

    Its decay rises with the steps, min(decay, (1 + n) / (10 + n)), so that the random beginning is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._weights = [p.detach() for p in model.parameters() if p.requires_grad]
        self._means = [p.clone() for p in self._weights]

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
        return dict(zip(self._names, self._means, strict=True))

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up a state that `state` gave."""
        for name, mean in self.state().items():
            mean.copy_(tensors[name])
