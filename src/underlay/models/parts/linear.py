"""Matrices: products and look-ups, in the activations' dtype."""

import torch.nn.functional as F
from torch import Tensor, nn

from underlay.models.parts import float8


class Linear(nn.Linear):
    """A matrix multiplication in the activations' dtype. Its memory is left as it is: a family draws or loads it."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.eight_bits = False
        """Multiply in 8 bits; see `underlay.train.float8`."""

    def reset_parameters(self) -> None:
        """Do nothing; see `underlay.models.initial`."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., inputs); returns (..., outputs)."""
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        if self.eight_bits and self.training and float8.fits(x, weight):
            product = float8.linear(x, weight)
            return product if bias is None else product + bias
        return F.linear(x, weight, bias)


class Embedding(nn.Embedding):
    """One row a token (or a position). Its memory is left as it is: a family draws or loads it."""

    def reset_parameters(self) -> None:
        """Do nothing; see `underlay.models.initial`."""
