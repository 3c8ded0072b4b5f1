"""Rotary positions (RoPE, arXiv:2104.09864), and the ways in which families stretch them over longer texts.

Each pair of channels turns with the position at a frequency of its own. A model that was trained on short texts reads
longer ones when the slow frequencies are slowed further; the kinds of scaling differ in which ones, and by how much.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from underlay.config import Config

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each broadcastable to (batch, heads, time, head_dim // 2) float32."""


class RopeScaling(Config):
    """How frequencies are stretched beyond the context a model was first trained on."""

    kind: Literal["linear", "dynamic", "llama3", "yarn"]
    """linear: all positions divided by `factor` (arXiv:2306.15595). dynamic: the base grows with the length of the text
    (NTK-aware, only beyond the model's context). llama3: slow frequencies divided by `factor`, fast ones kept, those
    between blended (arXiv:2407.21783). yarn: the same idea with a ramp, and sharper attention (arXiv:2309.00071)."""
    factor: float = Field(ge=1)
    """How many times longer the new context is."""
    original_context: int | None = Field(default=None, gt=0)
    """Tokens of context before stretching; by default the model's own."""
    low: float = Field(default=1.0, gt=0)
    """llama3: frequencies with fewer turns than this over the original context are slow."""
    high: float = Field(default=4.0, gt=0)
    """llama3: frequencies with more turns than this are fast."""
    beta_fast: float = Field(default=32.0, gt=0)
    """yarn: frequencies with more turns than this are kept."""
    beta_slow: float = Field(default=1.0, gt=0)
    """yarn: frequencies with fewer turns than this are divided by `factor`."""
    truncate: bool = True
    """yarn: round the ramp's ends to whole channels."""
    sharpen: float | None = Field(default=None, gt=0)
    """yarn: what queries and keys are multiplied by; by default 0.1 ln(factor) + 1."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.kind == "dynamic" and self.original_context is not None:
            raise ValueError("original_context: dynamic scaling begins beyond the model's own context")
        if self.kind == "llama3" and self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


@dataclass(frozen=True)
class Rope:
    """The rotation of one kind of layer."""

    head_dim: int
    base: float = 10_000.0
    scaling: RopeScaling | None = None
    context: int = 0
    """The model's context, for scalings that do not name their own."""

    def rotation(self, positions: Tensor, turns: Tensor | None = None) -> Rotation:
        """Cosines and sines for positions (batch, time) int64; each (batch, 1, time, head_dim // 2) float32.

        turns: what `turns` gives for them, where it is there already.
        """
        angles = positions[:, None, :, None].float() * (self.turns(positions) if turns is None else turns)
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self._sharpening == 1 else (cos * self._sharpening, sin * self._sharpening)

    def turns(self, positions: Tensor) -> Tensor:
        """Radians a token, for each pair of channels: (head_dim // 2,) float32, where the positions are."""
        return torch.tensor(self._turns(positions), device=positions.device)

    def _turns(self, positions: Tensor) -> tuple[float, ...]:
        scaling, original = self.scaling, self._original
        if scaling is None or scaling.kind != "dynamic" or (length := int(positions.max()) + 1) <= original:
            return self._frequencies
        stretch = scaling.factor * length / original - (scaling.factor - 1)
        return _powers(self.base * stretch ** (self.head_dim / (self.head_dim - 2)), self.head_dim)

    @property
    def _original(self) -> int:
        return (self.scaling and self.scaling.original_context) or self.context

    @cached_property
    def _frequencies(self) -> tuple[float, ...]:
        plain, scaling = _powers(self.base, self.head_dim), self.scaling
        if scaling is None or scaling.kind == "dynamic":
            return plain
        kept = [_kept(scaling, self, channel, self._original) for channel in range(len(plain))]
        return tuple(f * k + f / scaling.factor * (1 - k) for f, k in zip(plain, kept, strict=True))

    @cached_property
    def _sharpening(self) -> float:
        if self.scaling is None or self.scaling.kind != "yarn":
            return 1.0
        return self.scaling.sharpen or 0.1 * math.log(self.scaling.factor) + 1.0


def _powers(base: float, head_dim: int) -> tuple[float, ...]:
    return tuple(base ** (-2 * channel / head_dim) for channel in range(head_dim // 2))


def _kept(scaling: RopeScaling, rope: Rope, channel: int, original: int) -> float:
    """How much of a frequency stays as it was: 1 for fast ones, 0 for slow ones, something between on the ramp."""
    if scaling.kind == "linear":
        return 0.0
    if scaling.kind == "llama3":
        turns = original * rope.base ** (-2 * channel / rope.head_dim) / (2 * math.pi)
        return min(1.0, max(0.0, (turns - scaling.low) / (scaling.high - scaling.low)))

    def channel_of(turns: float) -> float:
        """The (fractional) pair of channels that turns so often over the original context."""
        return rope.head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.base))

    first, last = channel_of(scaling.beta_fast), channel_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.head_dim - 1)
    return 1.0 - min(1.0, max(0.0, (channel - first) / ((last - first) or 0.001)))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each query or key pair by its position's angle (in the rotate-half layout, as Llama stores it).

    x: (batch, heads, time, head_dim); returns the shape of x.
    """
    cos, sin = rotation[0].to(x.dtype), rotation[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
