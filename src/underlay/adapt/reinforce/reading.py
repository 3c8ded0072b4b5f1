"""What a model says of answers that are there: how likely each token was, how free the choice, what it promised.

Log-probabilities are those of the distribution that was sampled from: logits are divided by the temperature. Anything
else would compare two distributions, and the ratio between them would not be 1 where nothing was learned yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from underlay.adapt.reinforce import critic
from underlay.adapt.reinforce.rounds import evenly
from underlay.models import Decoder
from underlay.train.objectives import where_counted

_TOKENS = 1 << 13
"""How many are read at once; never a matter of what is trained at once, so that a run that goes on reads the same."""
_LOGITS = 1 << 22
"""Logits that exist at the same time."""


@dataclass(frozen=True)
class Read:
    """What was said of each token, (tokens,) float32 on the CPU, in the order of rows and places."""

    log_probabilities: Tensor
    """Of the token, at the temperature, in nats."""
    plain: Tensor
    """The same, at a temperature of 1."""
    entropy: Tensor
    """Of the distribution that it was drawn from, in nats."""
    values: Tensor | None
    """What a critic promised."""


def log_probabilities(model: Decoder, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Of targets, at a temperature, in nats: (rows,) float32; hidden: (rows, width), targets: (rows,) int64."""
    if temperature == 1:
        return model.log_probabilities(hidden, targets)
    if model.config.final_softcap() is None:
        return model.log_probabilities(hidden / temperature, targets)  # the head has no bias
    logits = model.logits(hidden).float() / temperature
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@torch.no_grad()
def read(
    model: Decoder, tokens: Tensor, targets: Tensor, active: Tensor, temperature: float, dtype: torch.dtype
) -> Read:
    """What the model says of active targets; all (rows, time) on any device, padded on the right."""
    device = model.embedding.weight.device
    has_critic = model.config.task == critic.VALUE
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for rows in _batches(active):
        time = evenly(int(active[rows].any(0).nonzero()[-1]) + 1, active.shape[1])
        here, weights = where_counted(active[rows, :time].to(device).float())
        hidden = model.hidden(tokens[rows, :time].to(device), dtype=dtype).flatten(0, 1)[here]
        wanted = targets[rows, :time].to(device).flatten()[here]
        promised = critic.values(model, hidden) if has_critic else torch.zeros(len(hidden), device=device)
        likely = log_probabilities(model, hidden, wanted, temperature)
        plain = likely if temperature == 1 else log_probabilities(model, hidden, wanted, 1.0)
        found = (likely, plain, _entropy(model, hidden, temperature), promised)
        likely, plain, entropy, promised = (one[weights > 0] for one in found)
        parts.append((likely, plain, entropy, promised))
    likely, plain, entropy, promised = (torch.cat(one).float().cpu() for one in zip(*parts, strict=True))
    return Read(likely, plain, entropy, promised if has_critic else None)


def _entropy(model: Decoder, hidden: Tensor, temperature: float) -> Tensor:
    found = []
    for some in torch.split(hidden, max(1, _LOGITS // model.config.vocabulary)):
        logs = (model.logits(some).float() / temperature).log_softmax(-1)
        found.append(-(logs.exp() * logs).sum(-1))
    return torch.cat(found)


def _batches(active: Tensor) -> Iterator[slice]:
    """Rows in their order, as many at once as have `_TOKENS` when padded to the longest row of all."""
    at_once = max(1, _TOKENS // active.shape[1])
    return (slice(first, first + at_once) for first in range(0, len(active), at_once))
