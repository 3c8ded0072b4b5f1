"""Which way pays: ways compared on the same texts, with what chance could have done.

A way's quality is the mean of its scores over texts and seeds, with Wilson's interval for the number of texts: seeds
are tested on the same texts, so they do not make it narrower, but where they differ more than that it is widened to
hold them all. Two ways are compared text by text (Fisher's permutation test of paired differences): the share of random
exchanges of the two that set them apart at least as far is the p-value. No p-value is corrected for how many ways there
are, so the recommendation is careful: the cheapest way that cannot be told from the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from underlay.adapt.ladder.rungs import RUNGS, RungName
from underlay.adapt.ladder.trial import Trial
from underlay.adapt.prompting.measure import Figure, calibration_error, wilson

_EXCHANGES = 5_000
TOLD_APART = 0.05
"""The p-value below which two ways are taken to differ."""


@dataclass(frozen=True)
class Standing:
    """One way of one model, over all its seeds."""

    model: str
    rung: RungName
    quality: Figure
    seeds: tuple[float, ...]
    """The quality of each run."""
    calibration: float | None
    """Expected calibration error: how far confidence is from being right; None where there is no confidence."""
    answered: float
    """Share of texts that got an answer of the form that was asked for."""
    p: float
    """That chance sets it as far apart from the best; 1 for the best itself."""
    seconds: float
    """To learn, the median of its runs."""
    trials: tuple[Trial, ...]

    @property
    def title(self) -> str:
        """What people call it."""
        title = RUNGS[self.rung].title
        return f"{self.model}, {title}" if self.model else title

    @property
    def as_good(self) -> bool:
        """Whether it cannot be told from the best."""
        return self.p >= TOLD_APART


def standings(trials: Sequence[Trial]) -> list[Standing]:
    """All ways that were gone, the best first; of equally good ones the one that answers sooner."""
    groups: dict[tuple[str, RungName], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.model, trial.rung), []).append(trial)
    scores = {key: np.array([trial.scores for trial in group]).mean(0) for key, group in groups.items()}
    best = scores[max(scores, key=lambda key: float(scores[key].mean()))]
    found = [_standing(key, group, permuted(scores[key], best)) for key, group in groups.items()]
    return sorted(found, key=lambda one: (-one.quality.value, one.trials[0].serving.seconds))


def recommended(found: Sequence[Standing]) -> Standing:
    """Of the ways that cannot be told from the best, the one that answers a text for the least time."""
    return min((one for one in found if one.as_good), key=lambda one: one.trials[0].serving.seconds)


def frontier(found: Sequence[Standing], cost: Sequence[float]) -> list[int]:
    """The numbers of those that nothing beats in both quality and cost, from the cheapest to the dearest."""
    kept: list[int] = []
    for number in sorted(range(len(found)), key=lambda n: (cost[n], -found[n].quality.value)):
        if not kept or found[number].quality.value > found[kept[-1]].quality.value:
            kept.append(number)
    return kept


def permuted(one: NDArray[np.float64], other: NDArray[np.float64], seed: int = 0) -> float:
    """The p-value of the paired differences of two ways, two-sided; 1 where there are none."""
    differences = one - other
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    chance = np.random.default_rng(seed)
    seen, reached, step = abs(differences.sum()) - 1e-9, 0, max(1, 4_000_000 // len(differences))
    for start in range(0, _EXCHANGES, step):
        signs = chance.integers(0, 2, (min(step, _EXCHANGES - start), len(differences)), dtype=np.int8) * 2 - 1
        reached += int((abs(signs @ differences) >= seen).sum())
    return (reached + 1) / (_EXCHANGES + 1)


def _standing(key: tuple[str, RungName], group: Sequence[Trial], p: float) -> Standing:
    seeds = tuple(float(np.mean(trial.scores)) for trial in group)
    texts = len(group[0].scores)
    mean = wilson(min(float(np.mean(seeds)), 1.0) * texts, texts)
    quality = Figure(mean.value, min(mean.low, *seeds), max(mean.high, *seeds), texts)
    sure = [
        (confidence, score > 0.5)
        for trial in group
        for confidence, score in zip(trial.confidences, trial.scores, strict=False)
        if confidence is not None
    ]
    calibration = calibration_error([c for c, _ in sure], [ok for _, ok in sure]) if sure else None
    answered = float(np.mean([[answer is not None for answer in trial.answers] for trial in group]))
    seconds = float(np.median([trial.learning.seconds for trial in group]))
    return Standing(*key, quality, seeds, calibration, answered, p, seconds, tuple(group))
