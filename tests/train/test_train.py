"""Training: the loop learns, schedules have their shapes, and stopping changes nothing."""

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from underlay.errors import UserError
from underlay.models import Batch, Decoder, LlamaConfig
from underlay.plan.machine import find_compiler
from underlay.train import CausalLM, Loss, TrainConfig, train, watch
from underlay.train.checkpoint import Checkpoints, Progression, Weights, newest
from underlay.train.config import OptimizerConfig
from underlay.train.muon import orthogonalize
from underlay.train.optimizer import Optimizer
from underlay.train.schedule import ScheduleConfig
from underlay.train.spread import Spread

SHAPE = LlamaConfig(vocabulary=40, context=16, width=32, depth=2, heads=2, kv_heads=1, hidden=48)
KEEP = torch.tensor(True)


class Counting:
    """Rows that count upwards from a random start: easy to learn, and any of them is found by its number."""

    def __init__(self, weigh: bool = False, seed: int = 0) -> None:
        self.weigh, self.seed = weigh, seed

    def batch(self, first: int, count: int) -> Batch:
        starts = torch.tensor([(sample * 7919) % 40 for sample in range(first, first + count)])
        tokens = (starts[:, None] + torch.arange(17)) % 40
        weights = torch.ones(count, 16) if self.weigh else None
        if weights is not None:
            weights[:, ::2] = 0
        return Batch(tokens[:, :-1], tokens[:, 1:], weights)


def fresh(seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return SHAPE.build()


def config(**changes: object) -> TrainConfig:
    settings = {"steps": 12, "batch_rows": 8, "micro_rows": 8, "compile": False, "precision": "float32"}
    return TrainConfig(**(settings | changes))


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("muon", [True, False])
def test_it_learns(tmp_path: Path, muon: bool) -> None:
    model = fresh()
    settings = config(steps=60, optimizer=OptimizerConfig(muon=muon, adam_lr=0.01))
    log = train(model, CausalLM(), Counting(), settings, tmp_path).journal.tail(100)
    assert log[0]["loss"] == pytest.approx(math.log(40), rel=0.05)
    assert log[-1]["loss"] < 0.3


def test_a_run_is_a_function_of_its_seed(tmp_path: Path) -> None:
    models = [fresh(0), fresh(0), fresh(1)]
    for index, model in enumerate(models):
        train(model, CausalLM(), Counting(), config(), tmp_path / str(index))
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


class Stopping(Counting):
    """Sends this process a signal while it is asked for a certain sample."""

    def __init__(self, at: int, number: int) -> None:
        super().__init__()
        self.at, self.number = at, number

    def batch(self, first: int, count: int) -> Batch:
        if first == self.at:
            os.kill(os.getpid(), self.number)
        return super().batch(first, count)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_equals_never_stopped(tmp_path: Path, number: int) -> None:
    undisturbed, stopped = fresh(), fresh()
    whole = train(undisturbed, CausalLM(), Counting(), config(), tmp_path / "a")
    for at in (16, 56):
        with pytest.raises(KeyboardInterrupt):
            train(stopped, CausalLM(), Stopping(at, number), config(), tmp_path / "b")
    resumed = fresh(seed=5)  # what it holds is overwritten by the checkpoint
    parts = train(resumed, CausalLM(), Counting(), config(), tmp_path / "b")
    assert same(undisturbed, resumed)
    assert list(whole.journal) == list(parts.journal)
    assert [row["step"] for row in parts.journal] == list(range(1, 13))


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    class Uneven(Counting):
        """Rows that weigh differently: a mean of the micro-batches' means would be wrong."""

        def batch(self, first: int, count: int) -> Batch:
            batch = super().batch(first, count)
            lengths = torch.arange(first, first + count) % 5 + 1
            return Batch(batch.tokens, batch.targets, (torch.arange(16) < lengths[:, None]).float())

    logs = []
    for micro in (8, 4, 1):
        outcome = train(fresh(), CausalLM(), Uneven(), config(steps=3, micro_rows=micro), tmp_path / str(micro))
        logs.append([(row["loss"], row["norm"]) for row in outcome.journal])
    for log in logs[1:]:
        assert log[0] == pytest.approx(logs[0][0], rel=1e-5)
        assert log[2] == pytest.approx(logs[0][2], rel=1e-2)


def test_short_rows_come_first_and_keep_all_tokens() -> None:
    settings = config(context=16, short_rows=[[0.5, 4], [0.75, 2]])
    assert [settings.pieces(step, 8) for step in range(8)] == [4, 4, 4, 4, 2, 2, 1, 1]
    assert settings.pieces(500, None) == 4
    batch = Counting(weigh=True).batch(0, 3)
    cut = batch.cut(4)
    assert cut.tokens.shape == cut.targets.shape == (12, 4)
    assert torch.equal(cut.tokens.flatten(), batch.tokens.flatten())
    assert torch.equal(cut.targets.flatten(), batch.targets.flatten())
    with pytest.raises(ValueError, match="rows of 16 tokens cannot be cut into 3"):
        config(context=16, short_rows=[[0.5, 3]])


def test_short_rows_see_only_themselves(tmp_path: Path) -> None:
    class Far(Counting):
        """The first half of each row is noise that the second half must not see."""

        def batch(self, first: int, count: int) -> Batch:
            batch = super().batch(first, count)
            noise = torch.randint(0, 40, (count, 8), generator=torch.Generator().manual_seed(self.seed + first))
            tokens = torch.cat([noise, batch.tokens[:, 8:]], dim=1)
            weights = torch.cat([torch.zeros(count, 8), torch.ones(count, 8)], dim=1)
            return Batch(tokens, batch.targets, weights)

    logs = []
    for seed in (1, 2):
        settings = config(steps=4, context=16, short_rows=[[1.0, 2]])
        outcome = train(fresh(), CausalLM(), Far(seed=seed), settings, tmp_path / str(seed))
        logs.append([row["loss"] for row in outcome.journal])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


def test_unweighted_targets_are_not_learned(tmp_path: Path) -> None:
    class Garbage(Counting):
        def batch(self, first: int, count: int) -> Batch:
            batch = super().batch(first, count)
            assert batch.weights is not None
            return Batch(batch.tokens, torch.where(batch.weights > 0, batch.targets, 0), batch.weights)

    models = [fresh(), fresh()]
    train(models[0], CausalLM(), Counting(weigh=True), config(), tmp_path / "a")
    train(models[1], CausalLM(), Garbage(weigh=True), config(), tmp_path / "b")
    assert same(*models)


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    class Silent(Counting):
        def batch(self, first: int, count: int) -> Batch:
            batch = super().batch(first, count)
            return Batch(batch.tokens, batch.targets, torch.zeros(batch.tokens.shape))

    with pytest.raises(UserError, match="nothing to learn from"):
        train(fresh(), CausalLM(), Silent(), config(), tmp_path)


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path: Path) -> None:
    class Bursting(CausalLM):
        def __call__(self, model: nn.Module, batch: Batch) -> Loss:
            loss = super().__call__(model, batch)
            return Loss(loss.sum * float("nan"), loss.count) if batch.tokens[0, 0] == (7919 * 24) % 40 else loss

    model = fresh()
    outcome = train(model, Bursting(), Counting(), config(), tmp_path)
    assert outcome.progression.skipped >= 1
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_run_that_only_diverges_stops(tmp_path: Path) -> None:
    class Broken(CausalLM):
        def __call__(self, model: nn.Module, batch: Batch) -> Loss:
            loss = super().__call__(model, batch)
            return Loss(loss.sum * float("inf"), loss.count)

    with pytest.raises(UserError, match="diverged"):
        train(fresh(), Broken(), Counting(), config(steps=100), tmp_path)


def test_divergence_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Turning(CausalLM):
        """Goes wrong for good after so many calls."""

        left = [31]  # noqa: RUF012

        def __call__(self, model: nn.Module, batch: Batch) -> Loss:
            self.left[0] -= 1
            loss = super().__call__(model, batch)
            return Loss(loss.sum * (1 if self.left[0] >= 0 else float("nan")), loss.count)

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), Turning(), Stopping(8 * 19, signal.SIGINT), config(steps=200), tmp_path)
    (checkpoint,) = tmp_path.glob("step-*")
    assert newest(tmp_path) == tmp_path / "step-00000020"
    damaged = tmp_path / "step-00000090"
    damaged.mkdir()
    (damaged / "state.safetensors").write_bytes((checkpoint / "state.safetensors").read_bytes()[:-1])
    (damaged / "state.json").write_text((checkpoint / "state.json").read_text().replace('"step": 20', '"step": 90'))
    assert newest(tmp_path) == tmp_path / "step-00000020"
    with pytest.raises(UserError, match="it would go on from step 20, its last good checkpoint, and come here again"):
        train(fresh(), Turning(), Counting(), config(steps=200), tmp_path)
    Turning.left[0] = 1
    with pytest.raises(UserError, match=r"begins anew \(there is no checkpoint yet\)"):
        train(fresh(), Turning(), Counting(), config(steps=200), tmp_path / "other")


def test_the_share_of_the_machine_is_work_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "products", lambda dtype: 2e9)
    shown: list[dict[str, object]] = []
    settings = config(steps=20)

    def progress(done: float, total: float | None, **facts: object) -> None:
        shown.append(facts)

    outcome = train(fresh(), CausalLM(), Counting(), settings, tmp_path / "a", progress, work=1000.0)
    assert outcome.of_peak == pytest.approx(outcome.tokens_per_second * 1000 / 2e9)
    assert str(shown[-1]["rate"]).endswith("of peak")
    assert "loss" not in shown[0]  # it is written down one step later
    assert shown[1]["loss"] == pytest.approx(math.log(40), rel=0.05)
    assert train(fresh(), CausalLM(), Counting(), settings, tmp_path / "b").of_peak is None


def test_measuring_the_machine_moves_no_chance() -> None:
    before = torch.random.get_rng_state()
    assert watch.products(torch.float32) > 1e8
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_run_limited_in_time_sets_its_length_and_ends(tmp_path: Path) -> None:
    settings = config(steps=None, minutes=0.03)
    outcome = train(fresh(), CausalLM(), Counting(), settings, tmp_path)
    state = outcome.progression
    assert state.step == state.steps
    assert state.step > 24
    rates = [row["rate"] for row in outcome.journal]
    assert rates[-1] == pytest.approx(1 / (state.steps - settings.schedule.decay_start(state.steps)))
    assert max(rates) == 1.0


def test_a_run_limited_in_time_keeps_its_time_when_interrupted_early(tmp_path: Path) -> None:
    settings = config(steps=None, minutes=0.03)
    undisturbed = train(fresh(), CausalLM(), Counting(), settings, tmp_path / "a").progression
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), CausalLM(), Stopping(8 * 19, signal.SIGINT), settings, tmp_path / "b")
    state = train(fresh(), CausalLM(), Counting(), settings, tmp_path / "b").progression
    assert state.step == state.steps
    assert state.step > undisturbed.step / 2  # as fast as the machine is just now


def test_a_short_run_that_mostly_diverged_is_no_model(tmp_path: Path) -> None:
    class Broken(CausalLM):
        def __call__(self, model: nn.Module, batch: Batch) -> Loss:
            loss = super().__call__(model, batch)
            return Loss(loss.sum * float("nan"), loss.count)

    with pytest.raises(UserError, match="diverged"):
        train(fresh(), Broken(), Counting(), config(steps=4), tmp_path)


def test_what_is_compiled_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    from underlay.train import config as module

    monkeypatch.setattr(module, "find_compiler", lambda: "g++")
    monkeypatch.setattr(module, "bf16_unit", lambda: "AMX")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    unset = {"compile": None, "precision": "auto"}
    assert config(**unset).compiles()
    assert not config(compile=None).compiles()  # float32 on a CPU
    assert config(compile=True).compiles()
    monkeypatch.setattr(module, "find_compiler", lambda: None)
    assert not config(**unset).compiles()
    assert config(**unset).mode() == "eager (no C++ compiler found), bf16 (AMX)"
    monkeypatch.setattr(module, "bf16_unit", lambda: "none")
    assert config(compile=False).mode() == "eager, float32"


def test_compiled_equals_eager_but_for_rounding(tmp_path: Path) -> None:
    pytest.importorskip("torch._inductor")
    if find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    losses = []
    for compiled in (False, True):
        outcome = train(
            fresh(), CausalLM(compile=compiled), Counting(), config(compile=compiled), tmp_path / str(compiled)
        )
        losses.append([row["loss"] for row in outcome.journal])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_checkpoints_hold_everything_and_skip_damaged_ones(tmp_path: Path) -> None:
    model = fresh()
    optimizer = Optimizer(Spread(model), OptimizerConfig())
    CausalLM()(model, Counting().batch(0, 4)).sum.backward()
    optimizer.step(1.0, KEEP)
    Checkpoints(tmp_path, {"model": Weights(model), "optimizer": optimizer}).save(Progression(step=3))
    (tmp_path / "step-00000009").mkdir()
    (tmp_path / "step-00000009" / "state.safetensors").write_bytes(b"half")
    other = fresh(seed=9)
    other_optimizer = Optimizer(Spread(other), OptimizerConfig())
    found = Checkpoints(tmp_path, {"model": Weights(other), "optimizer": other_optimizer}).load()
    assert found == Progression(step=3)
    assert same(model, other)
    Checkpoints(tmp_path, {"model": Weights(other)}).save(
        Progression(step=4)
    )  # what was passed over must not outlive it
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]
    states = (optimizer.state(), other_optimizer.state())
    assert states[0].keys() == states[1].keys()
    assert len(states[0]) > 5
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@given(st.integers(1, 400), st.integers(0, 50), st.floats(0, 1))
def test_schedules_stay_in_bounds_and_fall_at_the_end(steps: int, warmup: int, decay: float) -> None:
    schedule = ScheduleConfig(warmup_steps=warmup, decay=decay)
    rates = [schedule.rate(step, steps) for step in range(steps)]
    assert all(0 <= rate <= 1 for rate in rates)
    falling = rates[max(schedule.decay_start(steps), warmup) :]
    assert falling == sorted(falling, reverse=True)
    assert [schedule.rate(step, None) for step in range(schedule.decay_start(steps))] == rates[
        : schedule.decay_start(steps)
    ]


@given(st.sampled_from([(3, 8, 8), (2, 12, 4), (2, 4, 12)]), st.integers(0, 1000))
def test_orthogonalize_lifts_singular_values_to_one(shape: tuple[int, ...], seed: int) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    result = orthogonalize(matrices, steps=8, dtype=torch.float32)
    values = torch.linalg.svdvals(result)
    reached = torch.linalg.svdvals(matrices) > 0.02 * matrices.norm(dim=(-2, -1))[:, None]
    assert ((values[reached] > 0.6) & (values[reached] < 1.3)).all()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps": None}, "set one of steps, minutes and passes"),
        ({"minutes": 1.0}, "set one of steps, minutes and passes"),
        ({"micro_rows": 3}, "no multiple of micro_rows"),
    ],
)
def test_impossible_settings(changes: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        config(**changes)


@pytest.mark.parametrize("weigh", [False, True])
def test_packed_documents_are_learned_as_if_alone(weigh: bool) -> None:
    """Contract 3: loss and gradients of isolated documents in one row are those of the documents by themselves."""
    tokens = torch.randint(0, 40, (1, 16), generator=torch.Generator().manual_seed(3))
    targets = torch.roll(tokens, -1, 1)
    weights = torch.rand(1, 16, generator=torch.Generator().manual_seed(4)) if weigh else None
    segments = torch.tensor([[5] * 4 + [6] + [5] * 7 + [9] * 4])
    packed, alone = fresh(), fresh()
    whole = CausalLM()(packed, Batch(tokens, targets, weights, segments=segments))
    whole.sum.backward()
    parts = []
    for start, end in ((0, 4), (4, 5), (5, 12), (12, 16)):
        part = None if weights is None else weights[:, start:end]
        loss = CausalLM()(alone, Batch(tokens[:, start:end], targets[:, start:end], part))
        loss.sum.backward()
        parts.append(loss)
    torch.testing.assert_close(whole.sum, sum(loss.sum for loss in parts))
    torch.testing.assert_close(whole.count, sum(loss.count for loss in parts))
    for one, other in zip(packed.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    mixed = CausalLM()(fresh(), Batch(tokens, targets, weights))
    assert not torch.allclose(mixed.sum, whole.sum, rtol=1e-4)
