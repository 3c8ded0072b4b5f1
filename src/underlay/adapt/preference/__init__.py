"""Learning from preferences: which of two answers people like better, or which answers are good.

`losses` are the equations, `rows` puts two answers behind one prompt, `source` makes batches, `starting` keeps what
the starting model says, `objectives` are what the training loop calls. `lesson` makes all of it ready.
"""

from underlay.adapt.preference.config import PreferenceConfig, RewardConfig
from underlay.adapt.preference.lesson import lesson, measure
from underlay.adapt.preference.objectives import DPO, KTO, Reward
from underlay.adapt.preference.reward import score, with_reward
from underlay.adapt.preference.source import Judgements, Preferences
from underlay.adapt.preference.starting import reference

__all__ = [
    "DPO",
    "KTO",
    "Judgements",
    "PreferenceConfig",
    "Preferences",
    "Reward",
    "RewardConfig",
    "lesson",
    "measure",
    "reference",
    "score",
    "with_reward",
]
