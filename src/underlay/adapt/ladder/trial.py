"""One run of one way: what it answered, how right that was, and what learning and answering cost.

Costs are measured, not computed: seconds by the clock, memory as the most that the process held. A text alone is what a
user waits for; a text among many is what a service pays for.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field

from underlay.adapt.ladder.rungs import RungName
from underlay.adapt.prompting.answer import Prediction
from underlay.config import Config
from underlay.progress import Progress, silent
from underlay.train.memory import PeakMemory

Answerer = Callable[[Sequence[int]], list[Prediction]]
"""Answers the texts with these numbers."""
_ALONE = 15
"""Texts that are timed alone."""
_LONGEST = 20.0
"""Seconds for them: of slow ways fewer are timed."""
_AT_ONCE = 256


class Learning(Config):
    """What it took to learn."""

    examples: int = 0
    """Different ones that were learned from, or could be shown."""
    passes: float = 0.0
    """How often each was read."""
    seconds: float = 0.0
    """Of the teacher, too, where there is one."""
    memory: int | None = None
    """Most bytes that the process held."""
    parameters: int = 0
    """That learned."""


class Serving(Config):
    """What it takes to answer."""

    seconds: float
    """A text, of many that are answered together."""
    alone: float
    """One text alone: the median."""
    memory: int | None = None
    """Most bytes that the process held while it answered many."""
    size: int = 0
    """Bytes of the weights in use."""


class Trial(Config):
    """One run of one way."""

    model: str
    """Which model; empty where there is none."""
    rung: RungName
    seed: int
    answers: tuple[str | None, ...]
    """One a text of the test, in their order."""
    scores: tuple[float, ...]
    """How right each is, from 0 to 1."""
    confidences: tuple[float | None, ...] = ()
    learning: Learning = Learning()
    serving: Serving
    settings: dict[str, Any] = Field(default={})
    """What was chosen, for whoever wants to do it again."""


def timed(
    answerer: Answerer, count: int, progress: Progress = silent
) -> tuple[list[Prediction], float, float, int | None]:
    """Answers to `count` texts; seconds a text among many, seconds of one alone, and the peak of memory in bytes."""
    numbers = range(count)
    answerer(numbers[:1])  # what is made ready at first use is not the texts' cost
    memory = PeakMemory(torch.device("cuda") if torch.cuda.is_available() else None)
    found: list[Prediction] = []
    began = time.perf_counter()
    for start in range(0, count, _AT_ONCE):
        found += answerer(numbers[start : start + _AT_ONCE])
        progress(len(found), count)
    seconds = (time.perf_counter() - began) / count
    peak, alone = memory.bytes(), list[float]()
    for number in numbers[:: max(1, count // _ALONE)][:_ALONE]:
        began = time.perf_counter()
        answerer([number])
        alone.append(time.perf_counter() - began)
        if sum(alone) > _LONGEST:
            break
    return found, seconds, statistics.median(alone), peak
