"""Recorders: other tools that draw a run's figures while it goes on. None is used unless it is asked for.

They stand beside the run, never in its way: what is trained does not depend on them, and one that fails is told and
left out from then on. Nothing goes over the network unless the user has named a server by the tool's own variables.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from underlay.errors import UserError

RecorderName = Literal["tensorboard", "mlflow", "wandb"]
_BATCH, _PATIENCE = 100, 5.0
"""MLflow writes a batch at once: so many rows, or what came in so many seconds."""


class Recorder(Protocol):
    """Takes rows of figures as they come."""

    def begin(self, step: int) -> str:
        """Go on after `step`, 0 at the start; rows of later steps may come again. Returns how to look at them."""

    def add(self, row: Mapping[str, float]) -> None:
        """Take the figures of `row["step"]`, or more of them."""

    def close(self, done: bool) -> None:
        """Write what is left; `done`: whether the run has come to its end."""


class Recording:
    """All recorders of a run together."""

    def __init__(self, recorders: Mapping[str, Recorder], log: Callable[[str], None]) -> None:
        self._recorders, self._log = dict(recorders), log

    @contextmanager
    def after(self, step: int) -> Iterator[None]:
        """Record the rows after `step`, until the block is left. Raises UserError where a recorder cannot begin."""
        for name, recorder in self._recorders.items():
            try:
                self._log(f"recorded: {recorder.begin(step)}")
            except UserError:
                raise
            except Exception as error:
                raise UserError(f"record: {name} cannot begin: {_line(error)}") from error
        done = False
        try:
            yield
            done = True
        finally:
            self._all(lambda recorder: recorder.close(done))

    def add(self, row: Mapping[str, float]) -> None:
        """Hand a row to all."""
        self._all(lambda recorder: recorder.add(row))

    def _all(self, call: Callable[[Recorder], None]) -> None:
        for name, recorder in list(self._recorders.items()):
            try:
                call(recorder)
            except Exception as error:  # noqa: BLE001 - a tracker must not cost the run, whatever it raises
                del self._recorders[name]
                self._log(f"{name} fails, so it records no more and the run goes on: {_line(error)}")


def installed(names: tuple[RecorderName, ...]) -> None:
    """Raise UserError where one of them is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"record: {name} is not installed; run `pip install {name}`, or leave it out of the list")


def recorders(
    names: tuple[RecorderName, ...], runs: Path, title: str, settings: Mapping[str, Any]
) -> dict[str, Recorder]:
    """The recorders of these names; `runs`: the folder of all runs; `settings`: what to show beside the figures.

    Raises UserError where one is not installed.
    """
    installed(names)
    kinds: dict[str, Callable[[Path, str, Mapping[str, Any]], Recorder]]
    kinds = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
    return {name: kinds[name](runs, title, settings) for name in names}


def run_title(name: str, scratch: Path) -> str:
    """What a run is called in recorders: its name and when it first began, which `scratch` remembers."""
    known = scratch / "recorded-as"
    if not known.exists():
        known.write_text(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}", "utf-8")
    return known.read_text("utf-8")


class TensorBoard:
    """Event files in `runs/title`."""

    def __init__(self, runs: Path, title: str, settings: Mapping[str, Any]) -> None:
        self._runs, self._title, self._settings = runs, title, settings

    def begin(self, step: int) -> str:
        """Open a file; what earlier files hold of later steps is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._runs / self._title), purge_step=step + 1)
        if step == 0:
            table = "\n".join(f"| {key} | `{value}` |" for key, value in flat(self._settings).items())
            self._writer.add_text("settings", f"| key | value |\n| --- | --- |\n{table}")
        return f"tensorboard --logdir {self._runs}"

    def add(self, row: Mapping[str, float]) -> None:
        """One scalar a figure."""
        for key, value in row.items():
            if key != "step":
                self._writer.add_scalar(key, value, int(row["step"]))

    def close(self, done: bool) -> None:  # noqa: ARG002 - a file has no state
        """Write what is left."""
        self._writer.close()


class MLflow:
    """A run in MLflow: where MLFLOW_TRACKING_URI says, else in `runs/mlflow.db`."""

    def __init__(self, runs: Path, title: str, settings: Mapping[str, Any]) -> None:
        self._runs, self._title, self._settings = runs, title, settings
        self._rows: list[tuple[Mapping[str, float], int]] = []
        self._written: dict[str, int] = {}
        self._at = time.monotonic()

    def begin(self, step: int) -> str:  # noqa: ARG002 - MLflow is asked for what it has
        """Start a run, or go on with the one that this run started before."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self._runs.mkdir(parents=True, exist_ok=True)
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(self._runs / 'mlflow.db').resolve()}"
        self._client = client = MlflowClient(tracking_uri=address)
        group = os.environ.get("MLFLOW_EXPERIMENT_NAME", "underlay")
        known = client.get_experiment_by_name(group)
        experiment = known.experiment_id if known else client.create_experiment(group)
        found = client.search_runs([experiment], f"attributes.run_name = '{self._title}'")
        if found:
            self._id = found[0].info.run_id
            client.update_run(self._id, "RUNNING")
            for key in found[0].data.metrics:
                self._written[key] = max(point.step for point in client.get_metric_history(self._id, key))
        else:
            self._id = client.create_run(experiment, run_name=self._title).info.run_id
            for key, value in flat(self._settings).items():
                client.log_param(self._id, key, value)
        return f"mlflow ui --backend-store-uri {address}"

    def add(self, row: Mapping[str, float]) -> None:
        """Keep the row until a batch is full: writing each by itself would hold up the run."""
        self._rows.append((row, time.time_ns() // 1_000_000))
        if len(self._rows) >= _BATCH or time.monotonic() - self._at > _PATIENCE:
            self._write()

    def _write(self) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, float(value), at, int(row["step"]))
            for row, at in self._rows
            for key, value in row.items()
            if key != "step" and row["step"] > self._written.get(key, 0)  # a resumed run repeats what it had written
        ]
        self._rows.clear()
        self._at = time.monotonic()
        self._client.log_batch(self._id, metrics=points)

    def close(self, done: bool) -> None:
        """Write what is left and end the run."""
        self._write()
        self._client.set_terminated(self._id, "FINISHED" if done else "KILLED")


class WandB:
    """A run in Weights & Biases: offline, in `runs/wandb`, unless WANDB_MODE says otherwise."""

    def __init__(self, runs: Path, title: str, settings: Mapping[str, Any]) -> None:
        self._runs, self._title, self._settings = runs, title, settings

    def begin(self, step: int) -> str:  # noqa: ARG002 - W&B itself leaves out the steps that it has
        """Start a run, or go on with the one of the same id."""
        mode = os.environ.get("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        import wandb

        self._runs.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "underlay"),
            id=self._title,
            name=self._title,
            dir=str(self._runs),
            config=flat(self._settings),
            mode=mode,
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        return f"wandb sync {self._run.dir.removesuffix('/files')}" if mode == "offline" else str(self._run.url)

    def add(self, row: Mapping[str, float]) -> None:
        """The figures of a step; those of one step come together."""
        self._run.log({key: value for key, value in row.items() if key != "step"}, step=int(row["step"]))

    def close(self, done: bool) -> None:
        """Write what is left and end the run."""
        self._run.finish(exit_code=0 if done else 1)


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys: `{"train": {"steps": 5}}` gives `{"train.steps": 5}`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner = flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {before + key: value}
        found |= inner
    return found


def _line(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
