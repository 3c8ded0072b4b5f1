"""How the process keeps memory between steps."""

import ctypes
import sys

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
