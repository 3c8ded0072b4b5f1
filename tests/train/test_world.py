"""Many processes train as one: the same data in the same order, the same loss, whichever number of them goes on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from world_worker import work

from underlay.plan.machine import find_compiler
from underlay.train.world import World

HERE = Path(__file__).parent
STEPS = 9


def together(processes: int, *orders: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Let `torchrun` start a world that makes these runs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*command, str(HERE / "world_worker.py"), json.dumps(orders)],
        env={"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def order(folder: Path, name: str, shape: str = "llama", **more: Any) -> dict[str, Any]:
    train = {"steps": STEPS, "optimizer": {"weight_decay": 0.1}, "average": 0.9} | more.pop("train", {})
    return {"folder": str(folder / more.pop("within", name)), "name": name, "shape": shape, "train": train, **more}


def alone(order: dict[str, Any]) -> dict[str, Any]:
    """The same run in this process."""
    work(World(torch.device("cpu")), order)
    return result(order)


def result(order: dict[str, Any], rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(order["folder"], f"{order['name']}-{rank}.json").read_text())
    return found


def assert_alike(one: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    """Equal but for the order in which sums are taken."""
    assert [row["step"] for row in one] == [row["step"] for row in other]
    for mine, others in zip(one, other, strict=True):
        assert mine["tokens"] == others["tokens"]
        assert mine["loss"] == pytest.approx(others["loss"], rel=1e-6)
        assert mine["norm"] == pytest.approx(others["norm"], rel=1e-5)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Runs that two processes made together, by name."""
    folder = tmp_path_factory.mktemp("two")
    tensor = {"train": {"tensor_parallel": 2}}
    orders = [
        order(folder, "llama"),
        order(folder, "odd", "odd"),
        order(folder, "adamw", train={"optimizer": {"muon": False}, "recompute": True}),
        order(folder, "tensor", **tensor),
        order(folder, "tensor-qwen", "qwen", **tensor),
        order(folder, "stopped", within="changing", stop_at=3),
    ]
    if find_compiler():
        orders.append(order(folder, "compiled", train={"compile": True}))
    ended = together(2, *orders)
    assert ended.returncode == 0, ended.stderr
    return {order["name"]: order for order in orders}


@pytest.mark.parametrize("name", ["llama", "odd", "adamw", "tensor", "tensor-qwen", "compiled"])
def test_two_processes_train_as_one_does(name: str, two: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    if name not in two:
        pytest.skip("no C++ compiler on this machine")
    made, plain = two[name], {"tensor_parallel": 1, "recompute": False, "compile": False}
    by_itself = {**made, "folder": str(tmp_path), "train": made["train"] | plain}
    one, both = alone(by_itself), [result(made, rank) for rank in (0, 1)]
    assert_alike(both[0]["log"], one["log"])
    assert both[0]["log"] == both[1]["log"]
    assert both[0]["shapes"] == one["shapes"]
    assert both[1]["shapes"] == {}
    if not name.startswith("tensor"):  # who runs a block together reads the same rows
        assert sorted(both[0]["asked"][1:] + both[1]["asked"][1:]) == one["asked"][1:] == list(range(8 * STEPS))
    else:
        assert both[0]["asked"] == one["asked"]


def test_another_number_of_processes_goes_on_from_a_checkpoint(two: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    first = two["stopped"]
    assert result(first)["said"][-1] == "stopped"
    folder = Path(first["folder"]).parent
    by_itself = alone(order(folder, "second", within="changing", stop_at=6))
    last = order(folder, "last", within="changing")
    ended = together(2, last)
    assert ended.returncode == 0, ended.stderr
    undisturbed = alone(order(tmp_path, "undisturbed"))
    assert_alike(result(last)["log"], undisturbed["log"])
    assert "resumed at step 3" in by_itself["said"]
    assert "resumed at step 6" in result(last)["said"]
    read = by_itself["asked"] + [sample for rank in (0, 1) for sample in result(last, rank)["asked"]]
    assert sorted(read) == list(range(3 * 8, STEPS * 8))


def test_killed_together_and_started_again_is_never_killed(two: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    often = {"train": {"checkpoint_seconds": 1e-9}}
    killed = order(tmp_path, "killed", killed_at=8 * 5 + 1, **often)
    assert together(2, killed).returncode != 0
    again = order(tmp_path, "again", within="killed", **often)
    ended = together(2, again)
    assert ended.returncode == 0, ended.stderr
    assert any(line.startswith("resumed at step") for line in result(again)["said"])
    assert result(again)["hash"] == result(two["llama"])["hash"]
