"""How preferences are learned."""

from typing import Literal, Self

from pydantic import Field, model_validator

from underlay.config import Config


class PreferenceConfig(Config):
    """How a model learns to answer as people prefer, without a reward model."""

    loss: Literal["dpo", "ipo", "hinge", "kto"] = "dpo"
    """dpo: the log-odds that the chosen answer is better (arXiv:2305.18290); ipo: a fixed distance, for few or
    noiseless pairs (arXiv:2310.12036); hinge: until they are told apart (arXiv:2305.10425); kto: answers that are
    good or bad by themselves (arXiv:2402.01306)."""
    beta: float = Field(default=0.1, gt=0)
    """How dear it is to leave the starting model: higher stays nearer to it."""
    smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs that are thought to be the wrong way round (dpo only)."""
    desirable: float = Field(default=1.0, gt=0)
    """How much good answers count (kto only)."""
    undesirable: float = Field(default=1.0, gt=0)
    """How much bad answers count (kto only)."""
    group: int = Field(default=8, ge=2)
    """Answers that share an estimate of how far the model has moved (kto only); a row of the run is such a group."""

    @model_validator(mode="after")
    def _heeded(self) -> Self:
        own = {"dpo": {"smoothing"}, "kto": {"desirable", "undesirable", "group"}}
        for name in ("smoothing", "desirable", "undesirable", "group"):
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and name not in own.get(self.loss, set()):
                raise ValueError(f"{name}: the loss {self.loss} has none")
        return self


class RewardConfig(Config):
    """How a reward model learns to tell which of two answers people prefer."""

    margin: float = Field(default=0.0, ge=0)
    """By how much the rewards of two answers shall differ (arXiv:2307.09288)."""
    centring: float = Field(default=0.0, ge=0)
    """How strongly rewards are kept near 0 (arXiv:2312.09244 takes 0.01)."""
