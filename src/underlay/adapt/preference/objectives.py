"""Objectives over pairs of answers. Each counts pairs (KTO: answers), and tells what a loss alone hides.

DPO often makes the chosen answer less likely, too, only less so than the rejected one: `log_probability` shows it. That
longer answers win is seen by `length/chosen` and `length/rejected`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from underlay.adapt.preference import losses
from underlay.adapt.preference.rows import PairBatch, last_places, log_probabilities, read
from underlay.adapt.preference.source import JudgedBatch
from underlay.models import Batch, Decoder
from underlay.train import Loss


@dataclass(frozen=True)
class DPO:
    """Prefer the chosen answer to the rejected one, relative to the starting model."""

    loss: Literal["dpo", "ipo", "hinge"] = "dpo"
    beta: float = 0.1
    smoothing: float = 0.0
    """Of `dpo` alone; see `losses`."""
    dtype: torch.dtype = torch.float32

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Summed loss of the batch's pairs; their count."""
        assert isinstance(model, Decoder)
        assert isinstance(batch, PairBatch)
        assert batch.reference is not None, "pairs without what the starting model says of them"
        sums, lengths = log_probabilities(model, batch, self.dtype)
        ratios = sums - batch.reference
        if self.loss == "ipo":
            ratios = ratios / lengths
        total = self._losses(ratios[:, 0] - ratios[:, 1]).sum()
        told = _told(self.beta * ratios.detach()) | {"log_probability": (sums / lengths)[:, 0].detach().sum()}
        told |= {"length/chosen": lengths[:, 0].sum(), "length/rejected": lengths[:, 1].sum()}
        return Loss(total, _count(sums), told)

    def _losses(self, delta: Tensor) -> Tensor:
        if self.loss == "dpo":
            return losses.dpo(delta, self.beta, self.smoothing)
        return losses.ipo(delta, self.beta) if self.loss == "ipo" else losses.hinge(delta, self.beta)


@dataclass(frozen=True)
class KTO:
    """Make good answers more likely and bad ones less, relative to how far the model has moved on the whole."""

    group: int
    """Rows of a batch that share a reference point."""
    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    dtype: torch.dtype = torch.float32

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Summed loss of the batch's answers; their count."""
        assert isinstance(model, Decoder)
        assert isinstance(batch, JudgedBatch)
        assert batch.reference is not None, "answers without what the starting model says of them"
        sums, lengths = log_probabilities(model, batch, self.dtype)
        ratios = sums - batch.reference
        ratio, good = ratios[:, 0], batch.good
        point = losses.reference_point(ratios[:, 1].view(-1, self.group)).expand(-1, self.group).flatten()
        found = losses.kto(ratio, good, point, self.beta, self.desirable, self.undesirable)
        gain = self.beta * torch.where(good, ratio - point, point - ratio).detach()
        told = {
            "margin": gain.sum(),
            "accuracy": (gain > 0).float().sum(),
            "divergence": point.detach().sum(),
            "log_probability": (sums / lengths)[:, 0].detach().sum(),
            "length": lengths[:, 0].sum(),
        }
        return Loss(found.sum(), _count(sums), told)


@dataclass(frozen=True)
class Reward:
    """Give the chosen answer the higher reward; it is read at the end of the answer's turn."""

    margin: float = 0.0
    centring: float = 0.0
    dtype: torch.dtype = torch.float32

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Summed loss of the batch's pairs; their count."""
        assert isinstance(model, Decoder)
        assert isinstance(batch, PairBatch)
        assert model.task is not None
        places = last_places(batch.branches)
        hidden = read(model, batch, self.dtype)
        ends = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
        rewards = model.task.output(ends)[..., 0].float()
        found = losses.bradley_terry(rewards[:, 0], rewards[:, 1], self.margin, self.centring)
        assert batch.weights is not None
        told = _told(rewards.detach())
        for name, branch in (("length/chosen", 1), ("length/rejected", 2)):
            told[name] = (batch.weights * (batch.branches == branch)).sum()
        return Loss(found.sum(), _count(rewards), told)


def _told(rewards: Tensor) -> dict[str, Tensor]:
    """Sums over pairs, of rewards (pairs, 2)."""
    margin = rewards[:, 0] - rewards[:, 1]
    return {
        "rewards/chosen": rewards[:, 0].sum(),
        "rewards/rejected": rewards[:, 1].sum(),
        "margin": margin.sum(),
        "accuracy": (margin > 0).float().sum(),
    }


def _count(rows: Tensor) -> Tensor:
    return torch.full((), float(len(rows)), device=rows.device)
