"""Workers: processes that draw text out of what may hang or crash them, and are replaced when it does."""

import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from underlay.data.gather.worker import REPLY, REQUEST
from underlay.errors import MachineError

_START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Job:
    """Something to draw text out of."""

    kind: Literal["html", "pdf"]
    data: bytes
    most: int
    """Characters of text at most; of PDF."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of it."""

    status: Literal["text", "error", "late", "crashed"]
    text: str = ""


class _Worker:
    """One process."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("worker.py")
        self.process = subprocess.Popen(
            # -P: the folder of the program is no place to import from
            [sys.executable, "-P", os.fspath(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.job, self.until = -1, 0.0

    def fileno(self) -> int:
        assert self.process.stdout
        return self.process.stdout.fileno()

    def is_ready(self) -> bool:
        """Wait until it has begun; false where it cannot."""
        return bool(select.select([self], [], [], _START_SECONDS)[0]) and self.reply() is not None

    def send(self, job: Job) -> bool:
        """Give it something to do; false where it is dead."""
        assert self.process.stdin
        try:
            self.process.stdin.write(REQUEST.pack(job.kind[:1].encode(), len(job.data), job.most))
            self.process.stdin.write(job.data)
            self.process.stdin.flush()
        except OSError:
            return False
        return True

    def reply(self) -> Reply | None:
        """What it says; None where it is dead."""
        assert self.process.stdout
        head = self.process.stdout.read(REPLY.size)
        if len(head) < REPLY.size:
            return None
        status, size = REPLY.unpack(head)
        text = self.process.stdout.read(size)
        if len(text) < size:
            return None
        return Reply("error" if status == b"e" else "text", text.decode("utf-8", "replace"))

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


class Workers:
    """Some processes, started when there is something to do for them."""

    def __init__(self, count: int, deadline: float) -> None:
        """At most `count` of them, each with `deadline` seconds for a job."""
        self.count = count
        self._deadline = deadline
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        for worker in (*self._idle, *self._busy):
            worker.stop()
        self._idle, self._busy = [], []

    def work(self, jobs: Sequence[Job]) -> list[Reply]:
        """Do all jobs; replies in their order. Raises MachineError where no process can be started."""
        replies: list[Reply] = [Reply("crashed")] * len(jobs)
        waiting = deque(range(len(jobs)))
        while waiting or self._busy:
            while waiting and len(self._busy) < self.count:
                self._begin(waiting.popleft(), jobs)
            now = time.monotonic()
            soonest = min((worker.until for worker in self._busy), default=now)
            ready = select.select(self._busy, [], [], max(0.0, soonest - now))[0] if self._busy else []
            now = time.monotonic()
            for worker in list(self._busy):
                if worker in ready:
                    reply = worker.reply()
                elif worker.until <= now:
                    reply = Reply("late")
                else:
                    continue
                self._busy.remove(worker)
                replies[worker.job] = reply or Reply("crashed")
                if reply is None or reply.status == "late":
                    worker.stop()
                else:
                    self._idle.append(worker)
        return replies

    def _begin(self, number: int, jobs: Sequence[Job]) -> None:
        worker = self._idle.pop() if self._idle else self._start()
        if worker.send(jobs[number]):
            worker.job, worker.until = number, time.monotonic() + self._deadline
            self._busy.append(worker)
        else:
            worker.stop()

    @staticmethod
    def _start() -> _Worker:
        worker = _Worker()
        if not worker.is_ready():
            worker.stop()
            raise MachineError("the process that reads pages and PDF files cannot be started; see `underlay doctor`")
        return worker
