"""A disk that is full: the last whole checkpoint stays, nothing half-written is taken for one, and a rerun goes on."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from test_train import Counting, Stopping, config, fresh, same
from typer.testing import CliRunner

from full_disks import files_up_to
from underlay.cli import app
from underlay.library import Library
from underlay.train import CausalLM, checkpoint, train, watch

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stopped(scratch: Path) -> dict[str, bytes]:
    """What a run leaves that was asked to stop in its fourth step."""
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), CausalLM(), Stopping(8 * 3, signal.SIGINT), config(), scratch)
    return contents(scratch)


def goes_on(scratch: Path, whole: Path) -> None:
    resumed, undisturbed = fresh(3), fresh()
    said: list[str] = []
    parts = train(resumed, CausalLM(), Counting(), config(), scratch, log=said.append)
    assert "resumed at step 4" in said
    once = train(undisturbed, CausalLM(), Counting(), config(), whole)
    assert same(resumed, undisturbed)
    assert list(parts.journal) == list(once.journal)


def test_a_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    before = stopped(tmp_path / "a")
    state = before["step-00000004/state.safetensors"]
    for size in (1000, len(state) - 1):
        with files_up_to(size), pytest.raises(OSError, match="too large") as caught:
            train(fresh(), CausalLM(), Counting(), config(checkpoint_seconds=1e-6), tmp_path / "a")
        assert caught.value.errno == errno.EFBIG
        assert contents(tmp_path / "a") == before | {"metrics.jsonl": (tmp_path / "a" / "metrics.jsonl").read_bytes()}
    goes_on(tmp_path / "a", tmp_path / "b")


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(_: object, path: Path) -> None:
    path.write_bytes(b"half")
    full()


@pytest.mark.parametrize(
    ("where", "what", "fails"),
    [(checkpoint, "write_tensors", half_written), (Path, "write_text", full), (os, "fsync", full)],
    ids=["tensors", "state", "flush"],
)
@pytest.mark.parametrize("moment", ["a later checkpoint", "the moment before the fall"])
def test_a_disk_that_is_full_at_any_point(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    what: str,
    fails: Callable[..., None],
    moment: str,
) -> None:
    before = stopped(tmp_path / "a")
    seconds = 1e-6 if moment == "a later checkpoint" else 1e6
    with monkeypatch.context() as patch:
        patch.setattr(where, what, fails)
        with pytest.raises(OSError, match="No space left"):
            train(fresh(), CausalLM(), Counting(), config(checkpoint_seconds=seconds), tmp_path / "a")
    now = contents(tmp_path / "a")
    assert now | {"metrics.jsonl": b""} == before | {"metrics.jsonl": b""}
    goes_on(tmp_path / "a", tmp_path / "b")


def test_a_run_says_so_in_one_line_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "products", lambda dtype: 1e11)
    command = ["run", str(SMALL), "--library", str(tmp_path), "--until"]
    pretrain = [*command, "pretrain", "--set", "pretrain.train.steps=6"]
    assert CliRunner().invoke(app, [*command, "pack"]).exit_code == 0
    with files_up_to(100_000):
        result = CliRunner().invoke(app, pretrain)
    assert result.exit_code == 1
    errors = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: the disk is full at ")
    assert errors[0].endswith("what is done is kept: free some space and run the same command again")
    assert "Traceback" not in result.output
    library = Library(tmp_path)
    assert list(library.artifacts("model")) == []
    assert all(problems == [] for _, problems in library.verify())
    again = CliRunner().invoke(app, pretrain)
    assert again.exit_code == 0, again.output
    assert len(list(library.artifacts("model"))) == 1
