"""Which steps are left out, and that leaving one out changes nothing."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_train import Counting, config, fresh, same

from underlay.models import Batch
from underlay.train import CausalLM, train
from underlay.train.guard import WINDOW, Guard
from underlay.train.optimizer import Optimizer, OptimizerConfig
from underlay.train.spread import Spread

CPU = torch.device("cpu")


def judged(guard: Guard, losses: list[float], norms: list[float] | None = None) -> list[bool]:
    found = zip(losses, norms or [1.0] * len(losses), strict=True)
    return [bool(guard.judge(torch.tensor(loss), torch.tensor(norm))) for loss, norm in found]


def noise(count: int, seed: int = 0) -> list[float]:
    return (3 + 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(seed))).tolist()


def test_spikes_are_left_out_once_enough_is_known() -> None:
    assert judged(Guard(6, CPU), [*noise(WINDOW // 2 - 1), 4.0])[-1]
    assert not judged(Guard(6, CPU), [*noise(WINDOW // 2), 4.0])[-1]
    assert judged(Guard(6, CPU), [*noise(WINDOW // 2), 3.3])[-1]
    assert judged(Guard(6, CPU), [*noise(WINDOW // 2), 1.0])[-1]  # better than ever is no harm
    assert not judged(Guard(6, CPU), [3.0] * 65, [*noise(64), 9.0])[-1]
    assert judged(Guard(None, CPU), [*noise(WINDOW), 1e9])[-1]


@given(st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.booleans(), st.integers(0, 300))
def test_what_is_not_finite_is_left_out_and_forgotten(broken: float, in_loss: bool, before: int) -> None:
    one, other = Guard(6, CPU), Guard(6, CPU)
    judged(one, noise(before))
    judged(other, noise(before))
    pair = (broken, 1.0) if in_loss else (3.0, broken)
    assert judged(one, [pair[0]], [pair[1]]) == [False]
    assert torch.equal(one.count, other.count)
    torch.testing.assert_close(one.seen, other.seen, rtol=0, atol=0, equal_nan=True)


def test_a_loss_that_stays_higher_is_soon_taken_again() -> None:
    found = judged(Guard(6, CPU), noise(WINDOW) + [value + 2 for value in noise(WINDOW, 1)])
    assert not found[WINDOW]
    assert all(found[WINDOW + 10 :])
    assert sum(found) > 2 * WINDOW - 10


def test_the_window_forgets() -> None:
    guard = Guard(6, CPU)
    judged(guard, [100.0] * WINDOW + noise(WINDOW))
    assert float(guard.seen[0].max()) < 4
    assert judged(guard, [50.0]) == [False]


def test_an_even_loss_leaves_room() -> None:
    assert judged(Guard(6, CPU), [2.0] * 100 + [2.05, 2.2])[-2:] == [True, False]


def test_a_step_left_out_changes_nothing() -> None:
    model, untouched = fresh(), fresh()
    optimizer = Optimizer(Spread(model), OptimizerConfig(weight_decay=0.1))
    for poison in (1.0, float("nan"), 1.0, float("inf")):
        model.zero_grad()
        CausalLM()(model, Counting().batch(0, 4)).sum.backward()
        for parameter in model.parameters():
            parameter.grad *= poison
        before = {name: tensor.clone() for name, tensor in optimizer.state().items()}
        keep = torch.tensor(poison == 1.0)
        optimizer.step(1.0, keep)
        if not keep:
            assert all(torch.equal(before[name], tensor) for name, tensor in optimizer.state().items())
            assert same(model, untouched)
        untouched.load_state_dict(model.state_dict())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_spike_is_left_out_and_told(tmp_path: Path) -> None:
    class Spiking(Counting):
        def batch(self, first: int, count: int) -> Batch:
            batch = super().batch(first, count)
            wrong = (batch.targets * 7 + 3) % 40
            return Batch(batch.tokens, wrong if first == 8 * 239 else batch.targets)

    said: list[str] = []
    outcome = train(fresh(), CausalLM(), Spiking(), config(steps=250), tmp_path, log=said.append)
    kept = [row["kept"] for row in outcome.journal]
    assert kept[239] == 0
    assert sum(kept) == outcome.progression.step - outcome.progression.skipped
    assert any(line.startswith("step 240 left out: loss") for line in said)
    free = train(fresh(), CausalLM(), Spiking(), config(steps=250, outliers=None), tmp_path / "free")
    assert free.progression.skipped == 0


def test_judgements_survive_a_restart() -> None:
    one, other = Guard(6, CPU), Guard(6, CPU)
    judged(one, noise(100))
    for name, tensor in other.state().items():
        tensor.copy_(one.state()[name])
    assert judged(one, noise(60, 3)) == judged(other, noise(60, 3))
    assert torch.equal(one.count, other.count)


@pytest.mark.parametrize("sigma", [0, -1])
def test_impossible_bounds(sigma: float) -> None:
    with pytest.raises(ValueError, match="outliers"):
        config(outliers=sigma)
