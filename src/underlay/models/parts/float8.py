"""Matrix products in 8 bits, for GPUs whose tensor cores multiply them at twice the rate of bfloat16.

Each operand is scaled so that its largest value is the largest its format holds, rounded, multiplied with sums in
float32, and scaled back: E4M3 for activations and weights, E5M2, which reaches further, for gradients ("FP8 formats for
deep learning", arXiv:2209.05433). A scale is that of the very tensor; nothing is remembered from step to step, so a run
that goes on from a checkpoint is still the same run.
"""

from typing import Any

import torch
from torch import Tensor

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""What every side of a product must be a multiple of."""


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether x: (..., inputs) and weight: (outputs, inputs) can be multiplied in 8 bits, backward too."""
    return all(size % MULTIPLE == 0 for size in (x.numel() // x.shape[-1], *weight.shape))


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T in 8 bits; x: (..., inputs), weight: (outputs, inputs), of one dtype, which is the result's too."""
    result: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
    return result


class _Linear(torch.autograd.Function):
    """Keeps the rounded operands for the backward pass: half of what bfloat16 would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows, by = rounded(x.flatten(0, -2), E4M3)
        columns, of = rounded(weight, E4M3)
        ctx.save_for_backward(rows, by, columns, of)
        return _product(rows, columns, by, of, x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        rows, by, columns, of = ctx.saved_tensors
        (gradient,) = gradients
        given, scale = rounded(gradient.flatten(0, -2), E5M2)
        to_x = _product(given, columns.t().contiguous(), scale, of, gradient.dtype)
        to_weight = _product(given.t().contiguous(), rows.t().contiguous(), scale, by, gradient.dtype)
        return to_x.view(*gradient.shape[:-1], -1), to_weight


def rounded(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in 8 bits, and the float32 scalar that it is to be multiplied by again."""
    largest = torch.finfo(dtype).max
    scale = largest / x.detach().abs().amax().float().clamp(min=1e-12)
    return (x.float() * scale).clamp(-largest, largest).to(dtype), scale.reciprocal()


def _product(left: Tensor, right: Tensor, by: Tensor, of: Tensor, dtype: torch.dtype) -> Tensor:
    """left @ right.T; left: (n, k), right: (m, k), both row by row."""
    result: Tensor = torch._scaled_mm(left, right.t(), scale_a=by, scale_b=of, out_dtype=dtype)
    return result
