"""Checkpoints: everything the next step depends on, published by one rename, never unpickled."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from underlay.models.storage import write_tensors

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
    micro_rows: int = 0
    """Rows at once; fewer than asked for where memory is short."""
    skipped: int = 0
    """Steps left out (see `Guard`)."""
    seconds: float = 0.0
    """Wall time spent, over all attempts."""
    cpu_seconds: float = 0.0
    """Processor time spent, over all attempts."""


class Part(Protocol):
    """Something whose tensors the next step depends on."""

    def state(self) -> Mapping[str, Tensor]:
        """All of them, by name."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""


class Weights:
    """A model as a part of a checkpoint."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state(self) -> Mapping[str, Tensor]:
        """Weights and buffers."""
        state: Mapping[str, Tensor] = self._model.state_dict()
        return state

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Raises RuntimeError where they are another model's."""
        self._model.load_state_dict(tensors)


def save(folder: Path, parts: Mapping[str, Part], progression: Progression) -> None:
    """Write `folder/step-N`, then forget all other checkpoints: those before it, and damaged ones after it."""
    target = folder / f"step-{progression.step:08d}"
    temporary = folder / f".writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {f"{part}.{name}": tensor for part, one in parts.items() for name, tensor in one.state().items()}
    write_tensors(tensors, temporary / _TENSORS)
    (temporary / _STATE).write_text(json.dumps(asdict(progression)), "utf-8")
    for path in (temporary / _TENSORS, temporary / _STATE, temporary):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    for other in folder.glob("step-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def load(folder: Path, parts: Mapping[str, Part]) -> Progression:
    """Take up the newest whole checkpoint in `folder`; a fresh `Progression` where there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            tensors = load_file(path / _TENSORS)
            state = Progression(**json.loads((path / _STATE).read_text("utf-8")))
            for part, one in parts.items():
                one.load(_under(f"{part}.", tensors))
        except (OSError, ValueError, SafetensorError, TypeError, KeyError, RuntimeError):
            continue  # damaged, or of another version: an earlier one, or the beginning, is always right
        return state
    return Progression()


def newest(folder: Path) -> int | None:
    """The step of the newest checkpoint in `folder` whose tensors can be read; None where there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            with safe_open(path / _TENSORS, "pt"):
                return Progression(**json.loads((path / _STATE).read_text("utf-8"))).step
        except (OSError, ValueError, SafetensorError, TypeError):
            continue
    return None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
