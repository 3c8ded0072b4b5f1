"""How the process keeps memory between steps."""

import ctypes
import sys
from pathlib import Path

import torch
from torch import nn

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, for the whole process, instead of giving it back to the system at once.

    Every step needs the same large tensors again; when each is mapped anew, the system clears it page by page, which
    took 5 to 20 % of a step (docs/experiments.md). The peak stays what it is; what was freed is not given back before
    the process ends. Returns whether it could be set: only where the C library is glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(what, _NEVER) for what in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))


def give_back_freed_memory() -> bool:
    """Give back what building, looking and compiling have left, which no step needs again; glibc's malloc_trim.

    Returns whether there was anything, which is known only where the C library is glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    return trim is not None and bool(trim(0))


class PeakMemory:
    """The most memory that is held from now on: of the GPU by this process, else by the whole process, in bytes."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device if device is not None and device.type == "cuda" else None
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        give_back_freed_memory()  # what was used before is none of this peak's
        try:
            Path("/proc/self/clear_refs").write_text("5", "ascii")
            self._known = True
        except OSError:  # only Linux has it, and not every container lets it be written
            self._known = False

    def bytes(self) -> int | None:
        """The peak so far; None where the system does not tell."""
        if self._device is not None:
            return torch.cuda.max_memory_allocated(self._device)
        if not self._known:
            return None
        status = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), None)


def forget_gradients(model: nn.Module, device: torch.device) -> None:
    """Begin gradients anew. On a CPU they stay where they lie: malloc cannot move what lives between two steps.

    Gradients that are freed and made anew each step come to lie among the activations that the last one has left, and
    then no room is large enough for those of the next (docs/experiments.md). On other devices they are freed.
    """
    model.zero_grad(set_to_none=device.type != "cpu")
