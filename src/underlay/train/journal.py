"""The log of a run: one line of JSON a step, beside the checkpoints.

A run that was killed repeats the steps since its last checkpoint, so what the log holds of them is cut off first.
"""

import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

LOG = "log.jsonl"
Row = dict[str, float]


class Journal:
    """An append-only file of rows, each of which has a `step`, counted from 1 without gaps."""

    def __init__(self, path: Path, step: int) -> None:
        """Go on after `step`; later rows, and a half-written last one, are cut off."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number > step or not line.endswith(b"\n"):
                    break
                whole += len(line)
        os.truncate(path, whole)
        self._file = path.open("a", encoding="utf-8")

    def add(self, row: Row) -> None:
        """Write one row."""
        print(json.dumps(row), file=self._file)

    def sync(self) -> None:
        """Have all rows on the disk; to be called before a checkpoint that counts on them."""
        self._file.flush()
        os.fsync(self._file.fileno())

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
