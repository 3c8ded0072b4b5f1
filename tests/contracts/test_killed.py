"""Contract 1, on the whole path: killed at random moments, a recipe ends with the same models as an undisturbed one."""

import json
import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from underlay.library import Library

RECIPE = Path(__file__).parents[2] / "recipes" / "small.yaml"
KILLS = 10
WATCHED = ("pretrain.train.examine_steps=7", 'pretrain.samples=["def "]', "adapt.train.examine_steps=5")


def start(library: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "underlay", "run", str(RECIPE), "--library", str(library)]
    command += [part for setting in WATCHED for part in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_ten_times_and_still_the_same(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    assert start(tmp_path / "calm").wait(timeout=600) == 0
    calm = Library(tmp_path / "calm")
    trained = max(datetime.fromisoformat(model.manifest.created) for model in calm.artifacts("model"))
    duration = (trained - began).total_seconds()  # what comes after may have to compile its kernels first

    rng = random.Random(0)
    disturbed = Library(tmp_path / "disturbed")
    interrupted = 0
    for kill in range(KILLS):
        process = start(disturbed.root)
        # Early at first: the machine may be much faster than it was in the calm run.
        time.sleep((rng.uniform(0.1, 0.3) if kill < KILLS / 2 else rng.uniform(0.2, 0.7)) * duration)
        interrupted += process.poll() is None
        process.kill()  # SIGKILL, unless it has ended by itself
        process.wait()
        assert [found for _, found in disturbed.verify() if found] == []
    assert interrupted >= 3, "the kills came too late to disturb anything"
    assert start(disturbed.root).wait(timeout=600) == 0

    assert {a.manifest.hash for a in calm.artifacts("model")} == {a.manifest.hash for a in disturbed.artifacts("model")}
    assert len(list(calm.artifacts("model"))) == 3
    assert [found for _, found in disturbed.verify() if found] == []
    assert list((disturbed.root / ".staging").iterdir()) == []


def test_killed_at_random_steps_and_in_the_midst_of_writing(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("killed_runs.py")), str(tmp_path), "40"]
    result = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    found = json.loads(result.stdout)
    assert found["disturbed"] == found["calm"]
    assert len(found["calm"]["log"]) == 30
    assert found["killed"] > 25
    assert found["steps"] == sorted(found["steps"]), "a step that was saved was lost"
    assert len(set(found["steps"])) > 12
