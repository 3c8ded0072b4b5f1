"""Checkpoints: everything the next step depends on, published by one rename, never unpickled.

Each process writes what lies with it, as safetensors that know their places in the whole (the format that
`torch.distributed.checkpoint` shares with other tools), so any number of processes can take it up again. Where another
unit than the cores trains, writing goes on in the background while the next steps are made.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from underlay.models.storage import write_tensors
from underlay.train.world import World, alone

TENSORS, STATE = "state.safetensors", "state.json"
_UNFINISHED = ".writing"


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
        """All of them, by name; a checkpoint is read into them."""


class Weights:
    """A model as a part of a checkpoint."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state(self) -> Mapping[str, Tensor]:
        """Weights that learn, and buffers; those that stand still are where they came from."""
        frozen = {name for name, parameter in self._model.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self._model.state_dict().items() if name not in frozen}


class Checkpoints:
    """The checkpoints of a run, in folders `step-N`."""

    def __init__(self, folder: Path, parts: Mapping[str, Part], world: World | None = None) -> None:
        self.folder, self.world = folder, world or alone()
        self._parts = parts
        self._group = dist.new_group(backend="gloo") if self.world.size > 1 else None
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._running: Future[None] | None = None
        self._written = Progression()

    def save(self, progression: Progression) -> None:
        """Write `step-N`, then forget the others; they stay where OSError is raised. See `settle`."""
        self.settle()
        tensors = self._tensors()
        if self.world.size == 1 and self.world.device.type == "cpu":
            put(self.folder, progression, lambda folder: write_tensors(tensors, folder / TENSORS))
            return
        self._written = replace(progression, cuts=[*progression.cuts])
        if self.world.leads:
            _begin(self.folder)
        self.world.told(None)
        copies = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        self._running = self._writer.submit(self._write, copies)

    def _write(self, tensors: dict[str, Tensor]) -> None:
        writer = HuggingFaceStorageWriter(str(self.folder / _UNFINISHED), save_distributed=True)
        with _quiet():
            save(tensors, storage_writer=writer, process_group=self._group, no_dist=self.world.size == 1)

    def settle(self) -> None:
        """Wait for a checkpoint that is being written in the background. Raises OSError where it could not be."""
        if self._running is None:
            return
        try:
            self._running.result()
            if self.world.leads:
                _finish(self.folder, self._written)
        except (CheckpointException, OSError) as error:
            shutil.rmtree(self.folder / _UNFINISHED, ignore_errors=True)
            failures = error.failures if isinstance(error, CheckpointException) else {}
            raise next((cause for cause, _ in failures.values() if isinstance(cause, OSError)), error) from error
        finally:
            self._running = None

    def load(self) -> Progression:
        """Take up the newest whole checkpoint; a fresh `Progression` where there is none."""
        found = self.world.told([path for path in sorted(self.folder.glob("step-*"), reverse=True) if _is_whole(path)])
        for path in found:
            tensors = self._tensors()
            try:
                state = Progression(**json.loads((path / STATE).read_text("utf-8")))
                reader = HuggingFaceStorageReader(str(path))
                with _quiet():
                    load(tensors, storage_reader=reader, process_group=self._group, no_dist=self.world.size == 1)
            except (OSError, ValueError, TypeError, KeyError, RuntimeError, CheckpointException):
                continue  # of another version: an earlier one, or the beginning, is always right
            return state
        return Progression()

    def _tensors(self) -> dict[str, Tensor]:
        return {f"{part}.{name}": tensor for part, one in self._parts.items() for name, tensor in one.state().items()}


def put(folder: Path, progression: Progression, write: Callable[[Path], object]) -> None:
    """Make a checkpoint in `folder` of files that `write` puts into the folder it is given, and forget the others.

    They stay where OSError is raised.
    """
    _begin(folder)
    try:
        write(folder / _UNFINISHED)
        _finish(folder, progression)
    except OSError:
        shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)  # on a full disk it would only be in the way
        raise


def _begin(folder: Path) -> None:
    unfinished = folder / _UNFINISHED  # a run has its folder to itself; what a killed one left is in the way
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)


def _finish(folder: Path, progression: Progression) -> None:
    unfinished, target = folder / _UNFINISHED, folder / name(progression.step)
    (unfinished / STATE).write_text(json.dumps(asdict(progression)), "utf-8")
    for path in [*unfinished.iterdir(), unfinished]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    shutil.rmtree(target, ignore_errors=True)  # there only if it was passed over as damaged
    unfinished.rename(target)
    for other in folder.glob("step-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def name(step: int) -> str:
    """The folder of the checkpoint after so many steps."""
    return f"step-{step:08d}"


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, if there is one."""
    return next((path for path in sorted(folder.glob("step-*"), reverse=True) if _is_whole(path)), None)


def _is_whole(folder: Path) -> bool:
    """Whether every file of tensors has the length that its own head tells."""
    files = [*folder.glob("*.safetensors")]
    try:
        for path in files:
            with safe_open(path, framework="pt"):
                pass
    except (OSError, SafetensorError):
        return False
    return bool(files) and (folder / STATE).exists()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's remark that a process saves by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
