"""How the process keeps memory between steps."""

import ctypes
import sys

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


def forget_gradients(model: nn.Module, device: torch.device) -> None:
    """Begin gradients anew. On a CPU they stay where they lie: malloc cannot move what lives between two steps.

    Gradients that are freed and made anew each step come to lie among the activations that the last one has left, and
    then no room is large enough for those of the next (docs/experiments.md). On other devices they are freed.
    """
    model.zero_grad(set_to_none=device.type != "cpu")
