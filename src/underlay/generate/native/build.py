"""The library of the native runner, built once a machine: sources in, a shared library in the user's cache out.

It is built for the very processor it runs on. Its name is a hash of all that it depends on (sources, flags, compiler,
processor), so a library that is there is the right one; it is written beside its place and moved there, so two
processes may build at the same time.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-pthread",
    "-fno-math-errno",
    "-ffp-contract=off",  # a product and a sum are fused where the source says so, and nowhere else
)


class NoLibrary(Exception):  # noqa: N818 - it names what is missing
    """The library cannot be had here; the message says why, in one line."""


def library(folder: Path | None = None) -> ctypes.CDLL:
    """The library, built first where it is not in the cache folder yet (seconds). Raises NoLibrary where it cannot be.

    folder: by default `underlay/native` in $XDG_CACHE_HOME, or in ~/.cache.
    """
    compiler = find_compiler()
    if compiler is None:
        raise NoLibrary("there is no C++ compiler; install g++ or clang++, or name one in $CXX")
    path = (folder or _cache()) / f"{_identity(compiler)}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoLibrary(f"{path}: {error}") from error


def _cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "underlay" / "native"
    except RuntimeError as error:
        raise NoLibrary("the user has no home folder to keep it in; name one in $XDG_CACHE_HOME") from error


def find_compiler() -> str | None:
    """The C++ compiler: $CXX, g++ or clang++."""
    return shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")


def _sources() -> list[Path]:
    return sorted([*SOURCE.glob("*.h"), *SOURCE.glob("*.cpp")])


def _identity(compiler: str) -> str:
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoLibrary(f"the C++ compiler {compiler} does not run: {error}") from error
    parts = [path.read_bytes() for path in _sources()]
    parts += [" ".join(FLAGS).encode(), compiler.encode(), version, _processor()]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:24]


def _processor() -> bytes:
    """What instructions there are: a cache folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode() + platform.machine().encode()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}))


def _compile(compiler: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as folder:
        made = Path(folder) / path.name
        command = [compiler, *FLAGS, str(SOURCE / "kernel.cpp"), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0 or not made.exists():
            said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise NoLibrary(f"{compiler} does not compile the native runner: {said}")
        made.replace(path)
