"""The learning rate over a run: it rises, stays, and falls.

Warmup, stable, decay (arXiv:2404.06395) is the default: while it is stable a run can be made longer or shorter without
being wrong, because nothing yet depends on its end. The others fall from the end of the warmup on.
"""

import math
from typing import Literal

from pydantic import Field

from underlay.config import Config


class ScheduleConfig(Config):
    """The shape of the learning rate over a run."""

    kind: Literal["wsd", "cosine", "linear"] = "wsd"
    """`wsd`: stays, then falls linearly; `cosine` (arXiv:1608.03983) and `linear`: fall from the warmup on."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps over which the rate rises linearly from zero."""
    decay: float = Field(default=0.5, ge=0, le=1)
    """Of `wsd`: share of the run, at its end, over which the rate falls."""
    final: float = Field(default=0.0, ge=0, le=1)
    """What is left of the rate at the end, as a share."""

    def decay_start(self, steps: int) -> int:
        """The first step of the decay in a run of `steps`."""
        return steps - round(self.decay * steps) if self.kind == "wsd" else min(self.warmup_steps, steps)

    def stable(self, steps: int) -> int:
        """How many steps of a run of `steps` know nothing of its end; 0 where the rate falls from the warmup on."""
        return self.decay_start(steps) if self.kind == "wsd" else 0

    def shortest(self, stable: int) -> int | None:
        """Length of the shortest run with so many stable steps; None where none has, however long."""
        if self.kind != "wsd" or self.decay == 1:
            return None
        steps = max(stable, int((stable - 0.5) / (1 - self.decay)) - 1)  # half a step is what rounding moves
        while self.stable(steps) < stable:
            steps += 1
        return steps

    def rate(self, step: int, steps: int | None) -> float:
        """Factor on the learning rate at `step` (from 0); `steps` is None while the end is not known yet."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if steps is None or step < self.decay_start(steps):
            return rise
        left = (steps - step) / max(1, steps - self.decay_start(steps))
        if self.kind == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        return min(rise, self.final + (1 - self.final) * left)
