"""The processes that train together, and what they tell each other.

`torchrun` starts them and says in the environment who each of them is. A process by itself is a world of one, which has
nobody to talk to.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from underlay.errors import UserError

_PATIENCE = timedelta(days=7)
"""How long a process waits for the first one, which may be reading a corpus meanwhile."""

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them."""

    device: torch.device
    """Where this process trains."""
    rank: int = 0
    """Which of the processes this is."""
    size: int = 1
    """How many they are."""
    words: dist.ProcessGroup | None = None
    """Through which they talk; tensors of a device take other ways."""

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all: it writes, reports and decides."""
        return self.rank == 0

    def weights(self) -> AbstractContextManager[object]:
        """Modules made within have memory for weights in the leading process alone, which gives them to the others."""
        return nullcontext() if self.leads else torch.device("meta")

    def told(self, value: T) -> T:
        """What the leading process passes here, in all of them. Others wait for it."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.words)
        return box[0]

    def most(self, *values: float) -> list[float]:
        """The largest that any process passes here, place by place."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.words)
        return found.tolist()


def alone() -> World:
    """A process by itself, on the GPU where there is one."""
    return World(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def joined() -> Iterator[World]:
    """The world that `torchrun` started this process in; a process that it did not start is alone.

    Raises UserError where a process has no GPU of its own although others of this host have.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():
        yield alone()
        return
    local, device = int(os.environ.get("LOCAL_RANK", "0")), torch.device("cpu")
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this host has no GPU: {torch.cuda.device_count()} are here; "
                f"start torchrun with --nproc-per-node {torch.cuda.device_count()}"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        words = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield World(device, dist.get_rank(), size, words)
    finally:
        dist.destroy_process_group()
