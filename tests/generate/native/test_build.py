import ctypes
import multiprocessing
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from generate.native.worlds import missing
from underlay.generate.native import NoLibrary, library
from underlay.generate.native import build as building

QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
"""GCC 12 warns of its own headers for AVX-512."""
AMX = ("-mamx-tile", "-mamx-bf16", "-mamx-int8")
needs_compiler = pytest.mark.skipif(missing() is not None, reason=f"no native library: {missing()}")


def script(folder: Path, text: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def tiny_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel of one function in the place of the real one, which takes seconds."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "kernel.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(building, "SOURCE", source)
    return source


def test_without_a_compiler_the_reason_is_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NoLibrary, match=r"no C\+\+ compiler; install g\+\+"):
        library(tmp_path)


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "CXX", script(tmp_path, '[ "$1" = --version ] && exit 0; echo "x.cpp:1: error: no vectors" >&2; exit 1')
    )
    cache = tmp_path / "cache"
    with pytest.raises(NoLibrary, match=r"does not compile the native runner: x\.cpp:1: error: no vectors"):
        library(cache)
    assert list(cache.iterdir()) == []
    monkeypatch.setenv("CXX", script(tmp_path, "exit 3"))
    with pytest.raises(NoLibrary, match="does not run"):
        library(cache)


def test_a_compiler_that_makes_no_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", script(tmp_path, 'for last; do :; done; [ "$1" = --version ] || echo rubbish > "$last"'))
    with pytest.raises(NoLibrary, match=r"\.so"):
        library(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", script(tmp_path, "exit 0"))
    (tmp_path / "file").write_text("")
    with pytest.raises(NoLibrary, match="file"):
        library(tmp_path / "file" / "cache")


@needs_compiler
def test_it_is_built_once_and_again_when_the_source_changes(tmp_path: Path, tiny_source: Path) -> None:
    cache = tmp_path / "cache"
    assert library(cache).answer() == 42
    (built,) = cache.iterdir()
    before = built.stat().st_mtime_ns
    assert library(cache).answer() == 42
    assert built.stat().st_mtime_ns == before
    (tiny_source / "kernel.cpp").write_text('extern "C" int answer() { return 43; }\n')
    assert library(cache).answer() == 43
    assert len(list(cache.iterdir())) == 2


def build_in(
    source: str, cache: str, gate: "multiprocessing.synchronize.Barrier", results: "multiprocessing.Queue[int]"
) -> None:
    building.SOURCE = Path(source)
    gate.wait()
    results.put(library(Path(cache)).answer())


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork or spawn with arguments")
def test_two_processes_may_build_at_once(tmp_path: Path, tiny_source: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    work = [
        context.Process(target=build_in, args=(str(tiny_source), str(tmp_path / "cache"), gate, results))
        for _ in range(2)
    ]
    for process in work:
        process.start()
    assert [results.get(timeout=60) for _ in work] == [42, 42]
    for process in work:
        process.join()
    assert len(list((tmp_path / "cache").iterdir())) == 1


@needs_compiler
def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert isinstance(library(), ctypes.CDLL)
    assert len(list((tmp_path / "cache" / "underlay" / "native").iterdir())) == 1


@needs_compiler
def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(NoLibrary, match=r"no home folder.*XDG_CACHE_HOME"):
        library()


@needs_compiler
@pytest.mark.parametrize("tiles", [(), AMX, ("-DUNDERLAY_EMULATED",)], ids=["here", "AMX", "emulated"])
def test_the_real_kernel_builds_without_a_warning(tiles: tuple[str, ...]) -> None:
    if tiles == AMX and platform.machine() != "x86_64":
        pytest.skip("AMX is Intel's")
    compiler = building.find_compiler()
    assert compiler is not None
    source = building.SOURCE / "kernel.cpp"
    checked = [
        compiler,
        *building.FLAGS,
        *tiles,
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-psabi",
        *QUIET,
        "-fsyntax-only",
        str(source),
    ]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
