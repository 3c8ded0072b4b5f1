"""How a model learns from rewards."""

from typing import Literal, Self

from pydantic import Field, model_validator

from underlay.config import Config

_PPO = ("discount", "trace", "value_clip", "value_weight")


class ReinforceConfig(Config):
    """Answer problems, and make more likely what earns more than was to be expected.

    Each step learns from `train.batch_rows` answers, `group` to a problem. Rewards may stay away for long and then come
    at once, and such steps are what is learned from: a stage leaves none out unless `train.outliers` says so.
    """

    name: Literal["grpo", "ppo"] = "grpo"
    """grpo: what is to be expected is the mean of a group (arXiv:2402.03300); ppo: what a critic says at each token
    (arXiv:1707.06347, as in InstructGPT, arXiv:2203.02155)."""
    reward: str | None = None
    """What answers are worth: `parses`, `signature`, `resembles`, `matches` or `length`, or a function of your own
    as `path/to/file.py:name`, which takes a problem and an answer and gives a number, or None where it cannot tell."""
    rubric: str | None = None
    """The task by which a model that is no reward model judges answers: a YAML file with labels and what each is
    worth."""
    group: int = Field(default=8, gt=0)
    """Answers to a problem in a step; grpo needs at least two."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the distribution that is sampled from, and learned."""
    max_tokens: int = Field(default=128, gt=0)
    """Longest answer."""
    updates: int = Field(default=1, gt=0)
    """Steps that learn from the same answers before new ones are made."""
    clip: float = Field(default=0.2, gt=0)
    """How far a step may change how likely a token is, as a share of what it was when the answer was made."""
    beta: float = Field(default=0.0, ge=0)
    """How dear it is to leave the starting model: grpo adds its divergence to the loss, ppo takes it off rewards."""
    reduction: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    """What of a step weighs the same: dapo, every token (arXiv:2503.14476); grpo, every answer; dr_grpo, every token,
    divided by the longest answer that is allowed, not by those that were given (arXiv:2503.20783)."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """What a reward is worth a token earlier (ppo only)."""
    trace: float = Field(default=0.95, ge=0, le=1)
    """Lambda of generalised advantages: 0 trusts the critic, 1 the rewards (arXiv:1506.02438; ppo only)."""
    value_clip: float = Field(default=0.2, gt=0)
    """How far the critic's values may move from those of when the answers were made (ppo only)."""
    value_weight: float = Field(default=0.5, gt=0)
    """How much the critic's loss counts beside the policy's (ppo only)."""
    keep: int = Field(default=10, gt=0)
    """All answers of every so many rounds are kept, with their rewards, to be read."""

    @model_validator(mode="after")
    def _heeded(self) -> Self:
        if self.name == "grpo":
            if self.group < 2:
                raise ValueError("group: grpo compares the answers of a group, so it needs at least 2")
            for name in _PPO:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: grpo has no critic, and no such setting")
        return self
