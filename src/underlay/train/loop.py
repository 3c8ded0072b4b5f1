"""The one training loop: batches in, a trained model out. It knows no modality and no task.

    for step in run:
        for micro_batch in batch:  objective(model, micro_batch).sum.backward()
        gradients /= global count;  clip;  optimizer.step(schedule(step), unless the guard objects)

A run is a function of its config, its data and its seed. Killed at any step and started again, it goes on from its
checkpoint and ends with the same weights, bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from underlay.errors import MachineError, UserError
from underlay.models import Batch
from underlay.progress import Progress, silent
from underlay.train import float8, stable, watch
from underlay.train.average import Average
from underlay.train.checkpoint import Checkpoints, Part, Progression, Weights
from underlay.train.config import TrainConfig
from underlay.train.examine import Examiner
from underlay.train.guard import Guard
from underlay.train.interrupt import Interruptible
from underlay.train.journal import METRICS, Journal
from underlay.train.memory import forget_gradients, give_back_freed_memory, keep_freed_memory
from underlay.train.objectives import Objective
from underlay.train.optimizer import Optimizer
from underlay.train.preflight import MOST_ROWS, fitting, inspect
from underlay.train.record import Recording
from underlay.train.spread import Spread, blocks
from underlay.train.world import World, alone


class Source(Protocol):
    """Where batches come from: any sample of the run, at any time, by its number."""

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ..., count of them."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    weights: Mapping[str, Tensor]
    """What was learned, in the memory of the leading process; nothing in others."""
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
    world: World | None = None,
) -> Outcome:
    """Train `model` in place, together with all processes of the `world`; checkpoints live in `scratch`.

    `chance`: the loss of a model that knows nothing, where `model` is one; it is told if the first loss is another.
    `work`: FLOPs of training on a token, for telling how much of the machine is used.
    `onlookers`: who looks at the run; nothing that is learned depends on them. The process keeps freed memory from then
    on (see `keep_freed_memory`).

    Raises UserError where it cannot fit into memory, a batch has nothing to learn from or the run diverges,
    MachineError where memory runs out on the way, KeyboardInterrupt after a checkpoint when the run is asked to stop.
    """
    keep_freed_memory()
    world = world or alone()
    run = _Run(model, objective, source, config, scratch, onlookers, world)
    state, journal, examiner = run.state, run.journal, run.examiner
    recording = Recording(onlookers.recorders, log)
    notes = watch.Notes(journal, state, log, recording, onlookers.documents)
    log(config.mode() + (f", {world.size} processes" if world.size > 1 else ""))
    at_peak = work / watch.products(config.dtype()) / world.size if work else None
    if state.micro_rows:
        log(f"resumed at step {state.step:,}")
    else:
        found = inspect(run.spread, objective, run.first_rows())
        state.micro_rows = int(-world.most(-fitting(found, config.micro_rows, world.device))[0])
        for line in watch.told(found, state, config, None if state.step else chance, at_peak):
            log(line)
    if config.precision == "fp8":
        faster = float8.begin(model, state.micro_rows * config.context, world.device, config.tensor_parallel)
        log(f"products in 8 bits: {faster:.2f} times as fast as bfloat16 for this model's matrices")
    if config.compiles():
        compile_blocks(model)
    give_back_freed_memory()
    earlier, earlier_cpu = state.seconds, state.cpu_seconds
    clock = watch.Clock(earlier, state.tokens, at_peak)
    cpu_began = time.process_time()
    saved_at = clock.seconds()
    with recording.after(state.step), Interruptible() as interrupt:
        run.keep_stable()  # where another run was taken over that fell from the same step
        while True:
            if examiner.due():
                notes.settle()
                with clock.aside():
                    recording.add(examiner.look(log))
            if state.steps is not None and state.step >= state.steps:
                break
            rate = config.schedule.rate(state.step, state.steps)
            measured = run.step(rate, log)
            notes.settle()
            notes.take(measured, rate, config.batch_rows, run.metrics)
            state.seconds = clock.seconds()
            state.cpu_seconds = earlier_cpu + time.process_time() - cpu_began
            clock.lap(state.tokens)
            replanned = _plan_length(config, state, clock, world)
            watch.report(progress, state, notes.loss, examiner, clock, config)
            due = state.seconds - saved_at > config.checkpoint_seconds
            due = due or replanned or interrupt.requested or run.leaves_stable()
            stops, saves = world.most(interrupt.requested, due)
            if saves:
                notes.settle()
                run.save()
                saved_at = clock.seconds()
            if stops:
                run.settle()
                raise KeyboardInterrupt
        notes.settle()
    run.close()
    if 2 * state.skipped > state.step:
        raise UserError(watch.diverged(state, scratch))
    if state.skipped:
        log(f"{state.skipped} steps were left out, {state.skipped / state.step:.1%}; their rows in the log have kept 0")
    if run.average:
        run.average.apply()
    speed, of_peak = clock.tokens_per_second(), clock.of_peak()
    evaluations, samples, weights = examiner.evaluations, examiner.samples, run.spread.whole()
    return Outcome(weights, state, journal, evaluations, samples, speed, of_peak, config.mode(), earlier, earlier_cpu)


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks, each by itself: they share their code, so one is compiled and the others reuse it."""
    for block in blocks(model):
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
        world: World,
    ) -> None:
        self.model, self.objective, self.source, self.config, self.world = model, objective, source, config, world
        self.spread = Spread(model, config, world)
        self.optimizer = Optimizer(self.spread, config.optimizer, config.dtype())
        self.guard = Guard(config.outliers, world.device)
        self.average = Average(self.spread, config.average) if config.average else None
        parts: dict[str, Part] = {"model": Weights(model), "optimizer": self.optimizer, "guard": self.guard}
        if self.average:
            parts["average"] = self.average
        self.checkpoints = Checkpoints(scratch, parts, world)
        self.state = self.checkpoints.load()
        if self.state.steps is None:
            self.state.steps = config.steps
        self.kept = Checkpoints(scratch / stable.KEPT, parts, world)
        own = scratch if world.leads else scratch / f"process-{world.rank}"
        self.journal = Journal(own / METRICS, self.state.step)
        looks, before = onlookers.examine, onlookers.beforehand
        self.examiner = Examiner(looks, config, self.spread, self.average, own, self.state, before)
        self.metrics: list[str] = []
        """What the objective tells beside its loss."""
        self._halved = self._warm = False

    def save(self) -> None:
        """Write a checkpoint, and before it the rows that it counts on."""
        self.journal.sync()
        self.examiner.sync()
        self.kept.settle()
        self.keep_stable()
        self.checkpoints.save(self.state)

    def first_rows(self) -> Iterator[Batch]:
        """Rows of the step that is to come, one by one."""
        numbers = range(self.state.samples, self.state.samples + min(self.config.batch_rows, MOST_ROWS))
        return (self.source.batch(number, 1).to(self.world.device) for number in numbers)

    def settle(self) -> None:
        """Wait for what is being written in the background."""
        self.checkpoints.settle()
        self.kept.settle()

    def keep_stable(self) -> None:
        """Keep this moment beside the checkpoints, if it is the one before the rate begins to fall."""
        if self.leaves_stable():
            stable.keep(self.kept, self.state)

    def leaves_stable(self) -> bool:
        """Whether this is the moment before the rate begins to fall, and it is to be kept."""
        state = self.state
        if not self.config.keep_stable or state.steps is None:
            return False
        return 0 < state.step == self.config.schedule.stable(state.steps)

    def close(self) -> None:
        """Write what is left."""
        self.settle()
        self.model.zero_grad()
        self.journal.close()
        self.examiner.close()

    def step(self, rate: float, log: Callable[[str], None]) -> Tensor:
        """One optimizer step, with half as many rows at once from where memory runs out for the first time.

        Returns float32 scalars: mean loss (nats a target), gradient norm, whether the step was taken, weight of
        targets, and the means of the objective's metrics, whose names `metrics` has. Raises MachineError where it
        runs out again.
        """
        try:
            return self._step(rate)
        except torch.OutOfMemoryError as error:
            rows = self.state.micro_rows
            if self._halved or rows % 2 or self.world.size > 1:  # others are waiting within the step
                raise MachineError(
                    f"out of memory with {rows} rows at once; take a smaller model, or lower micro_rows or context"
                ) from error
        self._halved, self.state.micro_rows = True, rows // 2
        log(f"out of memory: {rows // 2} rows at once from now on, as many in a step as before")
        self.model.zero_grad()
        return self.step(rate, log)

    def _step(self, rate: float) -> Tensor:
        """Nothing here waits for the device."""
        model, state, rows = self.model, self.state, self.config.batch_rows
        pieces = self.config.pieces(state.step, state.steps)
        if not state.cuts or state.cuts[-1][1] != pieces:
            state.cuts.append([state.step, pieces])
        share = rows // self.spread.replicas
        first = state.samples + self.spread.replica * share
        at_once = math.gcd(share, state.micro_rows)
        sums = torch.zeros((), device=self.world.device)
        tokens = 0
        for start in range(first, first + share, at_once):
            batch = self.source.batch(start, at_once).cut(pieces).to(self.world.device)
            loss = self.objective(model, batch)
            loss.sum.backward()  # type: ignore[no-untyped-call]
            self.metrics = sorted(loss.metrics)
            told = [loss.sum, loss.count, *(loss.metrics[name] for name in self.metrics)]
            sums = sums + torch.stack([one.detach().float() for one in told])
            tokens += batch.tokens.numel()
            if not self._warm:
                self._warm = True
                give_back_freed_memory()  # compiling is done
        total, count, *others = self.spread.sums(sums)
        norm = self.spread.scale(count, self.config.clip)
        mean = total / count
        keep = self.guard.judge(mean, norm)
        self.optimizer.step(rate, keep)
        forget_gradients(model, self.world.device)
        state.step += 1
        state.samples += rows
        state.tokens += tokens * self.spread.replicas
        if self.average:
            self.average.update(state.step)
        return torch.stack([mean, norm, keep, count, *(one / count for one in others)])


def _plan_length(config: TrainConfig, state: Progression, clock: watch.Clock, world: World) -> bool:
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
    if state.taken_over:  # and so it would where all steps so far were stable
        steps = max(steps, config.schedule.shortest(state.step) or 0)
    steps = world.told(steps)
    changed = steps != state.steps
    state.steps = steps
    return changed
