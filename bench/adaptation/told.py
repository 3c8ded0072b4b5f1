"""What a side says of a run; needs nothing but Python and torch."""

import itertools
import json
import platform
import statistics
from pathlib import Path
from typing import Any

WARM = 4
"""Steps that are not timed: they compile, and meet sizes for the first time."""


def peak_mib() -> float:
    """The most memory this process had at once."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def has_unit() -> bool:
    """Whether this processor multiplies bfloat16 matrices; for sides that do not know Underlay."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def tell(times: list[float], examples: float, tokens: float, uneven: bool, **facts: Any) -> None:
    """Print the rates.

    times: when steps were done; examples, tokens: examples and learned tokens of a step, as they are on average over
    all of the data; uneven: steps hold rows of their own length each, so their mean counts, not their median.
    """
    import torch

    seconds = [after - before for before, after in itertools.pairwise(times)][WARM - 1 :]
    each = statistics.mean(seconds) if uneven else statistics.median(seconds)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    found = {
        "rate": examples / each,
        "tokens_per_second": tokens / each,
        "seconds": seconds,
        "peak_mib": peak_mib(),
        "machine": machine | facts,
    }
    print(json.dumps(found))
