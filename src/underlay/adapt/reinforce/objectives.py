"""The objective: make likelier what turned out better than expected, within what the answers can tell of.

It counts rows. How much each token weighs in a step is decided where the step is put together, so the loop's one
division gives each reduction, however many rows go through the model at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from underlay.adapt.reinforce import critic, losses
from underlay.adapt.reinforce.reading import log_probabilities
from underlay.adapt.reinforce.rounds import RolloutBatch
from underlay.models import Batch, Decoder
from underlay.train import Loss
from underlay.train.objectives import where_counted


@dataclass(frozen=True)
class Surrogate:
    """The clipped surrogate; with the divergence from the reference where batches bring it and `beta` is given."""

    clip: float
    temperature: float
    beta: float = 0.0
    """What the divergence weighs in the loss."""
    value_clip: float = 0.2
    value_weight: float = 0.5
    """What the critic's loss weighs, where batches bring returns."""
    dtype: torch.dtype = torch.float32

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Summed loss of the tokens that weigh something; the count is that of rows.

        Tells `clipped`, the share of tokens that the clip holds; `moved`, the divergence from when the answers were
        made; `divergence`, that from the reference; of a critic `value_loss`; and all facts of the round.
        """
        assert isinstance(model, Decoder)
        assert isinstance(batch, RolloutBatch)
        assert batch.weights is not None
        counted, even = where_counted(batch.even)

        def at(tensor: Tensor) -> Tensor:
            return tensor.flatten()[counted]

        weights, old, advantages = at(batch.weights) * (even > 0), at(batch.old), at(batch.advantages)
        hidden = model.hidden(batch.tokens, dtype=self.dtype).flatten(0, 1)[counted]
        likely = log_probabilities(model, hidden, at(batch.targets), self.temperature)
        ratio = (likely - old).exp()
        losses_ = losses.surrogate(ratio, advantages, self.clip)
        held = torch.where(advantages > 0, ratio > 1 + self.clip, ratio < 1 - self.clip) & (advantages != 0)
        told = {"clipped": (held * even).sum(), "moved": (losses.k3(old, likely) * even).sum()}
        if batch.reference is not None:
            divergence = losses.k3(likely, at(batch.reference))
            told["divergence"] = (divergence * even).sum()
            if self.beta:
                losses_ = losses_ + self.beta * divergence
        if batch.returns is not None:
            assert batch.values is not None
            returns, promised = at(batch.returns), critic.values(model, hidden)
            wrong = losses.value_loss(promised, at(batch.values), returns, self.value_clip)
            losses_ = losses_ + self.value_weight * wrong
            told["value_loss"] = (wrong * even).sum()
        rows = len(batch.tokens)
        told |= {name: torch.tensor(value * rows, device=hidden.device) for name, value in batch.facts.items()}
        count = torch.tensor(float(rows), device=hidden.device)
        return Loss((losses_ * weights).sum(), count, {name: one.detach() for name, one in told.items()})
