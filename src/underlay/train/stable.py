"""Where a run can be made longer or shorter: the moment before its rate begins to fall.

Up to there nothing depends on the run's end (`schedule`), so a run of another length can go on from it, and ends as if
it had been made at once. What the next step depends on is kept with the model, in `resume/`.
"""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from underlay.train import checkpoint
from underlay.train.checkpoint import STATE, Checkpoints, Progression
from underlay.train.journal import EVALUATIONS, METRICS, SAMPLES, metrics_in

RESUME = "resume"
"""The folder of a trained model in which it is kept."""
KEPT = "stable"
"""The folder of a run's checkpoints in which it is kept until then."""
_OF_THIS_RUN = {"steps", "micro_rows", "taken_over", "seconds", "cpu_seconds"}
"""What a run of another length does not share: equal training leaves equal files."""


@dataclass(frozen=True)
class Kept:
    """What is told of the moment that a model keeps."""

    step: int
    """Steps done."""
    tokens: int
    seconds: float
    """Wall time up to there."""
    cpu_seconds: float
    """Processor time up to there."""


def keep(kept: Checkpoints, state: Progression) -> None:
    """Keep this moment in `kept`, instead of another that a killed attempt had planned."""
    there = kept.world.told(checkpoint.newest(kept.folder))
    if there is None or there.name != checkpoint.name(state.step):
        kept.save(state)


def publish(scratch: Path, model: Path) -> Kept | None:
    """Copy what was kept into `model/resume`; None where nothing was."""
    kept = checkpoint.newest(scratch / KEPT)
    if kept is None:
        return None
    state = json.loads((kept / STATE).read_text("utf-8"))
    (model / RESUME).mkdir()
    _copy_tensors(kept, model / RESUME)
    shared = {name: value for name, value in state.items() if name not in _OF_THIS_RUN}
    (model / RESUME / STATE).write_text(json.dumps(shared), "utf-8")
    return Kept(**{name: state[name] for name in ("step", "tokens", "seconds", "cpu_seconds")})


def kept_in(model: Path) -> Progression:
    """Where the run stood whose moment a model keeps."""
    return Progression(**json.loads((model / RESUME / STATE).read_text("utf-8")))


def take_up(model: Path, kept: Kept, scratch: Path) -> None:
    """Let a run in `scratch` that has not begun go on from what `model` keeps, log and time spent included."""
    if checkpoint.newest(scratch):
        return
    shutil.copyfile(metrics_in(model), scratch / METRICS)
    for name in (EVALUATIONS, SAMPLES):
        if (model / name).exists():
            shutil.copyfile(model / name, scratch / name)
    state = kept_in(model)
    state.taken_over, state.seconds, state.cpu_seconds = state.step, kept.seconds, kept.cpu_seconds
    checkpoint.put(scratch, state, partial(_copy_tensors, model / RESUME))


def _copy_tensors(source: Path, target: Path) -> None:
    for path in source.glob("*.safetensors"):
        shutil.copyfile(path, target / path.name)
