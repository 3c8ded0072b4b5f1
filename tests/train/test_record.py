"""What recorders get: every row once, whatever happens to the run, and never at its cost."""

import importlib.util
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_examine import watched
from test_train import Counting, Stopping, config, fresh, same

from underlay.errors import UserError
from underlay.train import CausalLM, Onlookers, record, train
from underlay.train.loop import Outcome
from underlay.train.record import Recorder, flat, installed, recorders, run_title

NESTED = {"train": {"steps": 12, "schedule": {"kind": "wsd"}}, "seed": 3}


def recorded(folder: Path, recorder: Recorder, source: Counting | None = None, **changes: Any) -> Outcome:
    """A run that a recorder looks at."""
    model = fresh()
    onlookers = Onlookers(watched(model).examine, {"it": recorder})
    settings = config(**({"examine_steps": 4} | changes))
    return train(model, CausalLM(), source or Counting(), settings, folder, onlookers=onlookers)


def points(rows: list[dict[str, float]], key: str) -> list[tuple[int, float]]:
    return [(int(row["step"]), pytest.approx(row[key], rel=1e-6)) for row in rows]


def killed_and_resumed(folder: Path, make: Any) -> Outcome:
    """Two attempts: the first checkpoints at step 3, and is killed in step 8."""
    from test_examine import Falling

    with pytest.raises(KeyboardInterrupt):
        recorded(folder, make(), Stopping(16, 2))
    with pytest.raises(OSError, match="power"):
        recorded(folder, make(), Falling(7), checkpoint_seconds=1e9)
    return recorded(folder, make())


def test_tensorboard_reads_every_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def make() -> Recorder:
        return recorders(("tensorboard",), tmp_path / "runs", "run", NESTED)["tensorboard"]

    outcome = killed_and_resumed(tmp_path / "scratch", make)
    found = EventAccumulator(str(tmp_path / "runs" / "run"), size_guidance={"scalars": 0}).Reload()
    steps, evaluations = list(outcome.journal), list(outcome.evaluations)
    for key in ("loss", "rate", "norm", "kept", "tokens"):
        assert [(event.step, event.value) for event in found.Scalars(key)] == points(steps, key)
    assert [(event.step, event.value) for event in found.Scalars("heldout_loss")] == points(evaluations, "heldout_loss")
    assert [event.step for event in found.Scalars("heldout_loss")] == [4, 8, 12]


class Mlflow(types.ModuleType):
    """What is called of MLflow, kept in memory; a metric that is logged twice stands there twice, as in MLflow."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: dict[str, Any] = {}
        self.addresses: list[str] = []
        self.entities = types.ModuleType("mlflow.entities")
        self.entities.Metric = lambda key, value, timestamp, step: types.SimpleNamespace(  # type: ignore[attr-defined]
            key=key, value=value, step=step
        )
        self.MlflowClient = lambda tracking_uri: self._connect(tracking_uri)

    def _connect(self, address: str) -> "Mlflow":
        self.addresses.append(address)
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        assert name == "underlay"
        return types.SimpleNamespace(experiment_id="1") if self.runs else None

    def create_experiment(self, name: str) -> str:
        return "1"

    def search_runs(self, experiments: list[str], query: str) -> list[Any]:
        assert experiments == ["1"]
        return [run for run in self.runs.values() if query == f"attributes.run_name = '{run.info.run_name}'"]

    def create_run(self, experiment: str, run_name: str) -> Any:
        info = types.SimpleNamespace(run_id=f"id{len(self.runs)}", run_name=run_name, status="RUNNING")
        data = types.SimpleNamespace(metrics={}, params={})
        self.runs[info.run_id] = types.SimpleNamespace(info=info, data=data, history={})
        return self.runs[info.run_id]

    def log_param(self, run: str, key: str, value: object) -> None:
        self.runs[run].data.params[key] = value

    def log_batch(self, run: str, metrics: list[Any]) -> None:
        for metric in metrics:
            self.runs[run].history.setdefault(metric.key, []).append(metric)
            self.runs[run].data.metrics[metric.key] = metric.value

    def get_metric_history(self, run: str, key: str) -> list[Any]:
        return self.runs[run].history[key]

    def update_run(self, run: str, status: str) -> None:
        self.runs[run].info.status = status

    def set_terminated(self, run: str, status: str) -> None:
        self.runs[run].info.status = status


def test_mlflow_gets_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(record, "_PATIENCE", 0.0)
    statuses = []

    def make() -> Recorder:
        statuses.extend(run.info.status for run in fake.runs.values())
        return record.MLflow(tmp_path / "runs", "run", NESTED)

    outcome = killed_and_resumed(tmp_path / "scratch", make)
    assert statuses == ["KILLED", "KILLED"]
    (run,) = fake.runs.values()
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.steps": 12, "train.schedule.kind": "wsd", "seed": 3}
    for key in ("loss", "norm"):
        assert [(metric.step, metric.value) for metric in run.history[key]] == points(list(outcome.journal), key)
    assert [metric.step for metric in run.history["heldout_loss"]] == [4, 8, 12]
    assert set(fake.addresses) == {f"sqlite:///{(tmp_path / 'runs' / 'mlflow.db').resolve()}"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://named.example")
    assert "http://named.example" in record.MLflow(tmp_path, "other", {}).begin(0)
    assert fake.addresses[-1] == "http://named.example"


def test_mlflow_writes_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    monkeypatch.setattr(record, "_PATIENCE", 1e9)
    monkeypatch.setattr(record, "_BATCH", 5)
    sizes: list[int] = []
    monkeypatch.setattr(fake, "log_batch", lambda run, metrics: sizes.append(len(metrics)))
    recorder = record.MLflow(tmp_path, "run", {})
    recorder.begin(0)
    for step in range(1, 13):
        recorder.add({"step": step, "loss": 1.0, "norm": 2.0})
    recorder.close(True)
    assert sizes == [10, 10, 4]


class Wandb(types.ModuleType):
    """What is called of W&B: like it, a step that is lower than the last is left out."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[dict[str, Any]] = []
        self.rows: dict[int, dict[str, float]] = {}
        self.codes: list[int] = []
        self.dir, self.url = "runs/wandb/offline-run-1/files", "https://named.example/run"
        self.Settings = lambda **settings: settings

    def init(self, **settings: Any) -> "Wandb":
        self.calls.append(settings)
        return self

    def log(self, row: Mapping[str, float], step: int) -> None:
        if step >= max(self.rows, default=0):
            self.rows.setdefault(step, {}).update(row)

    def finish(self, exit_code: int) -> None:
        self.codes.append(exit_code)


def test_wandb_is_offline_unless_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    outcome = killed_and_resumed(tmp_path / "scratch", lambda: record.WandB(tmp_path / "runs", "run", NESTED))
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert {(call["mode"], call["id"], call["resume"], call["dir"]) for call in fake.calls} == {
        ("offline", "run", "allow", str(tmp_path / "runs"))
    }
    assert fake.calls[0]["config"] == {"train.steps": 12, "train.schedule.kind": "wsd", "seed": 3}
    assert fake.codes == [1, 1, 0]
    assert [(step, row["loss"]) for step, row in fake.rows.items()] == points(list(outcome.journal), "loss")
    assert [step for step, row in fake.rows.items() if "heldout_loss" in row] == [4, 8, 12]
    monkeypatch.setenv("WANDB_MODE", "online")
    assert record.WandB(tmp_path, "run", {}).begin(0) == "https://named.example/run"
    assert fake.calls[-1]["mode"] == "online"


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_the_real_ones_take_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: it is heavy, and no part of the environment for development")
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)

    def make() -> Recorder:
        return recorders((name,), tmp_path / "runs", "run", NESTED)[name]  # type: ignore[arg-type]

    outcome = killed_and_resumed(tmp_path / "scratch", make)
    if name == "wandb":
        assert len(list((tmp_path / "runs" / "wandb").glob("offline-run-*/run-run.wandb"))) >= 1
        return
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("underlay").experiment_id])
    assert run.info.status == "FINISHED"
    history = sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss"))
    assert history == points(list(outcome.journal), "loss")


class Breaking:
    """A tracker whose server goes away."""

    def __init__(self, at: str) -> None:
        self.at, self.rows = at, 0

    def begin(self, step: int) -> str:
        self._may("begin")
        return "nowhere"

    def add(self, row: Mapping[str, float]) -> None:
        self.rows += 1
        self._may("add" if self.rows == 3 else "")

    def close(self, done: bool) -> None:
        self._may("close")

    def _may(self, what: str) -> None:
        if what == self.at:
            raise ConnectionError("no\nserver")


@pytest.mark.parametrize("at", ["add", "close"])
def test_a_recorder_that_fails_costs_no_run(tmp_path: Path, at: str) -> None:
    said: list[str] = []
    model, alone = fresh(), fresh()
    breaking = Breaking(at)
    train(model, CausalLM(), Counting(), config(), tmp_path / "a", log=said.append,
          onlookers=Onlookers(recorders={"tracker": breaking}))  # fmt: skip
    train(alone, CausalLM(), Counting(), config(), tmp_path / "b")
    assert same(model, alone)
    assert breaking.rows == (3 if at == "add" else 12)
    fails = [line for line in said if line.startswith("tracker fails")]
    assert fails == ["tracker fails, so it records no more and the run goes on: ConnectionError: no server"]


def test_a_recorder_that_cannot_begin_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="record: it cannot begin: ConnectionError: no server"):
        recorded(tmp_path, Breaking("begin"))


def test_what_is_missing_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "find_spec", lambda name: None if name == "wandb" else object())
    installed(("tensorboard", "mlflow"))
    with pytest.raises(UserError, match="wandb is not installed; run `pip install wandb`"):
        recorders(("mlflow", "wandb"), Path("runs"), "run", {})


def test_a_run_keeps_its_title(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    title = run_title("base", tmp_path)
    assert title.startswith("base-20")
    assert run_title("base", tmp_path) == title
    assert run_title("base", tmp_path / "other") != title


def test_settings_are_flattened() -> None:
    assert flat(NESTED) == {"train.steps": 12, "train.schedule.kind": "wsd", "seed": 3}
    assert flat({"a": [1, 2], "b": {}}) == {"a": [1, 2]}
