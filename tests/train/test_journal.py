"""The log of a run survives what happens to the run."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.train.journal import Journal


def written(path: Path, steps: int) -> Journal:
    journal = Journal(path, 0)
    for step in range(1, steps + 1):
        journal.add({"step": step, "loss": 1 / step})
    return journal


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 40))
def test_it_goes_on_after_the_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, steps: int, kept: int, torn: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "metrics.jsonl"
    written(path, steps).close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 10, "loss": 0.1}'[:torn])  # killed while it wrote
    journal = Journal(path, kept)
    left = min(steps, kept)
    assert [row["step"] for row in journal] == list(range(1, left + 1))
    journal.add({"step": left + 1})
    assert journal.tail(1) == [{"step": left + 1}]
    journal.close()
    assert whole.startswith(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))


def test_rows_are_on_the_disk_when_a_checkpoint_counts_on_them(tmp_path: Path) -> None:
    journal = written(tmp_path / "a" / "metrics.jsonl", 3)
    journal.sync()
    assert len(journal.path.read_bytes().splitlines()) == 3
    assert [row["step"] for row in journal.tail(2)] == [2, 3]
    assert len(list(journal)) == 3
