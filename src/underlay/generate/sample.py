"""Choosing the next token: each function is one equation, on one row a request.

A row's choice depends on its own logits, settings and random number alone, never on its neighbours. Chance enters as
one uniform number a token, made from the request's seed and the token's place by SplitMix64 (Steele, Lea and Flood,
OOPSLA 2014): no state to carry, the same on every machine.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from underlay.generate.request import Sampling

HEAD = 512
"""Ordering a whole vocabulary costs as much as a step of a small model; mostly so many of the best tokens suffice."""

_MASK = (1 << 64) - 1


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(seed: int, place: int) -> float:
    """A number in [0, 1 - 2**-40] for the token at `place` of the answer."""
    return (_mix((_mix(seed & _MASK) + (place + 1) * 0x9E3779B97F4A7C15) & _MASK) >> 24) * 2.0**-40


def invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The index at which the running sum of the weights passes the given fraction of the whole.

    weights: (rows, vocabulary) float64, not negative; uniforms: (rows,) float64 in [0, 1); returns (rows,) int64.
    """
    sums = weights.cumsum(-1)
    return torch.searchsorted(sums, (uniforms * sums[:, -1])[:, None], right=True)[:, 0]


def soften(logits: Tensor, temperature: Tensor) -> Tensor:
    """softmax(logits / temperature), safe for any temperature above 0.

    logits: (rows, vocabulary) float32; temperature: (rows,) float64; returns (rows, vocabulary) float64.
    """
    return ((logits - logits.amax(-1, keepdim=True)) / temperature[:, None]).softmax(-1)


def restrict(weights: Tensor, mass: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Set the weights of unlikely tokens to 0: by rank, then by the mass before them, then against the best.

    weights: (rows, some or all of the vocabulary) float64 in falling order; mass: (rows,), what those within top-k sum
    to; the settings: (rows,); returns the shape of `weights`, zeros last.
    """
    rank = torch.arange(weights.shape[-1], device=weights.device)
    before = weights.cumsum(-1) - weights
    kept = (rank < top_k[:, None]) & ((before < (top_p * mass)[:, None]) | (rank == 0))
    return weights * (kept & (weights >= min_p[:, None] * weights[:, :1]))


class Sampler:
    """The settings of all slots as tensors, so that one call serves every row."""

    def __init__(self, settings: Sequence[Sampling], vocabulary: int, device: torch.device) -> None:
        def rows(wanted: list[bool]) -> Tensor | None:
            return torch.tensor([i for i, yes in enumerate(wanted) if yes], device=device) if any(wanted) else None

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        self._vocabulary = vocabulary
        self._free = rows([not s.greedy and not s.restricted for s in settings])
        self._restricted = rows([not s.greedy and s.restricted for s in settings])
        self._temperature = column([s.temperature for s in settings])
        self._top_k = torch.tensor([min(s.top_k or vocabulary, vocabulary) for s in settings], device=device)
        # A running sum of floats can pass 1 early; "keep all" must not lose a tail to that.
        self._top_p = column([s.top_p if s.top_p < 1 else 2.0 for s in settings])
        self._min_p = column([s.min_p for s in settings])

    def choose(self, logits: Tensor, uniforms: Sequence[float]) -> Tensor:
        """logits: (slots, vocabulary) float32; uniforms: one a slot; returns (slots,) int64."""
        chosen = logits.argmax(-1)
        if self._free is None and self._restricted is None:
            return chosen
        numbers = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)
        if (rows := self._free) is not None:
            chosen[rows] = invert(soften(logits[rows], self._temperature[rows]), numbers[rows])
        if (rows := self._restricted) is not None:
            weights = soften(logits[rows], self._temperature[rows])
            best, order = weights.topk(min(HEAD, weights.shape[-1]), dim=-1)
            chosen[rows], complete = self._pick(rows, best, order, numbers[rows])
            if not complete.all():
                rows = rows[~complete]
                best, order = weights[~complete].sort(dim=-1, descending=True, stable=True)
                chosen[rows], _ = self._pick(rows, best, order, numbers[rows])
        return chosen

    def _pick(self, rows: Tensor, best: Tensor, order: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Choose among the `best` weights; also says for which rows all that the settings keep is among them."""
        top_k, size = self._top_k[rows], best.shape[-1]
        within = best.cumsum(-1).gather(-1, (top_k.clamp(max=size) - 1)[:, None])[:, 0]
        unbounded = top_k == self._vocabulary
        kept = restrict(best, torch.where(unbounded, 1.0, within), top_k, self._top_p[rows], self._min_p[rows])
        complete = (top_k <= size) | (unbounded & (kept[:, -1] == 0))
        return order.gather(-1, invert(kept, numbers)[:, None])[:, 0], complete
