"""Attention on a CPU as plain matrix products, a block of queries at a time.

torch's own fused attention (FlashAttention, arXiv:2205.14135) never stores the scores, which is what counts on a GPU.
On a CPU the scores of one block fit into the cache anyway, and its small products run at a third of the speed of large
ones. So for rows of moderate length the products are made large here: query heads that share keys go through one of
them, and the blocks above the diagonal are left out.

    queries  0..127    keys 0..127      causal: each block of queries meets only keys up to its own end
    queries  128..255  keys 0..255
    queries  256..383  keys 0..383

Where a row holds several documents that do not see each other, a block also leaves out the keys before the first one
that any of its queries sees.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Queries a block: fewer make small products, more waste what lies above the diagonal."""
LONGEST = 1024
"""Positions up to which probabilities are kept for the backward pass; they grow with the square of the length."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, first: Tensor | None = None
) -> Tensor:
    """softmax(scale query key^T) value, for a CPU; scores are kept in the dtype of queries, sums in float32.

    query: (batch, heads, time, head_dim); key, value: (batch, kv_heads, seen, head_dim), where a causal query sees as
    many keys as queries came, its own included, and so `seen` is `time`. first: (batch, time) int64, the first key that
    each causal query sees, where a row holds several documents. Returns (batch, heads, time, head_dim).
    """
    assert causal or first is None, "documents are kept apart in causal rows"
    result: Tensor = _Attend.apply(query, key, value, causal, scale, first)  # type: ignore[no-untyped-call]
    return result


class _Attend(torch.autograd.Function):
    """The backward pass by hand: autograd would add up each block's gradients of keys and values at full length."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, first: Tensor | None
    ) -> Tensor:
        batch, kv_heads, seen, size = key.shape
        query = torch.unflatten(query, 1, (kv_heads, -1))
        key, value = key.flatten(0, 1), value.flatten(0, 1)
        mixed, asked, chances, keys = [], [], [], []
        for start, end in _blocks(query.shape[3]):
            low, last = _lowest(first, start, end), end if causal else seen
            # Rows of one product: the heads of a group, one after the other.
            asks = query[:, :, :, start:end].reshape(len(key), -1, size)
            scores = torch.baddbmm(key.new_empty(1), asks, key[:, low:last].mT, beta=0, alpha=scale)
            if causal:
                later = _later(end - start, scores.dtype, scores.device)
                torch.unflatten(scores, 1, (-1, end - start))[..., start - low :].add_(later)
            if first is not None:
                earlier = torch.arange(low, last, device=first.device) < first[:, start:end, None]
                whole = scores.view(batch, kv_heads, -1, end - start, last - low)
                whole.masked_fill_(earlier[:, None, None], float("-inf"))
            chances.append(scores.softmax(-1))
            mixed.append((chances[-1] @ value[:, low:last]).view(batch, kv_heads, -1, end - start, size))
            asked.append(asks)
            keys.append((low, last))
        ctx.shape, ctx.scale, ctx.keys = (batch, kv_heads), scale, keys
        ctx.save_for_backward(key, value, *asked, *chances)
        return torch.cat(mixed, dim=3).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        key, value, *kept = ctx.saved_tensors
        given = torch.unflatten(gradients[0], 1, (ctx.shape[1], -1))
        half = len(kept) // 2
        blocks = list(zip(_blocks(given.shape[3]), ctx.keys, kept[:half], kept[half:], strict=True))
        to_query, to_key, to_value = [], torch.empty_like(key), torch.empty_like(value)
        fresh = key.shape[1]
        for (start, end), (low, last), asks, chances in reversed(blocks):
            told = given[:, :, :, start:end].reshape(asks.shape)
            to_chances = told @ value[:, low:last].mT
            to_scores = torch._softmax_backward_data(to_chances, chances, -1, chances.dtype)
            to_asks = torch.baddbmm(key.new_empty(1), to_scores, key[:, low:last], beta=0, alpha=ctx.scale)
            to_query.append(to_asks.view(*ctx.shape, -1, end - start, key.shape[-1]))
            # Blocks come from the last to the first: keys from `fresh` on were written by later ones, the rest is new.
            for begin, stop, beta in ((low, min(fresh, last), 0.0), (max(low, fresh), last, 1.0)):
                if begin < stop:
                    part = slice(begin - low, stop - low)
                    to_value[:, begin:stop].baddbmm_(chances[..., part].mT, told, beta=beta)
                    to_key[:, begin:stop].baddbmm_(to_scores[..., part].mT, asks, beta=beta, alpha=ctx.scale)
            fresh = min(fresh, low)
        found = torch.cat(to_query[::-1], dim=3).flatten(1, 2)
        to_key, to_value = (torch.unflatten(one, 0, ctx.shape) for one in (to_key, to_value))
        return found, to_key, to_value, None, None, None


def _blocks(time: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, time)) for start in range(0, time, BLOCK)]


def _lowest(first: Tensor | None, start: int, end: int) -> int:
    """The first key that any query of a block sees; code that is compiled for all batches leaves none out."""
    if first is None or torch.compiler.is_compiling():
        return 0
    return int(first[:, start:end].min())


def _later(rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What takes later keys away when added to a block of scores."""
    return torch.full((rows, rows), float("-inf"), dtype=dtype, device=device).triu_(1)
