"""Attention on a CPU as plain matrix products, a block of queries at a time.

torch's own fused attention (FlashAttention, arXiv:2205.14135) never stores the scores, which is what counts on a GPU.
On a CPU the scores of one block fit into the cache anyway, and its small products run at a third of the speed of large
ones. So for rows of moderate length the products are made large here: query heads that share keys go through one of
them, and the blocks above the diagonal are left out.

    queries  0..127    keys 0..127      causal: each block of queries meets only keys up to its own end
    queries  128..255  keys 0..255
    queries  256..383  keys 0..383
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Queries a block: fewer make small products, more waste what lies above the diagonal."""
LONGEST = 1024
"""Positions up to which probabilities are kept for the backward pass; they grow with the square of the length."""


def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> Tensor:
    """softmax(scale query key^T) value, for a CPU; scores are kept in the dtype of queries, sums in float32.

    query: (batch, heads, time, head_dim); key, value: (batch, kv_heads, seen, head_dim), where a causal query sees as
    many keys as queries came, its own included, and so `seen` is `time`. Returns (batch, heads, time, head_dim).
    """
    result: Tensor = _Attend.apply(query, key, value, causal, scale)  # type: ignore[no-untyped-call]
    return result


class _Attend(torch.autograd.Function):
    """The backward pass by hand: autograd would add up each block's gradients of keys and values at full length."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> Tensor:
        batch, kv_heads, seen, _ = key.shape
        # Rows of one product: the heads of a group, one after the other.
        query = torch.unflatten(query * scale, 1, (kv_heads, -1)).flatten(0, 1)
        key, value = key.flatten(0, 1), value.flatten(0, 1)
        mixed, kept = [], []
        for start, end in _blocks(query.shape[2]):
            last = end if causal else seen
            scores = query[:, :, start:end].flatten(1, 2) @ key[:, :last].mT
            if causal:
                later = torch.ones(end - start, end - start, dtype=torch.bool, device=scores.device).triu(1)
                torch.unflatten(scores, 1, (-1, end - start))[..., start:].masked_fill_(later, float("-inf"))
            chances = scores.softmax(-1)
            mixed.append(torch.unflatten(chances @ value[:, :last], 1, (-1, end - start)))
            kept.append(chances)
        ctx.causal, ctx.scale, ctx.batch = causal, scale, batch
        ctx.save_for_backward(query, key, value, *kept)
        return torch.unflatten(torch.cat(mixed, dim=2), 0, (batch, kv_heads)).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        kv_heads = len(key) // ctx.batch
        given = torch.unflatten(gradients[0], 1, (kv_heads, -1)).flatten(0, 1)
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        to_query = []
        for (start, end), chances in zip(_blocks(query.shape[2]), kept, strict=True):
            last = chances.shape[-1]
            asked, told = (x[:, :, start:end].flatten(1, 2) for x in (query, given))
            to_value[:, :last] += chances.mT @ told
            to_chances = told @ value[:, :last].mT
            to_scores = torch._softmax_backward_data(to_chances, chances, -1, chances.dtype)
            to_query.append(torch.unflatten(to_scores @ key[:, :last], 1, (-1, end - start)))
            to_key[:, :last] += to_scores.mT @ asked
        shape = (ctx.batch, kv_heads)
        found = torch.unflatten(torch.cat(to_query, dim=2), 0, shape).flatten(1, 2) * ctx.scale
        return found, torch.unflatten(to_key, 0, shape), torch.unflatten(to_value, 0, shape), None, None


def _blocks(time: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, time)) for start in range(0, time, BLOCK)]
