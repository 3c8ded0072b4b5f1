"""Log-probabilities of given tokens by a linear head, without ever holding all logits.

What is learned from whole answers, such as which of two is better, is known only once their log-probabilities have been
added up. So the gradient of each row comes in the backward pass alone, and logits are made a second time there, a chunk
at a time (Cut Cross-Entropy, arXiv:2411.09009). Where all of them are one chunk, they are kept instead.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from underlay.models.parts.loss import add_products, chunk_rows, soften


def linear_log_probabilities(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """Log-probability, in nats, of each target by the logits hidden @ weight.T: (rows,) float32.

    hidden: (rows, width); weight: (vocabulary, width); targets: (rows,) int64; softcap: logits stay within it, by a
    tanh (arXiv:2408.00118). Products are taken in the dtype of `hidden`, sums in float32 (of float64 in float64). Only
    what needs a gradient gets one: the weight of a frozen head costs nothing.
    """
    if softcap is None:
        result: Tensor = _LinearLogProbabilities.apply(  # type: ignore[no-untyped-call]
            hidden, weight, targets, torch.is_grad_enabled()
        )
        return result
    size = _size(hidden, weight)
    parts = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    return torch.cat(
        [checkpoint(_capped, part, weight, target, softcap, use_reentrant=False) for part, target in parts]
    )


class _LinearLogProbabilities(torch.autograd.Function):
    """Rows are reduced a chunk at a time in both directions."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, learns: bool) -> Tensor:
        head, size = weight.to(hidden.dtype), _size(hidden, weight)
        buffer = hidden.new_empty(size, len(weight))
        results = []
        for part, target in zip(torch.split(hidden, size), torch.split(targets[:, None], size), strict=True):
            logits = torch.mm(part, head.t(), out=buffer[: len(part)])
            picked = logits.gather(1, target).to(torch.promote_types(logits.dtype, torch.float32))
            results.append(picked - soften(logits, torch.ones_like(picked)))
        result = torch.cat(results)[:, 0]
        kept = buffer if learns and len(hidden) <= size else None
        ctx.save_for_backward(hidden, weight, targets, result, kept)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, result, kept = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        head, size = weight.to(hidden.dtype), _size(hidden, weight)
        scale = gradients[0][:, None].to(result.dtype)
        to_hidden = torch.empty_like(hidden) if needs_hidden else None
        whole = len(hidden) <= size
        to_weight = None
        if needs_weight:  # sums of several chunks are taken in float32, or wider
            sums = hidden.dtype if whole else result.dtype
            to_weight = torch.zeros(weight.shape, dtype=sums, device=weight.device)
        buffer = hidden.new_empty(size, len(weight))
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            part, by = hidden[rows], scale[rows]
            logits = buffer[: len(part)]
            if kept is None:
                torch.mm(part, head.t(), out=logits)
                soften(logits, -by)
            else:
                torch.mul(kept, -by, out=logits)
            # The target's own gradient, 1 - p: in full precision, since p was rounded above.
            logits.scatter_(1, targets[rows, None], (-torch.expm1(result[rows, None]) * by).to(logits.dtype))
            if to_hidden is not None:
                torch.mm(logits, head, out=to_hidden[rows])
            if to_weight is not None:
                add_products(to_weight, logits, part, fresh=whole)
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), None, None


def _size(hidden: Tensor, weight: Tensor) -> int:
    """How many rows of logits are made at once."""
    return max(1, min(len(hidden), chunk_rows(len(weight), hidden)))


def _capped(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
    logits = cap * torch.tanh(hidden @ weight.to(hidden.dtype).t() / cap)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.log_softmax(-1).gather(1, targets[:, None])[:, 0]
