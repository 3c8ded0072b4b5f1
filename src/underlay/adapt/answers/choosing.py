"""Which answers are kept: those that a reward finds right, or the best of several."""

import math
from collections.abc import Sequence

from underlay.adapt.answers.config import AnswerConfig
from underlay.adapt.examples import Problem
from underlay.adapt.reinforce.rewards import Reward, rewards

RIGHT = 1.0
"""What an answer that is right earns, of rewards that tell right from wrong."""
WORTH_LESS = "an answer that earns too little"
UNTOLD = "an answer whose worth cannot be told"
NOT_BEST = "an answer that is not the best to its prompt"


def worths(reward: Reward, problems: Sequence[Problem], answers: Sequence[str]) -> list[float | None]:
    """What each answer earns; None where it cannot be told."""
    found = rewards(reward, problems, answers).tolist() if answers else []
    return [None if math.isnan(one) else one for one in found]


def refused(earned: Sequence[float | None], settings: AnswerConfig) -> list[str | None]:
    """Of the answers to one prompt: why each is left out; None: it is kept. Of equally good ones the first is best."""
    worth = settings.worth
    least = worth if worth is not None else -math.inf if settings.best else RIGHT
    why = [UNTOLD if one is None else WORTH_LESS if one < least else None for one in earned]
    if settings.best:
        good = [place for place, reason in enumerate(why) if reason is None]
        top = max(good, key=lambda place: (earned[place] or 0.0, -place), default=None)
        why = [NOT_BEST if reason is None and place != top else reason for place, reason in enumerate(why)]
    return why
