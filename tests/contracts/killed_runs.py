"""Trains a tiny model while it is killed at one random moment after the other; prints what became of it as JSON.

Each attempt is a fork that ends itself by SIGKILL in the k-th of what can be torn apart: reading a batch, writing half
of the tensors, flushing, renaming, removing. Nothing is computed before the forks, so no thread is lost in them.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # an optimizer would import it in each fork

from underlay.models import Batch, LlamaConfig
from underlay.train import CausalLM, TrainConfig, checkpoint, stable, train
from underlay.train.schedule import ScheduleConfig

SHAPE = LlamaConfig(vocabulary=40, context=16, width=16, depth=1, heads=1, kv_heads=1, hidden=32)
RUN = TrainConfig(
    steps=30,
    batch_rows=2,
    micro_rows=1,
    average=0.9,
    compile=False,
    precision="float32",
    schedule=ScheduleConfig(warmup_steps=2, decay=0.5),
    checkpoint_seconds=1e-6,
)


class Counting:
    """Rows that count upwards from a start that their number gives."""

    def batch(self, first: int, count: int) -> Batch:
        starts = torch.tensor([(sample * 7919) % 40 for sample in range(first, first + count)])
        tokens = (starts[:, None] + torch.arange(17)) % 40
        return Batch(tokens[:, :-1], tokens[:, 1:])


def attempt(scratch: Path) -> dict[str, Any]:
    """Train from whatever is there; what the model and its folder are in the end."""
    torch.manual_seed(0)
    model = SHAPE.build()
    outcome = train(model, CausalLM(), Counting(), RUN, scratch)
    weights = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values()))
    folder = scratch.with_name(scratch.name + "-model")
    folder.mkdir()
    stable.publish(scratch, folder)
    kept = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "resume").iterdir()}
    return {"weights": weights.hexdigest(), "log": list(outcome.journal), "kept": kept}


def doomed(moment: int, scratch: Path) -> None:
    """The same, killed at the `moment`-th chance."""
    passed = 0

    def chance(before: Callable[..., object], after: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def torn(*arguments: Any, **named: Any) -> Any:
            nonlocal passed
            passed += 1
            if passed == moment:
                before(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return after(*arguments, **named) if after else None

        return torn

    def half(_: object, path: Path) -> None:
        path.write_bytes(b"half")

    def nothing(*_: object) -> None: ...

    Counting.batch = chance(nothing, Counting.batch)  # type: ignore[method-assign]
    checkpoint.write_tensors = chance(half, checkpoint.write_tensors)  # type: ignore[attr-defined]
    os.fsync = chance(nothing, os.fsync)
    Path.rename = chance(nothing, Path.rename)  # type: ignore[method-assign]
    shutil.rmtree = chance(nothing, shutil.rmtree)  # type: ignore[assignment]
    attempt(scratch)


def main(folder: Path, kills: int) -> None:
    """Kill, then finish, and do the same without kills."""
    rng = random.Random(0)
    killed, steps = 0, []
    for _ in range(kills):
        moment = rng.randrange(1, 25)
        process = os.fork()
        if process == 0:
            doomed(moment, folder / "disturbed")
            os._exit(0)
        killed += os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        newest = checkpoint.newest(folder / "disturbed")
        steps.append(int(newest.name.removeprefix("step-")) if newest else 0)
    found = {"killed": killed, "steps": steps, "disturbed": attempt(folder / "disturbed")}
    json.dump(found | {"calm": attempt(folder / "calm")}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
