"""The one training loop: batches in, a trained model out. It knows no modality and no task.

    for step in run:
        for micro_batch in batch:  objective(model, micro_batch).sum.backward()
        gradients /= global count;  clip;  optimizer.step(schedule(step), unless the guard objects)

A run is a function of its config, its data and its seed. Killed at any step and started again, it goes on from its
checkpoint and ends with the same weights, bit for bit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from underlay.errors import UserError
from underlay.models import Batch
from underlay.progress import Progress, silent
from underlay.train import checkpoint, watch
from underlay.train.average import Average
from underlay.train.checkpoint import Progression
from underlay.train.config import TrainConfig
from underlay.train.examine import Examiner
from underlay.train.guard import Guard
from underlay.train.interrupt import Interruptible
from underlay.train.journal import METRICS, Journal
from underlay.train.memory import keep_freed_memory
from underlay.train.objectives import Objective
from underlay.train.optimizer import Optimizer
from underlay.train.preflight import fitting, inspect
from underlay.train.record import Recording


class Source(Protocol):
    """Where batches come from: any sample of the run, at any time, by its number."""

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ..., count of them."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    progression: Progression
    journal: Journal
    """One row a step: step, tokens, loss (nats a target), rate, norm (of the gradient), kept (0: left out)."""
    evaluations: Journal
    """One row an examination: step, tokens, and its figures."""
    samples: Journal
    """One row a sample of an examination: step, and its parts."""
    tokens_per_second: float
    of_peak: float | None
    """Share of the machine's measured matrix products that this is, where a token's work is known."""
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
    chance: float | None = None,
    work: float | None = None,
    onlookers: watch.Onlookers = watch.NOBODY,
) -> Outcome:
    """Train `model` in place; checkpoints live in `scratch`.

    `chance`: the loss of a model that knows nothing, where `model` is one; it is told if the first loss is another.
    `work`: FLOPs of training on a token, for telling how much of the machine is used.
    `onlookers`: who looks at the run; nothing that is learned depends on them.

    Raises UserError where it cannot fit into memory, a batch has nothing to learn from or the run diverges,
    KeyboardInterrupt after a checkpoint when the run is asked to stop.
    """
    run = _Run(model, objective, source, config, scratch, onlookers)
    state, journal, examiner = run.state, run.journal, run.examiner
    recording = Recording(onlookers.recorders, log)
    notes = watch.Notes(journal, state, log, recording, onlookers.documents)
    log(config.mode())
    if state.step:
        log(f"resumed at step {state.step:,}")
    else:
        found = inspect(model, objective, source.batch(0, 1).to(run.device))
        state.micro_rows = fitting(found, config.micro_rows, run.device)
        for line in watch.told(found, state.micro_rows, config, chance):
            log(line)
    if config.compiles():
        compile_blocks(model)
    earlier, earlier_cpu = state.seconds, state.cpu_seconds
    clock = watch.Clock(earlier, state.tokens, work / watch.products(config.dtype()) if work else None)
    cpu_began = time.process_time()
    saved_at = clock.seconds()
    with recording.after(state.step), Interruptible() as interrupt:
        while True:
            if examiner.due():
                notes.settle()
                with clock.aside():
                    recording.add(examiner.look(log))
                if interrupt.requested:
                    run.save()
                interrupt.raise_if_requested()
            if state.step == state.steps:
                break
            rate = config.schedule.rate(state.step, state.steps)
            measured = run.step(rate, log)
            notes.settle()
            notes.take(measured, rate, config.batch_rows)
            state.seconds = clock.seconds()
            state.cpu_seconds = earlier_cpu + time.process_time() - cpu_began
            clock.lap(state.tokens)
            replanned = _plan_length(config, state, clock)
            watch.report(progress, state, notes.loss, examiner, clock, config)
            if replanned or interrupt.requested or state.seconds - saved_at > config.checkpoint_seconds:
                notes.settle()
                run.save()
                saved_at = clock.seconds()
            interrupt.raise_if_requested()
        notes.settle()
    run.close()
    if 2 * state.skipped > state.step:
        raise UserError(watch.diverged(state, scratch))
    if state.skipped:
        log(f"{state.skipped} steps were left out, {state.skipped / state.step:.1%}; their rows in the log have kept 0")
    if run.average:
        run.average.apply()
    speed, of_peak = clock.tokens_per_second(), clock.of_peak()
    evaluations, samples = examiner.evaluations, examiner.samples
    return Outcome(state, journal, evaluations, samples, speed, of_peak, config.mode(), earlier, earlier_cpu)


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks, each by itself: they share their code, so one is compiled and the others reuse it.

    The process keeps freed memory from then on (see `keep_freed_memory`).
    """
    keep_freed_memory()
    for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            block.compile()


class _Run:
    """All that a step changes, taken up from the newest checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        source: Source,
        config: TrainConfig,
        scratch: Path,
        onlookers: watch.Onlookers,
    ) -> None:
        self.model, self.objective, self.source, self.config, self.scratch = model, objective, source, config, scratch
        self.device = next(model.parameters()).device
        self.optimizer, self.guard = Optimizer(model, config.optimizer), Guard(config.outliers, self.device)
        self.average = Average(model, config.average) if config.average else None
        self._parts: dict[str, checkpoint.Part]
        self._parts = {"model": checkpoint.Weights(model), "optimizer": self.optimizer, "guard": self.guard}
        if self.average:
            self._parts["average"] = self.average
        self.state = checkpoint.load(scratch, self._parts)
        if self.state.steps is None:
            self.state.steps = config.steps
        self.journal = Journal(scratch / METRICS, self.state.step)
        self.examiner = Examiner(onlookers.examine, config, model, self.average, scratch, self.state)
        self._halved = False

    def save(self) -> None:
        """Write a checkpoint, and before it the rows that it counts on."""
        self.journal.sync()
        self.examiner.sync()
        checkpoint.save(self.scratch, self._parts, self.state)

    def close(self) -> None:
        """Write what is left of the rows."""
        self.journal.close()
        self.examiner.close()

    def step(self, rate: float, log: Callable[[str], None]) -> Tensor:
        """One optimizer step, with half as many rows at once from where memory runs out for the first time.

        Returns (4,) float32: mean loss (nats a target), gradient norm, whether the step was taken, weight of targets.
        """
        try:
            return self._step(rate)
        except torch.OutOfMemoryError:
            if self._halved or self.state.micro_rows % 2:
                raise
            self._halved, self.state.micro_rows = True, self.state.micro_rows // 2
        log(f"out of memory: {self.state.micro_rows} rows at once from now on, as many in a step as before")
        self.model.zero_grad()
        return self._step(rate)

    def _step(self, rate: float) -> Tensor:
        """Nothing here waits for the device."""
        model, state, rows = self.model, self.state, self.config.batch_rows
        pieces = self.config.pieces(state.step, state.steps)
        total = count = torch.zeros((), device=self.device)
        tokens = 0
        for first in range(state.samples, state.samples + rows, state.micro_rows):
            batch = self.source.batch(first, state.micro_rows).cut(pieces).to(self.device)
            loss = self.objective(model, batch)
            loss.sum.backward()  # type: ignore[no-untyped-call]
            total, count = total + loss.sum.detach(), count + loss.count
            tokens += batch.tokens.numel()
        torch._foreach_div_([p.grad for p in model.parameters() if p.grad is not None], count)
        mean, norm = total / count, nn.utils.clip_grad_norm_(model.parameters(), self.config.clip)
        keep = self.guard.judge(mean, norm)
        self.optimizer.step(rate, keep)
        model.zero_grad()
        state.step += 1
        state.samples += rows
        state.tokens += tokens
        if self.average:
            self.average.update(state.step)
        return torch.stack([mean, norm, keep, count])


def _plan_length(config: TrainConfig, state: Progression, clock: watch.Clock) -> bool:
    """Set the length of a run that is limited in time, once its speed is known and again before the rate decays."""
    if config.minutes is None:
        return False
    known = state.steps is not None
    due = state.step == config.schedule.decay_start(state.steps) - 1 if state.steps else state.step >= watch.PROBE_STEPS
    if not due or not clock.measured():  # an attempt that has just resumed does not know its speed yet
        return False
    steps = state.step + clock.steps_in(config.minutes * 60 - clock.seconds(), config.examine_steps)
    if known and state.steps and config.schedule.decay_start(steps) <= state.step - 1:
        steps = state.steps  # shortening would put the start of the decay into the past
    changed = steps != state.steps
    state.steps = steps
    return changed
