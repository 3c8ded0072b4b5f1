"""Examining a run: it is told what was found, and it does not feel it."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import Counting, Stopping, config, fresh, same, weights

from underlay.errors import UserError
from underlay.models import Batch, Decoder
from underlay.plan.machine import find_compiler
from underlay.train import CausalLM, Examination, Onlookers, train, watch
from underlay.train.examine import undisturbed


def measure(model: Decoder) -> Callable[[], Examination]:
    """Looks at rows far away, of another shape, and uses up chance."""

    def examine() -> Examination:
        assert not model.training
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in model.modules())
        torch.rand(random.randrange(1, 9))
        loss = CausalLM()(model, Counting().batch(10_000, 3).cut(2))
        return Examination({"heldout_loss": float(loss.sum / loss.count)}, [{"prompt": "a", "text": "\x1b[31m\nb"}])

    return examine


def watched(model: Decoder) -> Onlookers:
    return Onlookers(measure(model))


@pytest.mark.parametrize(("average", "compiled"), [(None, False), (0.9, False), (0.9, True)])
def test_a_run_does_not_feel_it(tmp_path: Path, average: float | None, compiled: bool) -> None:
    if compiled and find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    ends = []
    for examined in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = fresh()
        model.blocks[0].eval()  # who froze a part finds it frozen
        changes = {"average": average, "compile": compiled, "examine_steps": 3 if examined else None}
        onlookers = watched(model) if examined else watch.NOBODY
        outcome = train(
            model, CausalLM(compile=compiled), Counting(), config(**changes), tmp_path / str(examined),
            onlookers=onlookers,
        )  # fmt: skip
        assert [row["step"] for row in outcome.evaluations] == ([3, 6, 9, 12] if examined else [])
        assert all(parameter.grad is None for parameter in model.parameters())
        assert model.training
        assert not model.blocks[0].training
        compilations = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        ends.append((weights(model), list(outcome.journal), torch.random.get_rng_state().tolist(), compilations))
    (one, other) = ends
    assert all((one[0][name] == other[0][name]).all() for name in one[0])
    assert one[1:] == other[1:]


def test_a_model_that_knows_something_is_examined_before_its_first_step(tmp_path: Path) -> None:
    model = fresh()
    before = measure(model)
    model.eval()
    with torch.no_grad():
        wanted = before().figures["heldout_loss"]
    model.train()
    found = []
    for steps, name in ((5, "a"), (100, "b"), (100, "b")):  # where it is done again, nothing is added
        learner = fresh()
        onlookers = Onlookers(measure(learner), beforehand=True)
        outcome = train(
            learner, CausalLM(), Counting(), config(examine_steps=steps), tmp_path / name, onlookers=onlookers
        )
        found.append(list(outcome.evaluations))
    assert [row["step"] for row in found[0]] == [0, 5, 10, 12]
    assert [row["step"] for row in found[1]] == [row["step"] for row in found[2]] == [0, 12]
    assert {rows[0]["heldout_loss"] for rows in found} == {wanted}
    assert found[0][0]["tokens"] == 0


def test_the_last_step_is_examined_and_told(tmp_path: Path) -> None:
    said: list[str] = []
    shown: list[dict[str, object]] = []
    model = fresh()

    def progress(done: float, total: float | None, **facts: object) -> None:
        shown.append(facts)

    outcome = train(
        model, CausalLM(), Counting(), config(examine_steps=5), tmp_path, progress, said.append,
        onlookers=watched(model),
    )  # fmt: skip
    rows = list(outcome.evaluations)
    assert [(row["step"], row["tokens"]) for row in rows] == [(5, 640), (10, 1280), (12, 1536)]
    assert [row["step"] for row in outcome.samples] == [5, 10, 12]
    assert f"step 12: heldout loss {rows[-1]['heldout_loss']:.3f}" in said
    assert said.count(r"'a'  '\x1b[31m\nb'") == 3  # on one line, and the terminal stays as it is
    assert [facts.get("heldout loss") for facts in shown] == [None] * 5 + [round(rows[0]["heldout_loss"], 3)] * 5 + [
        round(rows[1]["heldout_loss"], 3)
    ] * 2


def test_the_average_is_what_is_examined(tmp_path: Path) -> None:
    model = fresh()
    outcome = train(
        model, CausalLM(), Counting(), config(examine_steps=4, average=0.9), tmp_path, onlookers=watched(model)
    )
    with undisturbed(model, compiled=False):  # what is left is the average
        assert outcome.evaluations.tail(1)[0]["heldout_loss"] == measure(model)().figures["heldout_loss"]
    last = fresh()
    plain = train(last, CausalLM(), Counting(), config(examine_steps=4), tmp_path / "b", onlookers=watched(last))
    assert plain.evaluations.tail(1) != outcome.evaluations.tail(1)


class Falling(Counting):
    """Raises where the power fails."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def batch(self, first: int, count: int) -> Batch:
        if first == 8 * self.at:
            raise OSError("power")
        return super().batch(first, count)


FILES = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")
WHOLE: list[bytes] = []
"""The files of a run that was never stopped."""


def look_at(folder: Path, source: Counting, often: bool = False, fails_at: int | None = None) -> None:
    """A run in `folder`, whose `fails_at`-th examination is its end."""
    model = fresh()
    look, times = measure(model), [0]

    def examine() -> Examination:
        times[0] += 1
        if times[0] == fails_at:
            raise OSError("power")
        return look()

    seconds = 1e-9 if often else 1e9
    changes = config(examine_steps=2, checkpoint_seconds=seconds)
    train(model, CausalLM(), source, changes, folder, onlookers=Onlookers(examine))


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["asked", "killed", "looking"])), max_size=3), st.booleans()
)
def test_none_is_lost_and_none_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, stops: list[tuple[int, str]], often: bool
) -> None:
    """Stopped by a signal, killed in a step or in an examination: the files end as those of a run never stopped."""
    if not WHOLE:
        folder = tmp_path_factory.mktemp("whole")
        look_at(folder, Counting())
        WHOLE.extend((folder / name).read_bytes() for name in FILES)
        assert [len(file.splitlines()) for file in WHOLE] == [12, 6, 6]
    folder = tmp_path_factory.mktemp("run")
    for step, how in stops:
        sources = {"asked": Stopping(8 * step, 2), "killed": Falling(step), "looking": Counting()}
        with contextlib.suppress(KeyboardInterrupt, OSError):
            look_at(folder, sources[how], often, step // 2 + 1 if how == "looking" else None)
    look_at(folder, Counting(), often)
    assert [(folder / name).read_bytes() for name in FILES] == WHOLE


def test_who_asks_for_it_must_hand_it_in(tmp_path: Path) -> None:
    model = fresh()
    with pytest.raises(UserError, match="examine_steps"):
        train(model, CausalLM(), Counting(), config(examine_steps=3), tmp_path)
    with pytest.raises(UserError, match="examine_steps"):
        train(model, CausalLM(), Counting(), config(), tmp_path, onlookers=watched(model))


def test_its_time_is_no_time_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    clock = watch.Clock(0.0, 0)
    for step in range(1, 101):
        now[0] += 0.5
        clock.lap(step * 1000)
        if step % 20 == 0:
            with clock.aside():
                now[0] += 4.0
    assert clock.seconds() == pytest.approx(100 * 0.5 + 5 * 4)
    assert clock.tokens_per_second() == pytest.approx(2000)
    assert clock.seconds_per_step() == pytest.approx(0.5)
    # Twenty steps and an examination take 14 seconds, and one more examination comes at the end.
    assert clock.steps_in(144.0, 20) == 200
    assert clock.steps_in(100.0, None) == 192
    assert clock.steps_in(-5.0, 20) == 1


def test_the_mode_comes_back_after_an_error() -> None:
    model = fresh()
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(OSError, match="power"), undisturbed(model, compiled=False):
        raise OSError("power")
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert same(model, fresh())
