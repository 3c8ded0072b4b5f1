"""A recipe that `torchrun` starts: all processes train, one of them speaks and writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from underlay.library import Library

ROOT = Path(__file__).parents[2]


def started(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    alone = [sys.executable]
    return subprocess.run(
        [*(torchrun if processes > 1 else alone), "-m", "underlay", "run", *arguments],
        env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_all_processes_train_and_one_speaks(tmp_path: Path) -> None:
    settings = (
        "train.steps=6",
        "train.examine_steps=2",
        "train.average=0.5",
        "train.precision=float32",
        "samples=['def ', 'import ']",
    )
    recipe = (str(ROOT / "recipes" / "small.yaml"), "--until", "pretrain", "--json")
    recipe += tuple(part for setting in settings for part in ("--set", f"pretrain.{setting}"))
    made = {}
    for processes in (2, 1):
        folder = tmp_path / str(processes)
        ended = started(processes, *recipe, "--library", str(folder))
        assert ended.returncode == 0, ended.stderr
        reference = json.loads(ended.stdout)["pretrain"]  # one object: one process printed it
        made[processes] = Library(folder).find(reference)
        assert ended.stderr.count("[6/12] pretrain") == 1
        assert ("2 processes" in ended.stderr) == (processes == 2)
        assert not list((folder / ".staging").iterdir())
    one, two = made[1].manifest, made[2].manifest
    assert one.metrics["loss"] == pytest.approx(two.metrics["loss"], rel=1e-6)
    assert one.metrics["heldout_loss"] == pytest.approx(two.metrics["heldout_loss"], rel=1e-6)
    assert one.key == two.key
    files = [{file.path for file in manifest.files if not file.path.startswith("resume/")} for manifest in (one, two)]
    assert files[0] == files[1]
    again = started(2, *recipe, "--library", str(tmp_path / "2"))
    assert json.loads(again.stdout)["pretrain"] == two.reference
    assert "reused" in again.stderr
    longer = ("--set", f"pretrain.extend={two.reference}", "--set", "pretrain.train.steps=12")
    extended = started(1, *recipe, *longer, "--library", str(tmp_path / "2"))  # what two kept, one takes up
    assert extended.returncode == 0, extended.stderr
    assert "goes on from" in extended.stderr


def test_what_learns_from_its_own_answers_is_made_by_one_process(tmp_path: Path) -> None:
    quick = ("--set", "pretrain.train.steps=2", "--set", "adapt.train.steps=2", "--until", "reinforce", "--json")
    ended = started(2, str(ROOT / "recipes" / "small.yaml"), *quick, "--library", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    library = Library(tmp_path)
    made = {stage: library.find(reference) for stage, reference in json.loads(ended.stdout).items()}
    assert made["reinforce"].manifest.metrics["steps"] == 2
    before, behind = ended.stderr.split("[9/12] reinforce")
    assert "2 processes" in before
    assert "2 processes" not in behind


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    wrong = ("--set", "pretrain.train.tensor_parallel=3", "--set", "pretrain.train.steps=6")
    ended = started(2, str(ROOT / "recipes" / "small.yaml"), *wrong, "--library", str(tmp_path))
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert said == ["error: train.tensor_parallel 3 does not divide the 2 processes of this run"]
