"""Robustness: models that hold up where people misspell, say it in other words, or mean harm.

`spelling` and `paraphrase` are what is done to texts; `source` lets a model learn from such texts beside the clean,
`gradient` from inputs that are moved where its loss grows fastest. `attack` searches for what a model gets wrong, and
says how often it holds up; it never trains.
"""

from underlay.adapt.robust.attack import (
    Attacked,
    Victim,
    attack,
    by_gradient,
    by_paraphrase,
    by_spelling,
    examine_attacked,
    spread,
    victim_of,
)
from underlay.adapt.robust.config import KINDS, AttackConfig, AttackSettings, RobustConfig, RobustSettings
from underlay.adapt.robust.gradient import Adversarial, embedded, worst_move
from underlay.adapt.robust.lesson import harden
from underlay.adapt.robust.paraphrase import rephrase, variants
from underlay.adapt.robust.source import Beside
from underlay.adapt.robust.spelling import misspell

__all__ = [
    "KINDS",
    "Adversarial",
    "AttackConfig",
    "AttackSettings",
    "Attacked",
    "Beside",
    "RobustConfig",
    "RobustSettings",
    "Victim",
    "attack",
    "by_gradient",
    "by_paraphrase",
    "by_spelling",
    "embedded",
    "examine_attacked",
    "harden",
    "misspell",
    "rephrase",
    "spread",
    "variants",
    "victim_of",
    "worst_move",
]
