"""What is found out before the first step."""

import math
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from test_train import Counting, config, fresh, same
from torch import nn

from underlay.errors import MachineError, UserError
from underlay.models import Batch, Decoder
from underlay.train import CausalLM, Loss, train, watch
from underlay.train.checkpoint import Checkpoints
from underlay.train.preflight import fitting, inspect
from underlay.train.spread import Spread

CPU = torch.device("cpu")


def test_it_tells_of_the_first_row_and_leaves_nothing_behind() -> None:
    model, untouched = fresh(), fresh()
    state = torch.random.get_rng_state()
    found = inspect(Spread(model), CausalLM(), [Counting(weigh=True).batch(0, 1)])
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.loss == pytest.approx(math.log(40), rel=0.05)
    assert found.supervised == 0.5
    assert found.unreached == ()
    assert same(model, untouched)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


def test_kept_bytes_are_counted_once_and_without_weights() -> None:
    class Squares(nn.Module):
        """x^2 twice keeps x twice, but it is one tensor; a product keeps x and the weight, which is there anyhow."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1000, 8))

    def objective(model: nn.Module, batch: Batch) -> Loss:
        x = batch.tokens.float()
        x.requires_grad_()
        return Loss((x.square() + x.square()).sum() + (x @ model.weight).sum(), torch.tensor(1.0))

    tokens = torch.ones(1, 1000, dtype=torch.int64)
    found = inspect(Spread(Squares()), objective, [Batch(tokens, tokens)])
    assert found.row_bytes == 4 * 1000
    assert found.needed(10) - found.needed(0) == int(1.3 * 10 * 4000)


def test_rows_keep_as_many_bytes_each() -> None:
    rows = [inspect(Spread(fresh()), CausalLM(), [Counting().batch(0, count)]).row_bytes for count in (1, 2, 4)]
    assert rows[1] == pytest.approx(2 * rows[0], rel=0.2)
    assert rows[2] == pytest.approx(4 * rows[0], rel=0.2)


def test_a_part_that_cannot_learn_is_told(tmp_path: Path) -> None:
    class Idle(Decoder):
        """Has a head that nothing asks for."""

    model = Idle(fresh().config)
    model.load_state_dict(fresh().state_dict())
    model.idle = nn.Linear(3, 3)
    assert inspect(Spread(model), CausalLM(), [Counting().batch(0, 1)]).unreached == ("idle.weight", "idle.bias")
    said: list[str] = []
    train(model, CausalLM(), Counting(), config(steps=1), tmp_path, log=said.append)
    assert any(line == "no gradient reaches idle.weight, idle.bias" for line in said)


class Experts(nn.Module):
    """The first token of a row says which of three weights it goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Parameter(torch.ones(2)) for _ in range(3))


def asks(*experts: int) -> list[Batch]:
    return [Batch(torch.full((1, 4), expert), torch.zeros(1, 4, dtype=torch.int64)) for expert in experts]


def routed(model: nn.Module, batch: Batch) -> Loss:
    """Expert 3 is none: its row teaches nothing."""
    chosen = int(batch.tokens[0, 0])
    outputs = [one.sum() * (number == chosen) for number, one in enumerate(model.parameters())]
    return Loss(sum(outputs, torch.zeros(())), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("rows", "read", "unreached", "silent"),
    [
        ((3, 0, 2, 1, 0, 0), 4, (), False),
        ((3, 0, 0), 3, ("second", "third"), False),
        ((3, 3), 2, (), True),
    ],
)
def test_rows_are_looked_at_until_each_parameter_has_had_a_gradient(
    rows: tuple[int, ...], read: int, unreached: tuple[str, ...], silent: bool
) -> None:
    given: list[Batch] = []

    def one_by_one() -> Iterator[Batch]:
        for batch in asks(*rows):
            given.append(batch)
            yield batch

    found = inspect(Spread(Experts()), routed, one_by_one())
    assert (len(given), found.unreached, found.silent) == (read, unreached, silent)


def test_rows_that_teach_nothing_are_told_as_such(tmp_path: Path) -> None:
    class Nothing(CausalLM):
        def __call__(self, model: nn.Module, batch: Batch) -> Loss:
            loss = super().__call__(model, batch)
            return Loss(loss.sum * 0, loss.count)

    said: list[str] = []
    train(fresh(), Nothing(), Counting(), config(steps=1), tmp_path, log=said.append)
    assert "no gradient comes of the first rows, so whether all parameters can learn is not known" in said
    assert not any("no gradient reaches" in line for line in said)


def test_an_uneven_start_is_told(tmp_path: Path) -> None:
    said: list[list[str]] = [[], []]
    for lines, factor in zip(said, (1.0, 40.0), strict=True):
        model = fresh()
        with torch.no_grad():
            model.embedding.weight.mul_(factor)
        train(
            model,
            CausalLM(),
            Counting(),
            config(steps=1),
            tmp_path / str(factor),
            log=lines.append,
            chance=math.log(40),
        )
    assert not any("the start is uneven" in line for line in said[0])
    assert any("by chance it would be 3.69: the start is uneven" in line for line in said[1])


@pytest.mark.parametrize(("share", "rows"), [(1.01, 8), (0.99, 4), (0.3, 2)])
def test_rows_are_halved_until_they_fit(share: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = inspect(Spread(fresh()), CausalLM(), [Counting().batch(0, 1)])
    fixed = found.needed(0)
    free = fixed + int(share * (found.needed(8) - fixed))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": free}))
    assert fitting(found, 8, CPU) == rows


def test_what_cannot_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(UserError, match=r"training needs about .* take a smaller model, or lower micro_rows"):
        train(fresh(), CausalLM(), Counting(), config(), tmp_path)


class Cramped(CausalLM):
    """Runs out of memory with more than two rows at once, from the fourth step on."""

    calls = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().__call__(model, batch)
        Cramped.calls += 1
        if Cramped.calls > 4 and len(batch.tokens) > 4:
            raise torch.OutOfMemoryError("no more")
        return loss


def test_memory_that_runs_out_halves_the_rows_once(tmp_path: Path) -> None:
    Cramped.calls = 0
    said: list[str] = []
    outcome = train(fresh(), Cramped(), Counting(), config(steps=8), tmp_path / "a", log=said.append)
    assert any(line.startswith("out of memory: 4 rows at once") for line in said)
    plain = train(fresh(), CausalLM(), Counting(), config(steps=8), tmp_path / "b")
    pairs = list(zip(outcome.journal, plain.journal, strict=True))
    assert [one["tokens"] for one, _ in pairs] == [other["tokens"] for _, other in pairs]
    assert [one["loss"] for one, _ in pairs] == pytest.approx([other["loss"] for _, other in pairs], rel=1e-3)


def test_the_rows_at_once_are_kept_in_checkpoints(tmp_path: Path) -> None:
    settings = config(steps=3, checkpoint_seconds=1e-6)
    train(fresh(), CausalLM(), Counting(), settings, tmp_path)
    assert Checkpoints(tmp_path, {}).load().micro_rows == 8


def test_memory_that_runs_out_again_is_one_clear_line(tmp_path: Path) -> None:
    class Never(CausalLM):
        calls = 0

        def __call__(self, model: nn.Module, batch: Batch) -> Loss:
            Never.calls += 1
            if Never.calls > 3:
                raise torch.OutOfMemoryError("no more")
            return super().__call__(model, batch)

    said: list[str] = []
    with pytest.raises(MachineError, match="out of memory with 4 rows at once; take a smaller model, or lower micro_"):
        train(fresh(), Never(), Counting(), config(), tmp_path, log=said.append)
    assert sum(line.startswith("out of memory: 4 rows at once") for line in said) == 1


def test_the_time_is_told_from_the_arithmetic_and_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "products", lambda dtype: 2e9)
    tokens = 2 * 8 * 16  # of which a step has half as many
    for seconds, told in ((0.02, "1 s"), (40, "40 s"), (360, "6 min"), (5340, "89 min"), (12600, "3.5 h")):
        said: list[str] = []
        folder = tmp_path / told.replace(" ", "")
        settings = config(steps=2, context=16)
        train(fresh(), CausalLM(), Counting(), settings, folder, log=said.append, work=seconds * 1e9 / tokens)
        assert f"about {told} at half of this machine's matrix products" in said
        train(fresh(), CausalLM(), Counting(), settings, folder / "b", log=(quiet := []).append)
        assert not any("matrix products" in line for line in quiet)
