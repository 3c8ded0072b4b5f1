"""Attention: each position gathers what it needs from the others (arXiv:1706.03762)."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underlay.models.parts import masks
from underlay.models.parts.blocked import LONGEST, attend
from underlay.models.parts.linear import Linear
from underlay.models.parts.norm import RMSNorm
from underlay.models.parts.rope import Rotation, rotate


class LayerCache(Protocol):
    """The keys and values one attention layer has seen."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (batch, kv_heads, new, head_dim); return all, (batch, kv_heads, seen, head_dim)."""


class Attention(nn.Module):
    """Attention with grouped key-value heads (arXiv:2305.13245; one of them is multi-query, arXiv:1911.02150)."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        causal: bool = True,
        bias: bool = False,
        output_bias: bool = False,
        query_norm: RMSNorm | None = None,
        key_norm: RMSNorm | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        clip: float | None = None,
    ) -> None:
        """Take the sizes, and what a family adds to them.

        query_norm, key_norm: over a head's channels (arXiv:2010.04245) or, where they are as wide, over all heads';
        scale: of scores, by default 1 / sqrt(head_dim); softcap: scores stay within it, by a tanh (arXiv:2408.00118);
        clip: queries, keys and values are cut to it (arXiv:2402.00838).
        """
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.causal, self.scale, self.softcap, self.clip = causal, scale, softcap, clip
        self.query = Linear(width, heads * head_dim, bias)
        self.key = Linear(width, kv_heads * head_dim, bias)
        self.value = Linear(width, kv_heads * head_dim, bias)
        self.output = Linear(heads * head_dim, width, output_bias)
        self.query_norm, self.key_norm = query_norm, key_norm

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """x: (batch, time, width); returns the same shape.

        mask: bool, True where to look, or float, added to the scores; broadcastable to (batch, heads, time, seen); or
        int64 (batch, time), the first place that each token of a causal layer sees. Without one, a causal layer sees
        what came before and itself, another one everything. memory: (batch, seen, width) gives keys and values in the
        place of x (cross-attention).
        """
        source = x if memory is None else memory
        query = self._split(self.query(x), self.query_norm)
        key = self._split(self.key(source), self.key_norm)
        value = self._split(self.value(source))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None:
            key, value = cache.extend(key, value)
        causal = self.causal and memory is None and (mask is None or mask.dtype == torch.int64)
        mixed = self._mix(query, key, value, mask, causal)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor, norm: RMSNorm | None = None) -> Tensor:
        """(batch, time, heads * head_dim) to (batch, heads, time, head_dim), clipped and normalised on the way."""
        if self.clip is not None:
            x = x.clamp(-self.clip, self.clip)
        if norm is not None and norm.width != self.head_dim:
            x = norm(x)
        x = x.view(*x.shape[:-1], -1, self.head_dim)
        if norm is not None and norm.width == self.head_dim:
            x = norm(x)
        return x.transpose(1, 2)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """The values of each head, weighted by how well keys answer the query: (batch, heads, time, head_dim)."""
        grouped = self.kv_heads != self.heads
        first = mask if mask is not None and mask.dtype == torch.int64 else None
        if self.softcap is None:
            time, seen = query.shape[2], key.shape[2]
            plain = mask is first and (time == seen or not causal) and time > 1 and seen <= LONGEST
            # torch's own is faster where nothing lies above the diagonal and small products run at full speed.
            if plain and query.device.type == "cpu" and (causal or query.dtype != torch.float32):
                scale = self.head_dim**-0.5 if self.scale is None else self.scale
                return attend(query, key, value, causal, scale, first)
        if first is not None:
            mask, causal = masks.within(first), False
        if self.softcap is None:
            if mask is not None and mask.is_floating_point():
                mask = mask.to(query.dtype)
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=causal, scale=self.scale, enable_gqa=grouped
            )
        if grouped:
            key, value = (x.repeat_interleave(self.heads // self.kv_heads, dim=1) for x in (key, value))
        scores = query @ key.mT * (self.head_dim**-0.5 if self.scale is None else self.scale)
        scores = self.softcap * torch.tanh(scores / self.softcap)
        if causal:
            time, seen = scores.shape[-2:]
            mask = torch.ones(time, seen, dtype=torch.bool, device=scores.device).tril(seen - time)
        if mask is not None:
            scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
