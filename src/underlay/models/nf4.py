"""NormalFloat of four bits, in which a frozen matrix can be kept while small changes of it learn (arXiv:2305.14314).

Weights are nearly normal, so the sixteen levels are quantiles of the normal distribution (appendix E of the paper),
scaled to the largest weight of each block of 64. A weight takes 4.5 bits; the matrix is made again wherever it is used.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
BLOCK = 64
"""Neighbouring weights that share a scale."""


@dataclass(frozen=True)
class Nf4:
    """A matrix of four bits a weight."""

    codes: Tensor
    """(n / 2,) uint8: two levels each, the first in the lower half; n: weights, filled up to whole blocks."""
    scales: Tensor
    """(n / 64,) float32."""
    shape: tuple[int, ...]

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix that the numbers stand for."""
        pairs = _pairs(self.codes.device, dtype)[self.codes.int()]
        blocks = pairs.view(-1, BLOCK) * self.scales.to(dtype)[:, None]
        count = 1
        for size in self.shape:
            count *= size
        return blocks.flatten()[:count].view(self.shape)


def to_nf4(weight: Tensor) -> Nf4:
    """Each weight to the nearest level of its block."""
    flat = weight.detach().float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    levels = torch.tensor(LEVELS, device=flat.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None], between)
    low, high = codes.view(-1, 2).unbind(1)
    return Nf4((low + 16 * high).to(torch.uint8), scales, tuple(weight.shape))


def _pairs(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The two levels of every byte: (256, 2)."""
    levels = torch.tensor(LEVELS, dtype=dtype, device=device)
    return torch.stack([levels.repeat(16), levels.repeat_interleave(16)], dim=1)
