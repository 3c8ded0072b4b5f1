"""Normalisation of the residual stream. Sums are taken in float32, whatever the activations' dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divide by the root mean square, then scale each channel (arXiv:1910.07467).

    With `offset` 1 the weights say how far the scale is from one, as Gemma stores them.
    """

    def __init__(self, width: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.width, self.eps, self.offset = width, eps, offset
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); returns the same shape."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        weight = self.weight + self.offset if self.offset else self.weight
        return (wide * scale * weight).to(x.dtype)


class LayerNorm(nn.Module):
    """Subtract the mean, divide by the standard deviation, then scale and shift each channel (arXiv:1607.06450).

    `learned=False` leaves out scale and shift, as the first OLMo does (arXiv:2402.00838).
    """

    def __init__(self, width: int, eps: float, bias: bool = True, learned: bool = True) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if learned else None
        self.bias = nn.Parameter(torch.zeros(width)) if learned and bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); returns the same shape."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, (self.width,), weight, bias, self.eps)
