"""Which steps to take and which to leave out, decided on the device that trains, without waiting for it."""

import torch
from torch import Tensor

WINDOW = 128
"""Steps that a step is compared with; at least half of them must be there."""
_FLOOR = 0.05
"""Share of the mean that is never an outlier, however even the steps before were."""


class Guard:
    """Leaves out steps that would do harm: broken batches, and spikes.

    A step is left out where its loss or its gradient's norm is not finite, or more than `sigma` standard deviations
    above the mean of the last `WINDOW` steps (the skipped steps of OLMo 2, arXiv:2501.00656, which takes 6 sigma).
    Outliers count in what follows, so that a loss that stays higher is soon no outlier any more.
    """

    def __init__(self, sigma: float | None, device: torch.device) -> None:
        """Compare with `sigma`; None: only what is not finite is left out."""
        self.sigma = sigma
        self.seen = torch.full((2, WINDOW), float("nan"), device=device)
        """Losses and norms of the last steps, in a ring; float32."""
        self.count = torch.zeros(1, dtype=torch.int64, device=device)

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether to take the step; loss, norm: scalars. Returns a scalar bool on their device."""
        found = torch.stack([loss, norm]).float()
        finite = found.isfinite().all()
        keep = finite if self.sigma is None else finite & ~self._outlying(found, self.sigma)
        place = (self.count % WINDOW).expand(2, 1)
        self.seen.scatter_(1, place, torch.where(finite, found[:, None], self.seen.gather(1, place)))
        self.count += finite
        return keep

    def _outlying(self, found: Tensor, sigma: float) -> Tensor:
        there = ~self.seen.isnan()
        known = there.sum(1)
        mean = self.seen.nansum(1) / known
        spread = ((self.seen - mean[:, None]).square().nansum(1) / known).sqrt()
        limit = mean + torch.maximum(sigma * spread, _FLOOR * mean)
        return ((found > limit) & (known >= WINDOW // 2)).any()

    def state(self) -> dict[str, Tensor]:
        """Every tensor that later judgements depend on."""
        return {"seen": self.seen, "count": self.count}
