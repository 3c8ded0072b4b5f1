"""Choosing the next token: each function is one equation, on one row a sequence.

A row's choice depends on its own logits, settings and random number alone, never on its neighbours. Chance enters as
one uniform number a token, made from the request's seed and the token's place by SplitMix64 (Steele, Lea and Flood,
OOPSLA 2014): the same on every machine. What a row's choice owes to earlier tokens (penalties, the grammar) its
`Sampler` keeps, and brings up to date token by token.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from underlay.generate.grammar import Grammar, GrammarError
from underlay.generate.penalties import Penalties
from underlay.generate.request import MOST_LOGPROBS, ParameterError, Sampling, TokenLogprob

HEAD = 512
"""Ordering a whole vocabulary costs as much as a step of a small model; mostly so many of the best tokens suffice."""
LOGPROB_ROWS = 512
"""Rows whose log-probabilities are computed at the same time."""

_MASK = (1 << 64) - 1


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(seed: int, place: int) -> float:
    """A number in [0, 1 - 2**-40] for the token at `place` of the answer."""
    return (_mix((_mix(seed & _MASK) + (place + 1) * 0x9E3779B97F4A7C15) & _MASK) >> 24) * 2.0**-40


class Sampler:
    """How the next token of one sequence is chosen, and what that owes to the tokens before it."""

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], vocabulary: int, grammar: Grammar | None = None
    ) -> None:
        """Begin an answer to `prompt`. Raises ParameterError where a bias names an id outside 0..vocabulary - 1."""
        if sampling.bias and not (min(sampling.bias) >= 0 and max(sampling.bias) < vocabulary):
            raise ParameterError("bias", f"holds a token id outside 0..{vocabulary - 1}")
        self.sampling = sampling
        self.grammar = grammar
        self.place = 0
        """How many tokens of the answer were accepted."""
        self.problem: str | None = None
        """Why there is no next token, where `choose` found none."""
        self.greedy = sampling.greedy
        self.plain = sampling.greedy and not sampling.reshaped and grammar is None
        """Whether it always takes the most likely token of the model itself, whatever came before."""
        self.changes = sampling.reshaped or grammar is not None
        """Whether logits change before a token is chosen."""
        top_k = min(sampling.top_k or 0, vocabulary)
        self.limits = sampling.temperature, top_k, sampling.top_p, sampling.typical, sampling.min_p
        """The settings that a draw depends on, as numbers; top-k 0: all."""
        self._penalties = Penalties(sampling, prompt) if sampling.reshaped else None

    @property
    def finished(self) -> bool:
        """Whether the grammar can take no further token, so that the answer is complete."""
        return self.grammar is not None and self.grammar.finished

    def number(self) -> float:
        """The random number by which the next token is drawn, in [0, 1)."""
        return uniform(self.sampling.seed, self.place)

    def accept(self, token: int) -> None:
        """Take note of a token that became part of the answer.

        Where the grammar cannot take it, or gives up on it, `choose` finds no further token.
        """
        self.place += 1
        if self.grammar is not None and self.problem is None:
            try:
                self.grammar.accept(token)
            except GrammarError as error:
                self.problem = str(error)
        if self._penalties is not None:
            self._penalties.accept(token)

    def change(self, row: Tensor) -> None:
        """Apply bias, penalties and the grammar to a row of logits, (vocabulary,) float32, in place."""
        if self._penalties is not None:
            self._penalties.apply(row)
        if self.grammar is not None:
            try:
                row.masked_fill_(~self.grammar.allowed().to(row.device), -math.inf)
            except GrammarError as error:
                self.problem = self.problem or str(error)

    def check(self) -> None:
        """Assert what always holds between the tokens that were accepted and what is remembered of them."""
        assert not self.plain or not (self.changes or self.finished)
        if self._penalties is not None:
            self._penalties.check(self.place)
        if self.grammar is not None:
            self.grammar.check()


Best = Callable[[Tensor], list[int | None]]
"""The most likely token of each row, as `best` finds it; the native runner has another."""
Draw = Callable[[Tensor, Sequence[int], Sequence[Sampler]], list[int | None]]
"""Draws a token from some rows of logits (all rows, vocabulary), with one sampler for each of those; None where a row
holds NaN, or nothing that is finite above all else. `draw_by_torch` is one, and the native runner has another."""
Tell = Callable[[Tensor, Sequence[int], Sequence[int]], list[TokenLogprob]]
"""Tells how likely tokens are, as `log_probabilities` does; the native runner has another."""


def draw_by_torch(logits: Tensor, rows: Sequence[int], samplers: Sequence[Sampler]) -> list[int | None]:
    """The `Draw` for any device."""
    part = _rows(logits, rows)
    found = best(part)
    # Only rows whose best logit is a number have a distribution to draw from.
    for restricted in (False, True):
        places = [
            place
            for place, token in enumerate(found)
            if token is not None and samplers[place].sampling.restricted is restricted
        ]
        drawn = _draw(_rows(part, places), [samplers[place] for place in places])
        for place, token in zip(places, drawn, strict=True):
            found[place] = token
    return found


def best(logits: Tensor) -> list[int | None]:
    """The most likely token of each row; None where the row holds NaN, or nothing that is finite above all else."""
    if len(logits) == 0:
        return []
    # A maximum is NaN where anything is, so its value tells of the whole row.
    if logits.device.type == "cpu":
        rows = logits.numpy()
        tokens = rows.argmax(-1).tolist()  # several times as quick as torch's
        values = [rows.item(row, token) for row, token in enumerate(tokens)]
    else:
        most = logits.max(-1)
        values, tokens = most.values.tolist(), most.indices.tolist()
    return [token if math.isfinite(value) else None for value, token in zip(values, tokens, strict=True)]


def choose(
    logits: Tensor, samplers: Sequence[Sampler], draw: Draw = draw_by_torch, best: Best = best
) -> list[int | None]:
    """The next token of each row; None where there is none, and then the row's sampler says why (`problem`).

    logits: (rows, vocabulary) float32, left as it is; one sampler a row, the same one several times only where it is
    `plain`. There is no next token where a logit is NaN or the best is infinite, where bias and grammar together rule
    out all of them, and where a grammar has given up.
    """
    plain = all([sampler.plain for sampler in samplers])  # noqa: C419 - a list is quicker than a generator
    chosen = best(logits) if plain else _mixed(logits, samplers, draw, best)
    if None in chosen:
        for row, (token, sampler) in enumerate(zip(chosen, samplers, strict=True)):
            if token is None and sampler.problem is None:
                sound = math.isfinite(logits[row].max().item())
                sampler.problem = (
                    "bias and constraint together rule out every token"
                    if sound and sampler.changes
                    else "the model's logits are not numbers; its weights or what it read may be damaged"
                )
    return chosen


def _mixed(logits: Tensor, samplers: Sequence[Sampler], draw: Draw, best: Best) -> list[int | None]:
    """Change the rows that need it, then choose for all rows of one kind at once."""
    changing = [row for row, sampler in enumerate(samplers) if sampler.changes]
    if changing:
        logits = logits.clone()
        for row in changing:
            samplers[row].change(logits[row])
    chosen: list[int | None] = [None] * len(samplers)
    going = [row for row, sampler in enumerate(samplers) if sampler.problem is None]
    greedy = [row for row in going if samplers[row].greedy]
    if greedy:
        for row, token in zip(greedy, best(_rows(logits, greedy)), strict=True):
            chosen[row] = token
    chance = [row for row in going if not samplers[row].greedy]
    if chance:
        for row, token in zip(chance, draw(logits, chance, [samplers[row] for row in chance]), strict=True):
            chosen[row] = token
    return chosen


def _rows(logits: Tensor, rows: Sequence[int]) -> Tensor:
    if len(rows) == len(logits):
        return logits
    return logits[torch.tensor(rows, dtype=torch.int64, device=logits.device)]


def _draw(logits: Tensor, samplers: list[Sampler]) -> list[int]:
    """Draw a token for each row; all rows are restricted, or none."""
    if len(logits) == 0:
        return []
    settings = [sampler.sampling for sampler in samplers]
    numbers = _column([sampler.number() for sampler in samplers], logits)
    weights = soften(logits, _column([s.temperature for s in settings], logits))
    if not samplers[0].sampling.restricted:
        return invert(weights, numbers).tolist()
    size = weights.shape[-1]
    limits = Limits(
        torch.tensor([min(s.top_k or size, size) for s in settings], device=logits.device),
        # A running sum of floats can pass 1 early; "keep all" must not lose a tail to that.
        _column([s.top_p if s.top_p < 1 else 2.0 for s in settings], logits),
        _column([s.typical if s.typical < 1 else 2.0 for s in settings], logits),
        _column([s.min_p for s in settings], logits),
    )
    best, order = _first_of_equals(*weights.topk(min(HEAD, size), dim=-1))
    chosen, complete = _pick(best, order, limits, size, numbers)
    rest = [] if best.shape[-1] == size else [row for row, done in enumerate(complete.tolist()) if not done]
    if rest:
        best, order = _rows(weights, rest).sort(dim=-1, descending=True, stable=True)
        index = torch.tensor(rest, device=logits.device)
        chosen[index], _ = _pick(best, order, limits.of(index), size, numbers[index])
    return chosen.tolist()


def _first_of_equals(best: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Put the lower id first among weights that are equal, as a stable sort would."""
    order, by_id = order.sort(-1)
    best, by_weight = best.gather(-1, by_id).sort(dim=-1, descending=True, stable=True)
    return best, order.gather(-1, by_weight)


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def soften(logits: Tensor, temperature: Tensor) -> Tensor:
    """softmax(logits / temperature), safe for any temperature above 0.

    logits: (rows, vocabulary) float32; temperature: (rows,) float64; returns (rows, vocabulary) float64.
    """
    return ((logits - logits.amax(-1, keepdim=True)) / temperature[:, None]).softmax(-1)


def invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The index at which the running sum of the weights passes the given fraction of the whole.

    weights: (rows, vocabulary) float64, not negative; uniforms: (rows,) float64 in [0, 1); returns (rows,) int64.
    """
    sums = weights.cumsum(-1)
    return torch.searchsorted(sums, (uniforms * sums[:, -1])[:, None], right=True)[:, 0]


@dataclass(frozen=True)
class Limits:
    """Which tokens are too unlikely; each field is (rows,)."""

    top_k: Tensor
    top_p: Tensor
    typical: Tensor
    min_p: Tensor

    def of(self, rows: Tensor) -> "Limits":
        """Those of some of the rows."""
        return Limits(self.top_k[rows], self.top_p[rows], self.typical[rows], self.min_p[rows])


def restrict(weights: Tensor, mass: Tensor, limits: Limits) -> Tensor:
    """Set the weights of unlikely tokens to 0: by rank, by the mass before them, by how typical they are, by the best.

    weights: (rows, some or all of the vocabulary) float64 in falling order; mass: (rows,), what those within top-k sum
    to; returns the shape of `weights`.
    """
    rank = torch.arange(weights.shape[-1], device=weights.device)
    before = weights.cumsum(-1) - weights
    kept = (rank < limits.top_k[:, None]) & ((before < (limits.top_p * mass)[:, None]) | (rank == 0))
    weights = weights * kept
    rows = (limits.typical < 1).nonzero()[:, 0]
    if len(rows):
        weights[rows] = _typical(weights[rows], limits.typical[rows])
    return weights * (weights >= (limits.min_p * weights.amax(-1))[:, None])


def _typical(weights: Tensor, typical: Tensor) -> Tensor:
    """Keep the tokens whose surprise -log p is nearest to its mean, the entropy, until they make up `typical`.

    weights: (rows, ranks) float64; typical: (rows,) float64; returns the shape of `weights`.
    """
    # Sums over rows are running sums throughout: `sum` adds in another order where there is but one row.
    p = weights / weights.cumsum(-1)[:, -1:]
    surprise = -p.log()
    entropy = torch.where(p > 0, p * surprise, 0.0).cumsum(-1)[:, -1:]
    order = torch.where(p > 0, (surprise - entropy).abs(), math.inf).sort(dim=-1, stable=True).indices
    sums = p.gather(-1, order).cumsum(-1)
    first = torch.arange(weights.shape[-1], device=weights.device) == 0
    kept = (sums - p.gather(-1, order) < typical[:, None]) | first
    return weights * torch.zeros_like(kept).scatter(-1, order, kept)


def _pick(best: Tensor, order: Tensor, limits: Limits, vocabulary: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Choose among the `best` weights; also says for which rows all that the settings keep is among them.

    best, order: (rows, ranks) float64 and int64, the highest weights and their ids; returns (rows,) int64 and bool.
    """
    top_k, size = limits.top_k, best.shape[-1]
    within = best.cumsum(-1).gather(-1, (top_k.clamp(max=size) - 1)[:, None])[:, 0]
    unbounded = top_k == vocabulary
    kept = restrict(best, torch.where(unbounded, 1.0, within), limits)
    # What is typical shows only once top-k and top-p have kept all they are going to. What is as likely as the last of
    # the best may have equals beyond it.
    before, last = best.cumsum(-1) - best, best[:, -1]
    ranks = torch.where(unbounded, (before < limits.top_p[:, None]).sum(-1), top_k).clamp(1, size)
    narrowed = best.gather(-1, ranks[:, None] - 1)[:, 0] > last
    complete = narrowed | (unbounded & (last < limits.min_p * best[:, 0]) & (limits.typical >= 1))
    return order.gather(-1, invert(kept, numbers)[:, None])[:, 0], complete


def log_probabilities(logits: Tensor, chosen: Sequence[int], counts: Sequence[int]) -> list[TokenLogprob]:
    """How likely the model itself holds each chosen token, and the most likely ones beside it, in nats.

    logits: (rows, vocabulary) float32, before any change; chosen: one id a row; counts: how many of the most likely
    tokens to name, one number a row, `MOST_LOGPROBS` at most.
    """
    result: list[TokenLogprob] = []
    for start in range(0, len(logits), LOGPROB_ROWS):
        part = slice(start, start + LOGPROB_ROWS)
        rows, ids, wanted = logits[part], chosen[part], counts[part]
        scores = rows.log_softmax(-1)
        picked = scores.gather(-1, torch.tensor(ids, device=rows.device)[:, None])[:, 0]
        if not any(wanted):
            result += [TokenLogprob(token, value) for token, value in zip(ids, picked.tolist(), strict=True)]
            continue
        # Always as many, so that among equals the same ones come first whatever the neighbours want.
        best = scores.topk(min(MOST_LOGPROBS, scores.shape[-1]), -1)
        values = best.values.tolist()
        for row, (token, value, names) in enumerate(zip(ids, picked.tolist(), best.indices.tolist(), strict=True)):
            top = zip(names[: wanted[row]], values[row][: wanted[row]], strict=True)
            result.append(TokenLogprob(token, value, tuple(top)))
    return result
