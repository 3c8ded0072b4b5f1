"""What this machine has, and how fast it really is: the yardsticks that every speed is held against."""

import os
import platform
import shutil
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from underlay.models import parts


@dataclass(frozen=True)
class Machine:
    """Hardware and tools, as far as training and serving care."""

    processor: str
    cores: int
    memory_bytes: int
    free_disk_bytes: int
    bf16: str
    """The fastest bfloat16 matrix unit: `AMX`, `AVX512-BF16`, `tensor cores`, or `none`."""
    gpu: str | None
    compiler: str | None
    """The C++ compiler that torch.compile can use, or None."""
    python: str
    torch: str


@dataclass(frozen=True)
class Rates:
    """Measured speeds of the device that models run on."""

    float32_flops: float
    """Sustained float32 matrix multiplication, FLOP/s."""
    bf16_flops: float
    """Sustained bfloat16 matrix multiplication, FLOP/s."""
    bandwidth: float
    """Sustained memory reads, bytes/s."""


def find_compiler() -> str | None:
    """The C++ compiler torch.compile would call, if it is there with the headers of this Python."""
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    return compiler if compiler and headers.exists() else None


def bf16_unit() -> str:
    """The unit that multiplies bfloat16 matrices on the device that models run on, or `none`."""
    return parts.bf16_unit(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many cores this process may use; where the system does not say, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def examine(folder: Path) -> Machine:
    """Look at the machine; `folder` is where free disk space is counted."""
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    place = next((path for path in [folder, *folder.resolve().parents] if path.exists()), Path())
    return Machine(
        processor=_processor(),
        cores=cores(),
        memory_bytes=psutil.virtual_memory().total,
        free_disk_bytes=shutil.disk_usage(place).free,
        bf16=bf16_unit(),
        gpu=gpu,
        compiler=find_compiler(),
        python=platform.python_version(),
        torch=torch.__version__,
    )


def measure(seconds: float = 0.5) -> Rates:
    """Measure matrix and memory rates on the device models run on, about `seconds` for each of three figures."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Rates(
        float32_flops=_matmul_rate(torch.float32, device, seconds),
        bf16_flops=_matmul_rate(torch.bfloat16, device, seconds),
        bandwidth=_bandwidth(device, seconds),
    )


def _matmul_rate(dtype: torch.dtype, device: str, seconds: float) -> float:
    size = 8192 if device == "cuda" else 1024
    random = torch.Generator(device).manual_seed(0)  # measuring must not move anybody's chance
    left, right = (torch.randn(size, size, device=device, generator=random).to(dtype) for _ in range(2))
    return 2 * size**3 * _repeat(lambda: left @ right, device, seconds)


def _bandwidth(device: str, seconds: float) -> float:
    data = torch.ones(1 << 28 if device == "cuda" else 1 << 26, device=device)
    return data.nbytes * _repeat(data.sum, device, seconds)


def _repeat(work: Callable[[], object], device: str, seconds: float) -> float:
    """Best rate, in calls a second, over short windows: other processes only ever slow a machine down."""
    work()
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(3):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 3 / (time.perf_counter() - start))
    return best
