"""What all parts share: sides that wait for their turns in processes of their own, and figures held against targets.

A module of a part has two functions. `measure(options)` runs in the process that was started by hand and tells what
came out. `prepare(side, folder)` runs in a process of its own, in the rival's Python where the side is a rival; it
imports, reads and warms up whatever does not count, and gives back two functions: `work()`, which is measured, and
`tell(what)`, which makes a dictionary of what `work` gave and is not measured.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
DATATROVE = ROOT / ".venv-datatrove" / "bin" / "python"
"""Where `make bench-env` installs datatrove."""
_THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Prepared = tuple[Callable[[], Any], Callable[[Any], dict[str, Any]]]


class LeftOutError(Exception):
    """A part cannot be measured here; says what it needs."""


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    turns: int | None = None
    """Of each side; None: as many as the part is used to."""
    size: float = 1.0
    """How much of the whole work to do: less than 1 to see whether it runs."""
    differences: Path | None = None
    """Where to write what the sides do not agree on."""


@dataclass(frozen=True)
class Check:
    """A figure held against its target."""

    name: str
    value: float
    target: float

    @property
    def met(self) -> bool:
        """Whether it is at least what it should be."""
        return self.value >= self.target

    def told(self) -> dict[str, Any]:
        """For the file of results."""
        return {"name": self.name, "value": self.value, "target": self.target, "met": self.met}


@dataclass
class Outcome:
    """What a part measured."""

    figures: dict[str, Any]
    checks: list[Check] = field(default_factory=list)


def need(*paths: Path) -> None:
    """Leave the part out where one of these is missing."""
    for path in paths:
        if not path.exists():
            where = os.path.relpath(path, ROOT)
            raise LeftOutError(f"needs {where}" + (", from `make bench-env`" if path == DATATROVE else ""))


def processor_seconds() -> float:
    """What this process and those it waited for have taken of the processor."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_mib() -> float:
    """The most memory this process had at once."""
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def serve(prepare: Callable[[str, Path], Prepared], side: str, folder: Path, pinned: bool) -> None:
    """Be a side: work once for each line that comes in, and answer with what it took and what came out."""
    if pinned:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever libraries print is no answer
        work, tell = prepare(side, folder)
        print(json.dumps({"before_mib": peak_mib()}), file=answers, flush=True)
        for _ in sys.stdin:
            before, began = processor_seconds(), time.perf_counter()
            made = work()
            took = {"processor": processor_seconds() - before, "seconds": time.perf_counter() - began}
            print(json.dumps({**took, "peak_mib": peak_mib(), **tell(made)}), file=answers, flush=True)


class Side:
    """A process that waits for its turns; each turn's answer is kept in `turns`."""

    def __init__(
        self,
        part: str,
        name: str,
        folder: Path,
        python: Path | str = sys.executable,
        environment: dict[str, str] | None = None,
        pinned: bool = True,
    ) -> None:
        """Start it, on one core with one thread if `pinned`, and wait until it is warm."""
        alone = dict.fromkeys(_THREADS, "1") if pinned else {}
        # Numba does not notice every change of what it has kept.
        alone["NUMBA_CACHE_DIR"] = str(folder / "numba")
        program = str(ROOT / "bench" / "data.py")
        self.name = name
        self.turns: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [os.fspath(python), program, "--serve", part, name, str(folder), str(int(pinned))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | alone | (environment or {}),
        )
        self.before_mib: float = self._answer()["before_mib"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the side {self.name} ended early; its error stands above"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def turn(self) -> dict[str, Any]:
        """Work once."""
        assert self._process.stdin
        print(file=self._process.stdin, flush=True)
        self.turns.append(self._answer())
        return self.turns[-1]

    def end(self) -> None:
        """Stop."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def processor(self) -> list[float]:
        """Seconds of the processor that each turn took."""
        return [turn["processor"] for turn in self.turns]

    def rate(self, amount: float) -> float:
        """So much work in a turn, by the second of the processor; of the median turn."""
        return amount / statistics.median(self.processor())


def rounds(sides: list[Side], turns: int) -> None:
    """Let sides take turns, then stop them."""
    for _ in range(turns):
        for side in sides:
            side.turn()
    for side in sides:
        side.end()


def times_faster(ours: Side, theirs: Side) -> float:
    """Median over rounds of their processor time by ours."""
    return statistics.median(t / o for o, t in zip(ours.processor(), theirs.processor(), strict=True))


def table(heads: list[str], rows: list[list[Any]]) -> None:
    """Print rows under their heads, in Markdown."""
    cells = [[str(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for number, row in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")
