"""What can be learned of examples, by name."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from underlay.adapt.distil import DistilConfig
from underlay.adapt.heads import HeadConfig
from underlay.adapt.instruct import InstructConfig
from underlay.adapt.preference import PreferenceConfig, RewardConfig
from underlay.adapt.reinforce import ReinforceConfig


class InstructObjective(InstructConfig):
    """Conversations: answer as the assistant does."""

    name: Literal["instruct"] = "instruct"


class DistilObjective(DistilConfig):
    """Conversations: answer as a teacher would."""

    name: Literal["distil"] = "distil"


class HeadObjective(HeadConfig):
    """Labels, tags, answers that stand in a text, texts that mean the same."""

    name: Literal["head"] = "head"


class PreferenceObjective(PreferenceConfig):
    """Preferences and judgements: answer as people prefer."""

    name: Literal["preference"] = "preference"


class RewardObjective(RewardConfig):
    """Preferences: tell which of two answers people prefer."""

    name: Literal["reward"] = "reward"


class ReinforceObjective(ReinforceConfig):
    """Problems, or the prompts of conversations: answer so that rewards are earned. `name`: grpo or ppo."""


_SHORT: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ("instruct", "distil", "head", "preference", "reward")},
    **{name: {"name": name} for name in ("grpo", "ppo")},
    **{loss: {"name": "preference", "loss": loss} for loss in ("dpo", "ipo", "hinge", "kto")},
}
NAMES = tuple(_SHORT)
"""What may be written in the place of settings."""


def _long(given: Any) -> Any:
    return _SHORT.get(given, given) if isinstance(given, str) else given


AnyObjective = (
    InstructObjective | DistilObjective | HeadObjective | PreferenceObjective | RewardObjective | ReinforceObjective
)
ObjectiveSettings = Annotated[
    Annotated[AnyObjective, Field(discriminator="name")] | None,
    BeforeValidator(_long),
]
"""One of them, or its name alone."""
