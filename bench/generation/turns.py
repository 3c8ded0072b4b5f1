"""How every side is measured: it waits for its turns in a process of its own, and tells when each token came.

A side is a module with `open_side(what)`. It loads its model and gives back a `Side`: `generate` continues prompts and
calls `tick` with the numbers of the prompts that have just got a token, `score` gives the negative log-likelihood of
rows of tokens. Nothing here may import Underlay, for rivals run in other environments.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]
Tick = Callable[[Iterable[int]], None]
Rows = Sequence[Sequence[int]]


class BenchmarkError(Exception):
    """A side cannot be measured; says why."""


@dataclass(frozen=True)
class What:
    """What a side is to open."""

    side: str
    setting: str
    """Precision, and how the side computes, such as `int8` or `bfloat16 static`."""
    exports: str
    """Folder of the exported weights."""
    model: str
    """Folder of our own."""
    batch: int
    context: int
    threads: int


class Side(Protocol):
    """One engine with one model."""

    facts: dict[str, Any]
    """Versions and settings, for the results."""

    def generate(self, prompts: Rows, count: int, tick: Tick, seconds: float) -> None:
        """Greedily continue prompts of one length, `batch` of them, by `count` tokens, whatever they are.

        May stop early after `seconds`.
        """

    def score(self, rows: Rows) -> float:
        """Mean negative log-likelihood, in nats, of each row's tokens from the second on."""


class Clock:
    """When tokens came."""

    def __init__(self, prompts: int) -> None:
        self.waiting = set(range(prompts))
        """Those without a first token."""
        self.began = time.perf_counter()
        self.started = self.last = self.began
        self.after = self.total = 0
        """Tokens since all have their first, and all of them."""

    def __call__(self, numbers: Iterable[int]) -> None:
        """These prompts have got one token each."""
        self.last = time.perf_counter()
        numbers = list(numbers)
        self.total += len(numbers)
        if self.waiting:
            self.waiting.difference_update(numbers)
            self.started = self.last
        else:
            self.after += len(numbers)


def serve(what: What, open_side: Callable[[What], Side]) -> None:
    """Be one side: answer each line that comes in by one that goes out."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    side = open_side(what)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_answer(side, asked)), file=answers, flush=True)


def _answer(side: Side, asked: dict[str, Any]) -> dict[str, Any]:
    if "facts" in asked:
        return side.facts
    if "score" in asked:
        return {"nats": side.score(asked["score"])}
    if asked.get("forget"):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of loading and warming up
        return {}
    if asked.get("peak"):
        status = Path("/proc/self/status").read_text()
        return {"mib": next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024}
    prompts, count = asked["prompts"], asked["count"]
    clock = Clock(len(prompts))
    side.generate(prompts, count, clock, asked["seconds"])
    ended = time.perf_counter()
    assert not clock.waiting, "a prompt was left without a token"
    whole = clock.total == len(prompts) * count
    return {
        "first": clock.started - clock.began,
        "decode": clock.last - clock.started,
        "decoded": clock.after,
        "all": ended - clock.began,
        "whole": whole,
    }


class Turns:
    """The other end: a side's process, and what it has told."""

    def __init__(self, python: Path, script: Path, what: What, scratch: Path) -> None:
        name = f"{what.side}-{what.setting}".replace(" ", "-")
        threads = str(what.threads)
        environment = os.environ | {
            "TORCHINDUCTOR_CACHE_DIR": str(scratch / f"cache-{name}"),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.log = scratch / f"{name}.log"
        self.started = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), str(script), "--serve", json.dumps(what.__dict__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def ask(self, **question: Any) -> dict[str, Any]:
        """One question and its answer. Raises BenchmarkError where the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            last = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            raise BenchmarkError(f"ended with {self.process.wait()}: {' '.join(last)[:200]} ({self.log})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
            self.process.wait(20)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
