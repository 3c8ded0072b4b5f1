"""Training with products in 8 bits: only where the device can, and only where it is faster for this very model."""

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from underlay.errors import UserError
from underlay.models.parts import Linear, float8
from underlay.train.spread import blocks

_LEAST = 1.05
"""A gain below this is not worth what is rounded away."""


def begin(model: nn.Module, tokens: int, device: torch.device, parallel: int = 1) -> float:
    """Have the blocks of a model multiply in 8 bits; returns how many times as fast that is as in bfloat16.

    tokens: those that go through the model at once. Embeddings and head stay as they are. Raises UserError where the
    device cannot, or where it would gain nothing.
    """
    if parallel > 1:
        raise UserError("precision fp8: not with tensor_parallel; take bf16, or spread the model in another way")
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise UserError(
            "precision fp8: needs a GPU that multiplies 8-bit floats (compute capability 8.9 or more); take auto"
        )
    layers = eligible(model)
    if not layers or tokens % float8.MULTIPLE:
        raise UserError(
            f"precision fp8: all sizes, and tokens at once, must be multiples of {float8.MULTIPLE}; take auto"
        )
    shapes = [tuple(layer.weight.shape) for layer in layers]
    found = gain(shapes, tokens, device)
    if found < _LEAST:
        raise UserError(f"precision fp8: {found:.2f} times the speed of bfloat16 for this model's matrices; take auto")
    use(layers)
    return found


def eligible(model: nn.Module) -> list[Linear]:
    """The matrices of the blocks whose sizes fit."""
    layers = [layer for block in blocks(model) for layer in block.modules() if isinstance(layer, Linear)]
    return [layer for layer in layers if all(size % float8.MULTIPLE == 0 for size in layer.weight.shape)]


def use(layers: list[Linear]) -> None:
    """Have these multiply in 8 bits from now on."""
    for layer in layers:
        layer.eight_bits = True


def gain(shapes: list[tuple[int, ...]], tokens: int, device: torch.device) -> float:
    """Time of a forward and backward pass through matrices of these shapes in bfloat16, by that in 8 bits."""
    plain = eight = 0.0
    random = torch.Generator(device).manual_seed(0)  # measuring must not move anybody's chance
    for shape in set(shapes):
        x, weight = (
            torch.randn(size, device=device, generator=random).bfloat16().requires_grad_()
            for size in ((tokens, shape[1]), shape)
        )
        count = shapes.count(shape)
        plain += count * _seconds(partial(F.linear, x, weight), device)
        eight += count * _seconds(partial(torch.compile(float8.linear), x, weight), device)
    return plain / eight


def _seconds(forward: Callable[[], torch.Tensor], device: torch.device, runs: int = 10) -> float:
    """The best of some passes, forward and backward."""
    best = float("inf")
    for _ in range(runs):
        began = time.perf_counter()
        forward().sum().backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
