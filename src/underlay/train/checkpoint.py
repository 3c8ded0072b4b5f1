"""Checkpoints: everything the next step depends on, published by one rename, never unpickled."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from underlay.models.storage import write_tensors

TENSORS, STATE = "state.safetensors", "state.json"


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
    cuts: list[list[int]] = field(default_factory=list)
    """How rows were cut: pairs of a first step and a number of pieces."""
    taken_over: int = 0
    """Steps that another run had made (see `stable`)."""
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
    """Write `folder/step-N`, then forget the others; they stay where OSError is raised."""
    tensors = {f"{part}.{name}": tensor for part, one in parts.items() for name, tensor in one.state().items()}
    put(folder, progression, lambda path: write_tensors(tensors, path))


def put(folder: Path, progression: Progression, write: Callable[[Path], object]) -> None:
    """`save`, where `write` puts the tensors into a file."""
    target = folder / name(progression.step)
    temporary = folder / ".writing"  # a run has its folder to itself; what a killed one left is in the way
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary / TENSORS)
        (temporary / STATE).write_text(json.dumps(asdict(progression)), "utf-8")
        for path in (temporary / TENSORS, temporary / STATE, temporary):
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # on a full disk it would only be in the way
        raise
    shutil.rmtree(target, ignore_errors=True)  # there only if it was passed over as damaged
    temporary.rename(target)
    for other in folder.glob("step-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def name(step: int) -> str:
    """The folder of the checkpoint after so many steps."""
    return f"step-{step:08d}"


def newest(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, if there is one."""
    return max(folder.glob("step-*"), default=None)


def load(folder: Path, parts: Mapping[str, Part]) -> Progression:
    """Take up the newest whole checkpoint in `folder`; a fresh `Progression` where there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            tensors = load_file(path / TENSORS)
            state = Progression(**json.loads((path / STATE).read_text("utf-8")))
            for part, one in parts.items():
                one.load(_under(f"{part}.", tensors))
        except (OSError, ValueError, SafetensorError, TypeError, KeyError, RuntimeError):
            continue  # damaged, or of another version: an earlier one, or the beginning, is always right
        return state
    return Progression()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
