"""Every way to adapt a model to one task, tried on the same texts, so that it can be seen which pays."""

from underlay.adapt.ladder.baseline import Classical, Majority
from underlay.adapt.ladder.rungs import RUNGS, RungName, by_chance, nearest, why_not
from underlay.adapt.ladder.standing import Standing, frontier, recommended, standings
from underlay.adapt.ladder.trial import Learning, Serving, Trial, timed

__all__ = [
    "RUNGS",
    "Classical",
    "Learning",
    "Majority",
    "RungName",
    "Serving",
    "Standing",
    "Trial",
    "by_chance",
    "frontier",
    "nearest",
    "recommended",
    "standings",
    "timed",
    "why_not",
]
