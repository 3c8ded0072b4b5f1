"""Runs of another length: what was kept before the rate fell leads where a run made at once would have come."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_train import Counting, config, fresh, same

from underlay.train import CausalLM, Outcome, TrainConfig, stable, train
from underlay.train.schedule import ScheduleConfig


class Model:
    """A run in its folder, and what a model of it would hold."""

    def __init__(self, folder: Path, run: TrainConfig, start: "Model | None" = None) -> None:
        self.folder, self.module = folder / "model", fresh(0 if start is None else 9)
        self.folder.mkdir(parents=True)
        if start is not None:
            assert start.kept is not None
            (folder / "scratch").mkdir()
            stable.take_up(start.folder, start.kept, folder / "scratch")
        self.outcome: Outcome = train(self.module, CausalLM(), Counting(), run, folder / "scratch")
        self.kept = stable.publish(folder / "scratch", self.folder)
        (self.folder / "metrics.jsonl").write_bytes(self.outcome.journal.path.read_bytes())

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


def run(steps: int, decay: float = 0.5, **changes: object) -> TrainConfig:
    return config(steps=steps, schedule=ScheduleConfig(warmup_steps=3, decay=decay), batch_rows=4, **changes)


@settings(max_examples=12)
@given(st.integers(2, 12), st.integers(2, 16), st.sampled_from([0.0, 0.3, 0.5]), st.sampled_from([0.0, 0.2, 0.5]))
@example(8, 16, 0.5, 0.5)  # longer
@example(8, 8, 0.5, 0.5)  # as long
@example(12, 8, 0.5, 0.25)  # cut short: both fall from step 6 on
@example(6, 6, 0.0, 0.0)  # without a fall, the end itself is kept
def test_a_run_of_another_length_equals_one_made_at_once(
    tmp_path_factory: pytest.TempPathFactory, first: int, then: int, fall: float, other: float
) -> None:
    one, two = run(first, fall, micro_rows=4), run(then, other, micro_rows=4)
    least = two.schedule.shortest(one.schedule.stable(first))
    assert least is not None
    then = max(then, least)
    two = run(then, other, micro_rows=4)
    folder = tmp_path_factory.mktemp("runs")
    parent, whole = Model(folder / "a", one), Model(folder / "b", two)
    assert parent.kept is not None
    assert parent.kept.step == one.schedule.stable(first)
    longer = Model(folder / "c", two, parent)
    assert longer.outcome.progression.taken_over == parent.kept.step
    assert same(longer.module, whole.module)
    assert longer.files() == whole.files()
    assert list(longer.outcome.journal) == list(whole.outcome.journal)


def test_everything_that_a_step_depends_on_is_kept(tmp_path: Path) -> None:
    changes = {"average": 0.9, "micro_rows": 4, "context": 16, "short_rows": [[0.25, 4]]}
    parent = Model(tmp_path / "a", run(12, **changes))
    changes["short_rows"] = [[3 / 20, 4]]  # the same three steps
    whole = Model(tmp_path / "b", run(20, **changes))
    longer = Model(tmp_path / "c", run(20, **changes | {"micro_rows": 2}), parent)
    assert longer.outcome.progression.micro_rows == 2  # its own
    exact = Model(tmp_path / "d", run(20, **changes), parent)
    assert same(exact.module, whole.module)
    assert exact.files() == whole.files()
    assert not same(longer.module, parent.module)
    state = json.loads((parent.folder / "resume" / "state.json").read_text())
    assert state == {"step": 6, "samples": 24, "tokens": 6 * 4 * 16, "skipped": 0, "cuts": [[0, 4], [3, 1]]}


def test_an_extension_that_was_stopped_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    from signal import SIGINT

    from test_train import Stopping

    parent, whole = Model(tmp_path / "a", run(8, micro_rows=4)), Model(tmp_path / "b", run(16, micro_rows=4))
    scratch, module = tmp_path / "c", fresh(5)
    scratch.mkdir()
    for at in (4 * 5, 4 * 10):
        assert parent.kept is not None
        stable.take_up(parent.folder, parent.kept, scratch)
        with pytest.raises(KeyboardInterrupt):
            train(module, CausalLM(), Stopping(at, SIGINT), run(16, micro_rows=4), scratch)
        module = fresh(6)
    stable.take_up(parent.folder, parent.kept, scratch)
    outcome = train(module, CausalLM(), Counting(), run(16, micro_rows=4), scratch)
    assert same(module, whole.module)
    assert outcome.earlier_seconds > parent.kept.seconds


def test_time_goes_on_where_the_other_run_was(tmp_path: Path) -> None:
    parent = Model(tmp_path / "a", run(40, 0.25, micro_rows=4))
    assert parent.kept is not None
    assert 0 < parent.kept.seconds < parent.outcome.progression.seconds
    minutes = (parent.kept.seconds + 0.7) / 60
    schedule = ScheduleConfig(warmup_steps=3, decay=0.9)
    limited = config(steps=None, minutes=minutes, schedule=schedule, batch_rows=4, micro_rows=4)
    state = Model(tmp_path / "b", limited, parent).outcome.progression
    assert state.seconds > minutes * 60 - 0.3
    assert state.steps is not None
    assert schedule.stable(state.steps) >= 30  # however short the time, what was stable stays stable


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [({"kind": "cosine"}, True), ({"kind": "linear"}, True), ({"decay": 1.0}, True), ({"decay": 0.5}, False)],
)
def test_where_nothing_is_kept(tmp_path: Path, schedule: dict, wanted: bool) -> None:
    settings = config(steps=4, schedule=ScheduleConfig(warmup_steps=1, **schedule), keep_stable=wanted)
    assert Model(tmp_path, settings).kept is None
    assert not (tmp_path / "model" / "resume").exists()
    assert not (tmp_path / "scratch" / "stable").exists()


@given(st.integers(0, 5000), st.floats(0, 0.999))
def test_the_shortest_run_is_the_shortest(stable_steps: int, decay: float) -> None:
    schedule = ScheduleConfig(decay=decay)
    least = schedule.shortest(stable_steps)
    assert least is not None
    assert schedule.stable(least) >= stable_steps
    assert least == 0 or schedule.stable(least - 1) < stable_steps
    assert ScheduleConfig(decay=1.0).shortest(stable_steps) is None
