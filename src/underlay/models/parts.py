"""The parts that model families are arranged from.

Shapes: `x: (batch, time, width)`. Weights are kept in float32 and cast to the activations' dtype where they are used,
so that one module serves float32 and bfloat16 without autocast.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """A matrix multiplication in the activations' dtype."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., inputs); returns (..., outputs)."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class RMSNorm(nn.Module):
    """Divide by the root mean square, then scale each channel (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); returns the same shape. The mean is taken in float32."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


def rotations(head_dim: int, positions: Tensor, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which RoPE turns queries and keys (arXiv:2104.09864).

    positions: (...) int64; returns two tensors (..., head_dim // 2) float32.
    """
    frequencies = base ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions[..., None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each query or key pair by its position's angle (RoPE in its rotate-half layout, as Llama stores it).

    x: (batch, heads, time, head_dim); cos, sin: broadcastable to (batch, heads, time, head_dim // 2);
    returns the shape of x.
    """
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class LayerCache(Protocol):
    """The keys and values one attention layer has seen."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (batch, kv_heads, new, head_dim); return all, (batch, kv_heads, seen, head_dim)."""


class Attention(nn.Module):
    """Causal self-attention with grouped key-value heads (arXiv:1706.03762, arXiv:2305.13245)."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, width // heads
        self.query = Linear(width, heads * self.head_dim)
        self.key = Linear(width, kv_heads * self.head_dim)
        self.value = Linear(width, kv_heads * self.head_dim)
        self.output = Linear(heads * self.head_dim, width)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """x: (batch, time, width); mask: bool, True where to look, broadcastable to (batch, heads, time, seen).

        Without a mask each position sees itself and what came before it. Returns (batch, time, width).
        """
        batch, time, _ = x.shape
        split = (batch, time, -1, self.head_dim)
        query = rotate(self.query(x).view(split).transpose(1, 2), cos, sin)
        key = rotate(self.key(x).view(split).transpose(1, 2), cos, sin)
        value = self.value(x).view(split).transpose(1, 2)
        if cache is not None:
            key, value = cache.extend(key, value)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=self.kv_heads != self.heads
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, time, -1))


class SwiGLU(nn.Module):
    """A gated MLP: down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden)
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); returns the same shape."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention, then MLP, each on a normalised view of the residual stream."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, eps)
        self.attention = Attention(width, heads, kv_heads)
        self.mlp_norm = RMSNorm(width, eps)
        self.mlp = SwiGLU(width, hidden)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """x: (batch, time, width); returns the same shape."""
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, cache)
        return x + self.mlp(self.mlp_norm(x))
