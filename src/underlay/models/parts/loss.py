"""Cross-entropy of a linear head, without ever holding all logits.

A head makes a row of `vocabulary` logits for each target: at 49,152 tokens and 1,024 targets 100 MB in bfloat16, twice
that once reduced in float32, and as much again for its gradient. Here the head and the loss are one function: rows of
logits are made, reduced, and turned into their own gradient in place, a chunk at a time, and the products with that
gradient follow at once, still in the forward pass (Liger Kernel, arXiv:2410.10989). Cut Cross-Entropy
(arXiv:2411.09009) makes the logits a second time instead, which would cost a CPU a third more.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 27
"""The most logits that exist at the same time: in bfloat16 1,024 rows of a vocabulary of 64k."""
_CACHED_BYTES, _FULL_ROWS = 1 << 24, 512
"""On a CPU fewer do in float32: what stays near its caches, but rows enough for products at full speed."""
_SLICE = 1 << 13
"""Rows of the weight whose gradient is one product: oneDNN is a quarter slower on all 50,257 at once."""
_EAGER_BYTES = 1 << 22
"""Of them in float32, where each operation passes over them again: what stays in the cache."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    compiled: bool = False,
) -> Tensor:
    """Summed cross-entropy, in nats, of the logits hidden @ weight.T + bias; a scalar float32.

    hidden: (rows, width); weight: (vocabulary, width); targets: (rows,) int64; weights: (rows,) float32, how much each
    row counts; bias: (vocabulary,). Products are taken in the dtype of `hidden`, sums in float32; hidden, weight and
    bias get gradients in their own dtypes, once. `compiled` fuses the reduction by torch.compile.
    """
    result: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, weights, bias, compiled, torch.is_grad_enabled()
    )
    return result


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are ready when the forward pass is; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        bias: Tensor | None,
        compiled: bool,
        learns: bool,
    ) -> Tensor:
        soften_rows = _compiled_soften() if compiled else soften
        rows, (vocabulary, width) = len(hidden), weight.shape
        head = weight.to(hidden.dtype)
        shift = None if bias is None else bias.to(hidden.dtype)
        size = max(1, min(rows, chunk_rows(vocabulary, hidden)))
        to_hidden, to_weight, to_bias = torch.empty_like(hidden), None, None
        # Sums of several chunks are taken in float32; one chunk's product stands as it is.
        sums = hidden.dtype if rows == size else torch.float32
        if learns and ctx.needs_input_grad[1]:
            to_weight = torch.zeros(vocabulary, width, dtype=sums, device=hidden.device)
        if learns and ctx.needs_input_grad[4]:
            to_bias = torch.zeros(vocabulary, dtype=torch.float32, device=hidden.device)
        loss = torch.zeros((), device=hidden.device)
        buffer = hidden.new_empty(size, vocabulary)
        for start in range(0, rows, size):
            part = hidden[start : start + size]
            target, count = targets[start : start + size, None], weights[start : start + size, None]
            logits = buffer[: len(part)]
            torch.mm(part, head.t(), out=logits)
            if shift is not None:
                logits += shift
            picked = logits.gather(1, target).float()
            total = soften_rows(logits, count)
            loss += ((total - picked) * count).sum()
            if not learns:
                continue
            # The target's own gradient, p - 1: in float32, since p was rounded above.
            logits.scatter_(1, target, (torch.expm1(picked - total) * count).to(logits.dtype))
            torch.mm(logits, head, out=to_hidden[start : start + size])
            if to_weight is not None:
                add_products(to_weight, logits, part, fresh=rows == size)
            if to_bias is not None:
                to_bias += logits.sum(0, dtype=torch.float32)
        ctx.gradients = to_hidden, to_weight, to_bias
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        assert ctx.gradients is not None, "a fused loss can be learned from once"
        scale = gradients[0]
        plain = scale.device.type == "cpu" and scale == 1  # elsewhere, to ask would be to wait
        kept, ctx.gradients = ctx.gradients, None
        hidden, weight, bias = (
            None if x is None or dtype is None else (x if plain else x.mul_(scale)).to(dtype)
            for x, dtype in zip(kept, ctx.dtypes, strict=True)
        )
        return hidden, weight, None, None, bias, None, None


def chunk_rows(vocabulary: int, hidden: Tensor) -> int:
    """How many rows of logits are made at once."""
    row_bytes = vocabulary * hidden.element_size()
    most = CHUNK_BYTES // row_bytes
    if hidden.device.type == "cpu" and hidden.dtype == torch.float32:  # else sums of chunks cost passes of their own
        most = min(most, max(_CACHED_BYTES // row_bytes, _FULL_ROWS))
    return most


def add_products(sums: Tensor, gradient: Tensor, hidden: Tensor, fresh: bool) -> None:
    """Add gradient.T @ hidden to `sums` (vocabulary, width), or put it there where nothing stands yet (`fresh`).

    gradient: (rows, vocabulary), of a chunk of logits; hidden: (rows, width), what they were made of.
    """
    for first in range(0, len(sums), _SLICE):
        slice_ = sums[first : first + _SLICE]
        product = gradient[:, first : first + _SLICE].t()
        if fresh:
            torch.mm(product, hidden, out=slice_)
        elif sums.dtype == hidden.dtype:
            torch.addmm(slice_, product, hidden, out=slice_)
        else:
            slice_ += product @ hidden


def soften(logits: Tensor, counts: Tensor) -> Tensor:
    """Turn rows of logits, in place, into probabilities times `counts` (rows, 1).

    Returns the logarithm of what each row summed up to, (rows, 1) float32, or float64 where the logits are.
    """
    totals = []
    rows = max(1, _EAGER_BYTES // (4 * logits.shape[1]))
    for part, count in zip(torch.split(logits, rows), torch.split(counts, rows), strict=True):
        dtype = torch.promote_types(part.dtype, torch.float32)
        highest = part.amax(-1, keepdim=True).to(dtype)
        wide = part.to(dtype).sub_(highest).exp_()
        total = wide.sum(-1, keepdim=True)
        part.copy_(wide.mul_(count / total))
        totals.append(total.log_().add_(highest))
    return torch.cat(totals)


@cache
def _compiled_soften() -> Callable[[Tensor, Tensor], Tensor]:
    def soften(logits: Tensor, counts: Tensor) -> Tensor:
        wide = logits.float()
        total = wide.logsumexp(-1, keepdim=True)
        logits.copy_((wide - total).exp() * counts)
        return total

    return torch.compile(soften, dynamic=True)
