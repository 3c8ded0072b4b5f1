"""Warmup, stable, decay: the learning rate rises, stays, and falls to zero (arXiv:2404.06395).

While it is stable a run can be made longer or shorter without being wrong, because nothing yet depends on its end.
"""

from pydantic import Field

from underlay.config import Config


class ScheduleConfig(Config):
    """The shape of the learning rate over a run."""

    warmup_steps: int = Field(default=10, ge=0)
    """Steps over which the rate rises linearly from zero."""
    decay: float = Field(default=0.5, ge=0, le=1)
    """Share of the run, at its end, over which the rate falls linearly."""
    final: float = Field(default=0.0, ge=0, le=1)
    """What is left of the rate at the end, as a share."""

    def decay_start(self, steps: int) -> int:
        """The first step of the decay in a run of `steps`."""
        return steps - round(self.decay * steps)

    def rate(self, step: int, steps: int | None) -> float:
        """Factor on the learning rate at `step` (from 0); `steps` is None while the end is not known yet."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if steps is None or step < self.decay_start(steps):
            return rise
        left = (steps - step) / max(1, steps - self.decay_start(steps))
        return min(rise, self.final + (1 - self.final) * left)
