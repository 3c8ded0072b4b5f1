"""What a run tells of itself, and whom: before it begins, at each step, and when it goes wrong."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.plan.machine import measure
from underlay.progress import Progress
from underlay.train import checkpoint
from underlay.train.checkpoint import Progression
from underlay.train.config import TrainConfig
from underlay.train.examine import Examine, Examiner
from underlay.train.journal import Journal
from underlay.train.preflight import Preflight
from underlay.train.record import Recorder, Recording

PROBE_STEPS = 24
"""Steps after which a run limited in time knows its speed; the first third may still be compiling."""
_TOLD = 5
"""Steps left out that are told one by one."""
_NAMED = 3
"""Documents of such a step that are named."""


@dataclass(frozen=True)
class Onlookers:
    """Who looks at a run from outside. What is learned does not depend on them."""

    examine: Examine | None = None
    """Called every `examine_steps` steps."""
    recorders: Mapping[str, Recorder] = field(default_factory=dict)
    """By name; each gets every row of figures."""
    documents: Callable[[range], Sequence[str]] = lambda _: ()
    """Names what stands in samples of these numbers, what most of it is first."""
    beforehand: bool = False
    """Whether also before the first step: where the model knows something already."""


NOBODY = Onlookers()


def told(
    found: Preflight, state: Progression, config: TrainConfig, chance: float | None, at_peak: float | None
) -> Iterator[str]:
    """What is worth saying before the first step; `chance` and `at_peak` as `loop.train` and `Clock` have them."""
    rows = state.micro_rows
    share = "" if found.supervised is None else f"; {found.supervised:.0%} of the first row's tokens are learned from"
    yield f"{found.parameters:,} parameters, about {found.needed(rows) / 2**30:.1f} GiB for training{share}"
    if config.steps and at_peak:
        tokens = (config.steps - state.step) * config.batch_rows * config.context
        yield f"about {_span(2 * at_peak * tokens)} at half of this machine's matrix products"
    if rows < config.micro_rows:
        yield f"memory is short: {rows} rows at once instead of {config.micro_rows}, as many in a step"
    if found.silent:
        yield "no gradient comes of the first rows, so whether all parameters can learn is not known"
    if found.unreached:
        yield f"no gradient reaches {', '.join(found.unreached[:3])}" + (" ..." if found.unreached[3:] else "")
    if chance is not None and not 0.95 < found.loss / chance < 1.05:
        yield f"the first loss is {found.loss:.2f}, by chance it would be {chance:.2f}: the start is uneven"


def _span(seconds: float) -> str:
    """A time to be thought of, not counted on: 40 s, 6 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Notes:
    """What was measured of each step, written down one step later, when the device has long computed it."""

    def __init__(
        self,
        journal: Journal,
        state: Progression,
        log: Callable[[str], None],
        recording: Recording,
        documents: Callable[[range], Sequence[str]],
    ) -> None:
        """Rows go to `journal` and `recording`; `documents` names those in samples of given numbers."""
        self._journal, self._state, self._log = journal, state, log
        self._recording, self._documents = recording, documents
        self._waiting: list[tuple[int, int, range, float, Tensor, tuple[str, ...]]] = []
        self.loss = float("nan")
        """Of the last step that is written down."""

    def take(self, measured: Tensor, rate: float, rows: int, metrics: Sequence[str] = ()) -> None:
        """Keep what was measured of the step just made, of so many rows, ending with `metrics`; see `loop.train`."""
        state, samples = self._state, range(self._state.samples - rows, self._state.samples)
        self._waiting.append((state.step, state.tokens, samples, rate, measured, tuple(metrics)))

    def settle(self) -> None:
        """Write down what was kept. Raises UserError where there was nothing to learn from, or the run diverges."""
        state = self._state
        for step, tokens, samples, rate, measured, metrics in self._waiting:
            self.loss, norm, kept, count, *others = measured.tolist()
            if not count:
                raise UserError(f"step {step}: nothing to learn from, all targets weigh 0")
            facts = {"step": step, "tokens": tokens, "loss": self.loss, "rate": rate, "norm": norm, "kept": kept}
            facts |= dict(zip(metrics, others, strict=True))
            self._journal.add(facts)
            self._recording.add(facts)
            if kept:
                continue
            state.skipped += 1
            if state.skipped <= _TOLD:
                read = _some(self._documents(samples))
                self._log(f"step {step:,} left out: loss {self.loss:.3g}, gradient {norm:.3g}{read}")
            if state.skipped > max(10, state.step // 2):
                raise UserError(diverged(state, self._journal.path.parent))
        self._waiting.clear()


def _some(documents: Sequence[str]) -> str:
    if not documents:
        return ""
    more = len(documents) - _NAMED
    return f"; it read {', '.join(documents[:_NAMED])}" + (f" and {more:,} more" if more > 0 else "")


def diverged(state: Progression, scratch: Path) -> str:
    """What to say where too many steps had to be left out."""
    again, last = "there is no checkpoint yet", checkpoint.newest(scratch)
    if last:
        step = int(last.name.removeprefix("step-"))
        again = f"with these settings it would go on from step {step:,}, its last good checkpoint, and come here again"
    return (
        f"the run diverged: {state.skipped} of {state.step} steps had to be left out, their loss or gradient was not "
        f"finite or far too large; lower the learning rate and it begins anew ({again})"
    )


class Clock:
    """Wall time over all attempts, and the speed of recent steps."""

    def __init__(self, earlier: float, tokens: int, at_peak: float | None = None) -> None:
        """Go on after `earlier` seconds and `tokens`; `at_peak`: seconds that a token would take at full speed."""
        self._start = time.monotonic() - earlier
        self._at_peak = at_peak
        self._tokens = tokens
        self._laps: list[tuple[float, int]] = []
        self._away, self._times = 0.0, 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave what is done in a block out of the speed; it is time of the run all the same."""
        began = time.monotonic()
        yield
        self._away, self._times = self._away + time.monotonic() - began, self._times + 1

    def seconds(self) -> float:
        """Since the run began, all attempts together."""
        return time.monotonic() - self._start

    def lap(self, tokens: int) -> None:
        """A step is done; `tokens` were read so far."""
        self._tokens = tokens
        self._laps.append((time.monotonic() - self._away, tokens))

    def _recent(self) -> tuple[tuple[float, int], tuple[float, int], int]:
        laps = self._laps[PROBE_STEPS // 3 :][-200:] or [(0.0, 0)]
        return laps[0], laps[-1], len(laps) - 1

    def measured(self) -> bool:
        """Whether this attempt has made enough steps to know its speed."""
        return self._recent()[2] >= PROBE_STEPS // 2

    def seconds_per_step(self) -> float:
        """Of recent steps; ask `measured` first."""
        (t0, _), (t1, _), steps = self._recent()
        return (t1 - t0) / steps

    def steps_in(self, seconds: float, every: int | None) -> int:
        """How many steps fit into some seconds, at least one; every so many, and after the last, something is done
        aside, for as long as it took so far in this attempt."""
        each = self._away / self._times if self._times else 0.0
        return max(1, round((seconds - each) / (self.seconds_per_step() + (each / every if every else 0.0))))

    def tokens_per_second(self) -> float:
        """Of recent steps; of everything, compilation included, where the run is too young or was only resumed."""
        (t0, n0), (t1, n1), steps = self._recent()
        return (n1 - n0) / (t1 - t0) if steps else self._tokens / max(1e-9, self.seconds() - self._away)

    def of_peak(self) -> float | None:
        """Share of what the machine can do: model FLOPs utilisation (PaLM, arXiv:2204.02311, appendix B)."""
        return None if self._at_peak is None else self._at_peak * self.tokens_per_second()


def products(dtype: torch.dtype) -> float:
    """Measured speed of this machine's matrix products in a dtype, FLOP/s."""
    rates = measure(0.2)
    return rates.bf16_flops if dtype is torch.bfloat16 else rates.float32_flops


def report(
    progress: Progress, state: Progression, loss: float, examiner: Examiner, clock: Clock, config: TrainConfig
) -> None:
    """Tell how far the run has come."""
    share = clock.of_peak()
    known: dict[str, float | str] = {} if math.isnan(loss) else {"loss": round(loss, 3)}
    known |= {name: round(value, 3) for name, value in examiner.shown().items()}
    facts = known | {
        "rate": f"{clock.tokens_per_second():,.0f} tokens/s" + (f", {share:.0%} of peak" if share else ""),
        "memory": f"{_memory() / 2**30:.1f} GiB",
    }
    if state.steps is None and config.minutes:
        progress(state.seconds, config.minutes * 60, **facts)
    else:
        progress(state.step, state.steps, **facts)


def _memory() -> int:
    """Bytes in use: on the GPU, where there is one, else of this process."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else int(psutil.Process().memory_info().rss)
