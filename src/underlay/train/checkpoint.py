"""Checkpoints: everything the next step depends on, published by one rename, never unpickled.

Each process writes what lies with it, as safetensors that know their places in the whole (the format that
`torch.distributed.checkpoint` shares with other tools), so any number of processes can take it up again. Where another
unit than the cores trains, writing goes on in the background while the next steps are made.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
        """All of them, by name; a checkpoint is read into them."""


class Weights:
    """A model as a part of a checkpoint."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state(self) -> Mapping[str, Tensor]:
        """Weights and buffers."""
        state: Mapping[str, Tensor] = self._model.state_dict()
        return state


class Checkpoints:
    """The checkpoints of a run, in folders `step-N`."""

    def __init__(self, folder: Path, parts: Mapping[str, Part], world: World | None = None) -> None:
        self.folder, self.world = folder, world or alone()
        self._parts = parts
        self._group = dist.new_group(backend="gloo") if self.world.size > 1 else None
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._running: Future[None] | None = None
        self._published = self._written = folder

    def save(self, progression: Progression) -> None:
        """Write `step-N`, then forget the checkpoints before it; see `settle`."""
        self.settle()
        self._published = self.folder / f"step-{progression.step:08d}"
        self._written = self.folder / f".writing-{self._published.name}"
        if self.world.leads:
            shutil.rmtree(self._written, ignore_errors=True)
            self._written.mkdir(parents=True)
            (self._written / _STATE).write_text(json.dumps(asdict(progression)), "utf-8")
        self.world.told(None)
        tensors = self._tensors()
        if self.world.size == 1 and self.world.device.type == "cpu":
            write_tensors(tensors, self._written / _TENSORS)
            self._publish()
            return
        copies = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        self._running = self._writer.submit(self._write, copies, str(self._written))

    def _write(self, tensors: dict[str, Tensor], path: str) -> None:
        writer = HuggingFaceStorageWriter(path, save_distributed=True)
        with _quiet():
            save(tensors, storage_writer=writer, process_group=self._group, no_dist=self.world.size == 1)

    def settle(self, wait: bool = True) -> None:
        """Publish a checkpoint that was being written in the background; without `wait`, only where it is done.

        Raises OSError where it could not be written.
        """
        if self._running is None or not (wait or self._running.done()):
            return
        try:
            self._running.result()
        except CheckpointException as error:
            cause = next((cause for cause, _ in error.failures.values() if isinstance(cause, OSError)), error)
            raise cause from error
        finally:
            self._running = None
        self._publish()

    def load(self) -> Progression:
        """Take up the newest whole checkpoint; a fresh `Progression` where there is none."""
        found = self.world.told([path for path in sorted(self.folder.glob("step-*"), reverse=True) if _is_whole(path)])
        for path in found:
            tensors = self._tensors()
            try:
                state = Progression(**json.loads((path / _STATE).read_text("utf-8")))
                reader = HuggingFaceStorageReader(str(path))
                with _quiet():
                    load(tensors, storage_reader=reader, process_group=self._group, no_dist=self.world.size == 1)
            except (OSError, ValueError, TypeError, KeyError, RuntimeError, CheckpointException):
                continue  # of another version: an earlier one, or the beginning, is always right
            return state
        return Progression()

    def _tensors(self) -> dict[str, Tensor]:
        return {f"{part}.{name}": tensor for part, one in self._parts.items() for name, tensor in one.state().items()}

    def _publish(self) -> None:
        if not self.world.leads:
            return
        for path in [*self._written.iterdir(), self._written]:
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        shutil.rmtree(self._published, ignore_errors=True)
        self._written.rename(self._published)
        for old in sorted(self.folder.glob("step-*"))[:-1]:
            shutil.rmtree(old, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether every file of tensors has the length that its own head tells."""
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt"):
                pass
    except (OSError, SafetensorError):
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's remark that a process saves by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
