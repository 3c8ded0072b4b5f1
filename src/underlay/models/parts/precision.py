"""What a device multiplies fast.

A processor without a unit for bfloat16 takes apart and rounds every number: measured on such a Xeon, 0.06 TFLOP/s
where float32 makes 0.3. So there bfloat16 is computed as float32: five times as fast, and closer to the truth.
"""

from functools import cache
from pathlib import Path

import torch


def bf16_unit(device: torch.device) -> str:
    """The unit that multiplies bfloat16 matrices: `tensor cores`, `AMX`, `AVX512-BF16`, `NEON-BF16`, or `none`."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.is_bf16_supported(including_emulation=False) else "none"
    units = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "NEON-BF16"}
    return next((unit for flag, unit in units.items() if flag in _cpu_flags()), "none")


def computed(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in where `dtype` is asked for: float32 instead of a bfloat16 that the device is slow at."""
    return torch.float32 if dtype == torch.bfloat16 and bf16_unit(device) == "none" else dtype


@cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
