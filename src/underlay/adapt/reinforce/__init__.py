"""Learning from rewards: a model answers, answers are scored, and what scored well becomes likelier.

`losses` are the equations, `checks` and `rewards` say what an answer is worth, `player` answers by the one engine with
the weights that learn, `source` makes rounds of answers and batches of them, `objectives` is what the training loop
calls. `lesson` makes all of it ready.
"""

from underlay.adapt.reinforce.config import ReinforceConfig
from underlay.adapt.reinforce.critic import with_critic, without_critic
from underlay.adapt.reinforce.examine import examine
from underlay.adapt.reinforce.lesson import lesson
from underlay.adapt.reinforce.objectives import Surrogate
from underlay.adapt.reinforce.rewards import REWARDS, ModelReward, Reward, named
from underlay.adapt.reinforce.source import Rollouts

__all__ = [
    "REWARDS",
    "ModelReward",
    "ReinforceConfig",
    "Reward",
    "Rollouts",
    "Surrogate",
    "examine",
    "lesson",
    "named",
    "with_critic",
    "without_critic",
]
