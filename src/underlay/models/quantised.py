"""Matrices in whole numbers of 8 or 4 bits: a half or a quarter of the bytes of bf16, for which each token waits.

A weight is read as `value * scale`. With 8 bits a row (an output) has one scale; with 4 bits each group of 32 weights
of a row has its own, because a level is one of 16 and a group's largest weight decides how coarse the others become.

    8 bits  value = round(w / scale); scale = max |w| / 127 over the row         (absmax; arXiv:2208.07339, section 2.1)
    4 bits  value = round(w / scale) in -8..7; scale = the one of some that makes the sum of (w - value * scale)^2 over
            the group least

Levels of 4 bits are lopsided: one more lies below zero than above. ggml's Q4_0 has the weight of the largest size, sign
included, become -8. That is the first of the scales tried here; others clip that weight or leave level -8 unused. On
normal weights the relative error (root of the mean square) falls from 0.0860 to 0.0813; with 7 as the highest level and
no search it is 0.0971.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.models.decoder import Decoder
from underlay.models.parts import Experts, Linear

Bits = Literal[8, 4]

GROUP = 32
"""Weights that share a scale where a weight has 4 bits."""
LOWEST = {8: -127, 4: -8}
"""The lowest value of so many bits."""
HIGHEST = {8: 127, 4: 7}
"""The highest value of so many bits."""
HEAD = "head"
"""What the output head is called, also where it is the embedding."""

SLICE = 256
"""Outputs whose scales are sought together: what is tried for them stays in the cache."""
_TRIED = (-8.0, 8.0, -7.0, 7.0, -7.5, 7.5, -8.5, 8.5, -9.0, 9.0)
"""Levels that a group's largest weight is put to, in turn; the best is kept. Finer steps gain a hundredth at most."""


@dataclass(frozen=True)
class QuantisedMatrix:
    """A matrix of whole numbers, and what they are multiplied by."""

    bits: Bits
    values: Tensor
    """(outputs, inputs) int8: -127 to 127 of 8 bits, -8 to 7 of 4."""
    scales: Tensor
    """(outputs, groups) float32: one group a row of 8 bits, groups of 32 neighbouring inputs of 4."""

    def __post_init__(self) -> None:
        outputs, inputs = self.values.shape
        groups = groups_of(inputs, self.bits)
        assert self.values.dtype == torch.int8
        assert self.scales.dtype == torch.float32
        assert self.scales.shape == (outputs, groups), "a scale for each group"
        assert inputs % groups == 0, "whole groups"

    def dequantise(self) -> Tensor:
        """What the numbers stand for: (outputs, inputs) float32."""
        grouped = self.values.reshape(*self.scales.shape, -1)
        return (grouped * self.scales[..., None]).flatten(1)


def groups_of(inputs: int, bits: Bits) -> int:
    """How many scales a row has."""
    return 1 if bits == 8 else inputs // GROUP


def fitting(inputs: int, bits: Bits) -> Bits:
    """The bits for a matrix with so many inputs: 8 in the place of 4 where 32 does not divide them."""
    return 8 if inputs % GROUP else bits


def round_to_nearest(weight: Tensor, bits: Bits) -> QuantisedMatrix:
    """Quantise a matrix (outputs, inputs) of floats by itself, without a look at what it is multiplied with.

    Of 4 bits, a matrix whose inputs are no multiple of 32 gets 8. Raises UserError where it holds NaN or infinity.
    """
    weight = weight.detach().float()
    if not weight.isfinite().all():
        raise UserError("weights hold NaN or infinity; this model is broken")
    bits = fitting(weight.shape[1], bits)
    scales = best_scales(weight, bits)
    return QuantisedMatrix(bits, nearest(weight, scales, bits), scales)


def levels(weight: Tensor, scale: Tensor, bits: Bits) -> Tensor:
    """The values nearest to weights, float32; weight and scale are of shapes that go together."""
    # A group of zeros, or of what is almost none, has a scale whose inverse is infinite: its values are zero.
    inverse = torch.where(scale.abs() > torch.finfo(torch.float32).tiny, 1 / scale, 0)
    return (weight * inverse).round_().clamp_(LOWEST[bits], HIGHEST[bits])


def nearest(weight: Tensor, scales: Tensor, bits: Bits) -> Tensor:
    """The values nearest to weights (outputs, inputs), given the scales (outputs, groups) of their groups; int8."""
    grouped = weight.reshape(*scales.shape, -1)
    return levels(grouped, scales[..., None], bits).to(torch.int8).flatten(1)


def best_scales(weight: Tensor, bits: Bits, importance: Tensor | None = None) -> Tensor:
    """Scales (outputs, groups) float32 for weights (outputs, inputs) float32, whose inputs are whole groups.

    importance: (inputs,), how much the squared error of an input's weights counts; by default all the same.
    """
    if len(weight) > SLICE:
        return torch.cat([best_scales(part, bits, importance) for part in torch.split(weight, SLICE)])
    grouped = weight.reshape(len(weight), groups_of(weight.shape[1], bits), -1)
    if bits == 8:
        return grouped.abs().amax(2) / HIGHEST[8]
    counts = torch.ones_like(grouped[:1]) if importance is None else importance.reshape(1, *grouped.shape[1:])
    largest = grouped.gather(2, grouped.abs().argmax(2, keepdim=True))
    # In units of its largest weight, so that no square of a group is too large or too small for float32.
    unit = torch.where(largest == 0, 1, largest)
    grouped = grouped / unit
    best, least = torch.zeros_like(unit), torch.full_like(unit, torch.inf)
    for level in _TRIED:
        scale = torch.full_like(unit, 1 / level)
        error = ((grouped - levels(grouped, scale, bits) * scale).square_() * counts).sum(2, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    # Of all scales for the values now chosen, this one leaves the least error.
    values = levels(grouped, best, bits)
    power = (values.square() * counts).sum(2)
    return torch.where(power > 0, (grouped * values * counts).sum(2) / power, best[..., 0]) * unit[..., 0]


def quantised_names(model: Decoder) -> list[str]:
    """The matrices that are quantised, in the order they are used: every `Linear` in the blocks, then the output head.

    The head is `HEAD`, tied to the embedding or not; the embedding itself stays as it is. A router of experts stays,
    too: it is small, and an expert wrongly chosen is no small error.
    """
    routers = {id(module.router) for module in model.modules() if isinstance(module, Experts)}
    inner = [
        name
        for name, module in model.blocks.named_modules()
        if isinstance(module, Linear) and id(module) not in routers
    ]
    return [*(f"blocks.{name}" for name in inner), HEAD]


def matrix(model: Decoder, name: str) -> Tensor:
    """The weight (outputs, inputs) of a matrix that `quantised_names` names: the parameter itself."""
    if name == HEAD and model.head is None:
        return model.embedding.weight
    return model.get_parameter(f"{name}.weight")
