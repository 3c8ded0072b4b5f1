"""The one training loop: batches in, a trained model out. It knows no modality and no task.

    for step in run:
        for micro_batch in batch:  objective(model, micro_batch).sum.backward()
        gradients /= global count;  clip;  optimizer.step(schedule(step))

A run is a function of its config, its data and its seed. Killed at any step and started again, it goes on from its
checkpoint and ends with the same weights, bit for bit.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from underlay.config import Config
from underlay.errors import UserError
from underlay.models import Batch
from underlay.plan.machine import bf16_unit, find_compiler
from underlay.progress import Progress, silent
from underlay.train import checkpoint
from underlay.train.checkpoint import Progression
from underlay.train.interrupt import Interruptible
from underlay.train.memory import keep_freed_memory
from underlay.train.objectives import Objective
from underlay.train.optimizer import Optimizer, OptimizerConfig
from underlay.train.schedule import ScheduleConfig

_PROBE_STEPS = 24
"""Steps after which a run limited in time knows its speed; the first third may still be compiling."""


class TrainConfig(Config):
    """How a model is trained, whatever it learns."""

    steps: int | None = Field(default=None, gt=0)
    """Length of the run in steps."""
    minutes: float | None = Field(default=None, gt=0)
    """Length of the run in minutes instead: its number of steps is then set once its speed is known."""
    context: int = Field(default=256, gt=1)
    """Tokens in a row."""
    batch_rows: int = Field(default=64, gt=0)
    """Rows in a step."""
    micro_rows: int = Field(default=32, gt=0)
    """Rows that go through the model at once; less needs less memory and changes nothing else."""
    short_rows: tuple[tuple[float, int], ...] = ()
    """Shorter rows to begin with: pairs of a share of the run and a number of pieces. `[[0.5, 4], [0.8, 2]]` cuts each
    row into 4 until half of the run is done, then into 2 until 80 % are; nearby words are learned first, and faster."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How far each step goes."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the rate changes over the run."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient; longer ones are scaled down."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Of activations; bf16, and auto: bfloat16 where there is a unit for it, else float32. Weights stay in float32."""
    compile: bool | None = None
    """Use torch.compile; by default where a C++ compiler is found."""
    checkpoint_seconds: float = Field(default=30.0, gt=0)
    """Time between checkpoints."""

    @model_validator(mode="after")
    def _length(self) -> Self:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("set either steps or minutes")
        if self.batch_rows % self.micro_rows:
            raise ValueError(f"batch_rows {self.batch_rows} is no multiple of micro_rows {self.micro_rows}")
        for _, pieces in self.short_rows:
            if pieces < 1 or self.context % pieces:
                raise ValueError(f"rows of {self.context} tokens cannot be cut into {pieces} equal pieces")
        return self

    def pieces(self, step: int, steps: int | None) -> int:
        """Into how many pieces rows are cut at `step`; the first stage lasts while the run's length is not known."""
        done = step / steps if steps else 0.0
        return next((pieces for share, pieces in self.short_rows if done < share), 1)

    def dtype(self) -> torch.dtype:
        """The dtype of activations that `precision` means on this machine."""
        return torch.bfloat16 if self.precision != "float32" and bf16_unit() != "none" else torch.float32

    def compiles(self) -> bool:
        """Whether the run uses torch.compile here."""
        return find_compiler() is not None if self.compile is None else self.compile


class Source(Protocol):
    """Where batches come from: any sample of the run, at any time, by its number."""

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ..., count of them."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    progression: Progression
    tokens_per_second: float
    mode: str
    """How it ran, such as `compiled, bf16 (AMX)`."""
    earlier_seconds: float
    """Wall time that interrupted attempts had spent on the steps this one did not repeat."""
    earlier_cpu_seconds: float
    """Their processor time."""


def train(
    model: nn.Module,
    objective: Objective,
    source: Source,
    config: TrainConfig,
    scratch: Path,
    progress: Progress = silent,
    log: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Train `model` in place; checkpoints live in `scratch`.

    Raises UserError where a batch has nothing to learn from or the run diverges, KeyboardInterrupt after a checkpoint
    when the run is asked to stop.
    """
    optimizer = Optimizer(model, config.optimizer)
    state = checkpoint.load(scratch, model, optimizer)
    if state.steps is None:
        state.steps = config.steps
    mode = _mode(config)
    log(mode)
    if state.step:
        log(f"resumed at step {state.step:,}")
    if config.compiles():
        compile_blocks(model)
    earlier, earlier_cpu = state.seconds, state.cpu_seconds
    clock, cpu_began = _Clock(earlier, state.tokens), time.process_time()
    saved_at = clock.seconds()
    with Interruptible() as interrupt:
        while state.steps is None or state.step < state.steps:
            loss, norm = _step(model, optimizer, objective, source, config, state)
            state.seconds = clock.seconds()
            state.cpu_seconds = earlier_cpu + time.process_time() - cpu_began
            state.log.append(
                {
                    "step": state.step,
                    "tokens": state.tokens,
                    "loss": loss,
                    "rate": config.schedule.rate(state.step - 1, state.steps),
                    "norm": norm,
                }
            )
            clock.lap(state.tokens)
            replanned = _plan_length(config, state, clock)
            _report(progress, state, clock, config)
            if replanned or interrupt.requested or state.seconds - saved_at > config.checkpoint_seconds:
                checkpoint.save(scratch, model, optimizer, state)
                saved_at = clock.seconds()
            interrupt.raise_if_requested()
    if 2 * state.skipped > state.step:
        raise UserError(_diverged(state))
    if state.skipped:
        log(f"{state.skipped} steps left out: their gradient was not finite")
    return Outcome(state, clock.tokens_per_second(), mode, earlier, earlier_cpu)


def _diverged(state: Progression) -> str:
    return f"the run diverged: {state.skipped} steps without a finite gradient; lower the learning rate"


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks, each by itself: they share their code, so one is compiled and the others reuse it.

    The process keeps freed memory from then on (see `keep_freed_memory`).
    """
    keep_freed_memory()
    for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            block.compile()


def _step(
    model: nn.Module,
    optimizer: Optimizer,
    objective: Objective,
    source: Source,
    config: TrainConfig,
    state: Progression,
) -> tuple[float, float]:
    """One optimizer step; returns mean loss (nats a target) and gradient norm, and moves `state` forward."""
    total = count = torch.zeros(())
    pieces = config.pieces(state.step, state.steps)
    for first in range(state.samples, state.samples + config.batch_rows, config.micro_rows):
        batch = source.batch(first, config.micro_rows).cut(pieces)
        loss = objective(model, batch)
        loss.sum.backward()  # type: ignore[no-untyped-call]
        total, count = total + loss.sum.detach(), count + loss.count
        state.tokens += batch.tokens.numel()
    if not count:
        raise UserError(f"step {state.step}: nothing to learn from, all targets weigh 0")
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    torch._foreach_div_(gradients, count)
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
    if math.isfinite(norm):
        optimizer.step(config.schedule.rate(state.step, state.steps))
    else:
        state.skipped += 1
        if state.skipped > max(10, state.step // 2):
            raise UserError(_diverged(state))
    model.zero_grad()
    state.step += 1
    state.samples += config.batch_rows
    return float(total / count), norm


def _plan_length(config: TrainConfig, state: Progression, clock: "_Clock") -> bool:
    """Set the length of a run that is limited in time, once its speed is known and again before the rate decays."""
    if config.minutes is None:
        return False
    known = state.steps is not None
    due = state.step == config.schedule.decay_start(state.steps) - 1 if state.steps else state.step >= _PROBE_STEPS
    if not due or not clock.measured():  # an attempt that has just resumed does not know its speed yet
        return False
    left = max(0.0, config.minutes * 60 - clock.seconds())
    steps = state.step + max(1, round(left / clock.seconds_per_step()))
    if known and state.steps and config.schedule.decay_start(steps) <= state.step - 1:
        steps = state.steps  # shortening would put the start of the decay into the past
    changed = steps != state.steps
    state.steps = steps
    return changed


def _report(progress: Progress, state: Progression, clock: "_Clock", config: TrainConfig) -> None:
    facts: dict[str, float | str] = {
        "loss": round(state.log[-1]["loss"], 3),
        "rate": f"{clock.tokens_per_second():,.0f} tokens/s",
    }
    if state.steps is None and config.minutes:
        progress(state.seconds, config.minutes * 60, **facts)
    else:
        progress(state.step, state.steps, **facts)


def _mode(config: TrainConfig) -> str:
    how = "compiled" if config.compiles() else "eager (no C++ compiler found)" if config.compile is None else "eager"
    unit = bf16_unit()
    return f"{how}, bf16 ({unit})" if config.dtype() is torch.bfloat16 else f"{how}, float32"


class _Clock:
    """Wall time over all attempts, and the speed of recent steps."""

    def __init__(self, earlier: float, tokens: int) -> None:
        self._start = time.monotonic() - earlier
        self._tokens = tokens
        self._laps: list[tuple[float, int]] = []

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def lap(self, tokens: int) -> None:
        self._tokens = tokens
        self._laps.append((time.monotonic(), tokens))

    def _recent(self) -> tuple[tuple[float, int], tuple[float, int], int]:
        laps = self._laps[_PROBE_STEPS // 3 :][-200:] or [(0.0, 0)]
        return laps[0], laps[-1], len(laps) - 1

    def measured(self) -> bool:
        """Whether this attempt has made enough steps to know its speed."""
        return self._recent()[2] >= _PROBE_STEPS // 2

    def seconds_per_step(self) -> float:
        (t0, _), (t1, _), steps = self._recent()
        return (t1 - t0) / steps

    def tokens_per_second(self) -> float:
        """Of recent steps; of everything, compilation included, where the run is too young or was only resumed."""
        (t0, n0), (t1, n1), steps = self._recent()
        return (n1 - n0) / (t1 - t0) if steps else self._tokens / max(1e-9, self.seconds())
