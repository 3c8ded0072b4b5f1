"""Checkpoints: everything the next step depends on, published by one rename, never unpickled."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from underlay.models.storage import write_tensors
from underlay.train.optimizer import Optimizer

_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass
class Progression:
    """Where a run stands."""

    step: int = 0
    """Steps done."""
    samples: int = 0
    """Rows read."""
    tokens: int = 0
    steps: int | None = None
    """The run's length, once it is known."""
    skipped: int = 0
    """Steps left out because their gradient was not finite."""
    seconds: float = 0.0
    """Wall time spent, over all attempts."""
    cpu_seconds: float = 0.0
    """Processor time spent, over all attempts."""
    log: list[dict[str, float]] = field(default_factory=list)
    """One entry a step: step, tokens, loss, rate, norm."""


def save(folder: Path, model: nn.Module, optimizer: Optimizer, progression: Progression) -> None:
    """Write `folder/step-N`, then forget the checkpoints before it."""
    target = folder / f"step-{progression.step:08d}"
    temporary = folder / f".writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
    write_tensors(tensors, temporary / _TENSORS)
    (temporary / _STATE).write_text(json.dumps(asdict(progression)), "utf-8")
    for path in (temporary / _TENSORS, temporary / _STATE, temporary):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    for old in sorted(folder.glob("step-*"))[:-1]:
        shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, model: nn.Module, optimizer: Optimizer) -> Progression:
    """Take up the newest whole checkpoint in `folder`; a fresh `Progression` where there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            tensors = load_file(path / _TENSORS)
            state = Progression(**json.loads((path / _STATE).read_text("utf-8")))
            model.load_state_dict(_under("model.", tensors))
            optimizer.load(_under("optimizer.", tensors))
        except (OSError, ValueError, SafetensorError, TypeError, KeyError, RuntimeError):
            continue  # damaged, or of another version: an earlier one, or the beginning, is always right
        return state
    return Progression()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
