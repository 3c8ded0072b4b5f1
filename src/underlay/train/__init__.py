"""Training: one loop for every objective.

`objectives` say what a model learns from a batch, `optimizer` and `schedule` how it steps, `loop` does it, `checkpoint`
lets a killed run go on as if nothing had happened.
"""

from underlay.train.config import TrainConfig
from underlay.train.examine import Examination
from underlay.train.loop import Outcome, Source, train
from underlay.train.objectives import CausalLM, Loss, Objective
from underlay.train.watch import Onlookers

__all__ = ["CausalLM", "Examination", "Loss", "Objective", "Onlookers", "Outcome", "Source", "TrainConfig", "train"]
