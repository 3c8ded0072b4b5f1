"""A frozen matrix with a small change that learns (LoRA, arXiv:2106.09685).

    y = x W^T + s (x A^T) B^T            A: (rank, inputs) drawn, B: (outputs, rank) zero, so that it starts as it was

The frozen matrix may be kept in whole numbers or in four bits (QLoRA, arXiv:2305.14314); it is then made again at each
use, in the pass back, too, so that it takes its full room for a moment only.

The pass back is written by hand. Of W no gradient is wanted, so half of a matrix's work falls away; what is kept for it
is x, which others need as well, and the thin x A^T. Autograd would keep the full-sized sums between.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underlay.models.parts.linear import Linear


class Packed(Protocol):
    """A matrix kept in fewer bits."""

    def dequantise(self) -> Tensor:
        """What its numbers stand for: (outputs, inputs) float32."""


class LoraLinear(Linear):
    """A `Linear` whose own weights stand still."""

    def __init__(self, base: Linear, rank: int, scale: float) -> None:
        """Take over the weights of `base`; `scale` is what the product of the thin matrices is multiplied by."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias, self.eight_bits = base.weight, base.bias, False
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.requires_grad_(False)
        self.packed: Packed | None = None
        """The weights in fewer bits, where they are kept so; `weight` is then empty."""
        self.rank, self.scale = rank, scale
        self.lora_a = nn.Parameter(self.weight.new_empty(rank, base.in_features, dtype=torch.float32))
        self.lora_b = nn.Parameter(self.weight.new_zeros(base.out_features, rank, dtype=torch.float32))

    def pack(self, packed: Packed) -> None:
        """Keep the weights in fewer bits from now on."""
        self.packed = packed
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

    def draw(self, generator: torch.Generator) -> None:
        """Draw A, uniform within 1 / sqrt(inputs), as `peft` does; set B to zero."""
        with torch.no_grad():
            bound = self.in_features**-0.5
            self.lora_a.uniform_(-bound, bound, generator=generator)
            self.lora_b.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., inputs); returns (..., outputs)."""
        dtype = x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        weight = self.weight.to(dtype) if self.packed is None else self.packed
        changed: Tensor = _Changed.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, self.lora_a.to(dtype), self.lora_b.to(dtype), self.scale
        )
        return changed

    def change(self) -> Tensor:
        """What is added to the weights: (outputs, inputs) float32."""
        return self.scale * (self.lora_b.detach() @ self.lora_a.detach())


class _Changed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | Packed, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        thin = rows @ a.t()
        product = F.linear(rows, _dense(weight, x.dtype), bias).addmm_(thin, b.t(), alpha=scale)
        kept = weight if isinstance(weight, Tensor) else x.new_empty(0)
        ctx.save_for_backward(x, kept, a, b, thin)
        ctx.packed, ctx.scale = None if isinstance(weight, Tensor) else weight, scale
        return product.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, a, b, thin = ctx.saved_tensors
        told = gradients[0].reshape(-1, b.shape[0])
        through = (told @ b).mul_(ctx.scale)
        to_a = through.t() @ x.reshape(-1, x.shape[-1])
        to_b = (told.t() @ thin).mul_(ctx.scale)
        if not ctx.needs_input_grad[0]:
            return None, None, None, to_a, to_b, None
        weight = _dense(kept if ctx.packed is None else ctx.packed, x.dtype)
        return (told @ weight).addmm_(through, a).view(x.shape), None, None, to_a, to_b, None


def _dense(weight: Tensor | Packed, dtype: torch.dtype) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.dequantise().to(dtype)
