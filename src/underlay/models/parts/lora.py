"""A frozen matrix with a small change that learns (LoRA, arXiv:2106.09685).

    y = x W^T + s (x A^T) B^T            A: (rank, inputs) drawn, B: (outputs, rank) zero, so that it starts as it was

The pass back is written by hand. Of W no gradient is wanted, so half of a matrix's work falls away; what is kept for it
is x, which others need as well, and the thin x A^T. Autograd would keep the full-sized sums between.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underlay.models.parts.linear import Linear


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
        self.rank, self.scale = rank, scale
        self.lora_a = nn.Parameter(self.weight.new_empty(rank, base.in_features, dtype=torch.float32))
        self.lora_b = nn.Parameter(self.weight.new_zeros(base.out_features, rank, dtype=torch.float32))

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
        changed: Tensor = _Changed.apply(  # type: ignore[no-untyped-call]
            x, self.weight.to(dtype), bias, self.lora_a.to(dtype), self.lora_b.to(dtype), self.scale
        )
        return changed

    def change(self) -> Tensor:
        """What is added to the weights: (outputs, inputs) float32."""
        return self.scale * (self.lora_b.detach() @ self.lora_a.detach())


class _Changed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        thin = rows @ a.t()
        product = F.linear(rows, weight, bias).addmm_(thin, b.t(), alpha=scale)
        ctx.save_for_backward(x, weight, a, b, thin)
        ctx.scale = scale
        return product.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, thin = ctx.saved_tensors
        told = gradients[0].reshape(-1, weight.shape[0])
        through = (told @ b).mul_(ctx.scale)
        to_a = through.t() @ x.reshape(-1, x.shape[-1])
        to_b = (told.t() @ thin).mul_(ctx.scale)
        to_x = (told @ weight).addmm_(through, a).view(x.shape) if ctx.needs_input_grad[0] else None
        return to_x, None, None, to_a, to_b, None
