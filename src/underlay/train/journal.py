"""The files that a run writes beside its checkpoints, a line of JSON a row: its steps, its evaluations, its samples.

A run that was killed repeats the steps since its last checkpoint, so what the files hold of them is cut off first.
"""

import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRICS, EVALUATIONS, SAMPLES = "metrics.jsonl", "evaluations.jsonl", "samples.jsonl"
"""Every step, one a line; every evaluation; what the model said in each."""
_EARLIER = "log.jsonl"
"""What METRICS was called in models of version 0.1.0."""

Row = dict[str, Any]


def metrics_in(folder: Path) -> Path:
    """Where a model's folder has its steps."""
    return folder / (METRICS if (folder / METRICS).exists() or not (folder / _EARLIER).exists() else _EARLIER)


def rows_of(path: Path) -> list[Row]:
    """All rows of a file; none where it does not exist."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


class Journal:
    """An append-only file of rows, each of which has a `step` that is not less than that of the row before."""

    def __init__(self, path: Path, step: int) -> None:
        """Go on after `step`; later rows, and a half-written last one, are cut off."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        whole = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
                whole += len(line)
        self._unsaved = path.stat().st_size != whole
        os.truncate(path, whole)
        self._file = path.open("a", encoding="utf-8")

    def add(self, row: Row) -> None:
        """Write one row."""
        print(json.dumps(row), file=self._file)
        self._unsaved = True

    def sync(self) -> None:
        """Have all rows on the disk; to be called before a checkpoint that counts on them."""
        if self._unsaved:  # a disk may take its time, and most runs have no evaluations
            self._file.flush()
            os.fsync(self._file.fileno())
            self._unsaved = False

    def close(self) -> None:
        """Write what is left."""
        self._file.close()

    def __iter__(self) -> Iterator[Row]:
        if not self._file.closed:
            self._file.flush()
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def tail(self, count: int) -> list[Row]:
        """The last rows."""
        return list(deque(self, count))
