"""One process of a world that trains: is told in JSON what to do, and writes down what it came to."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from test_train import Counting

from underlay.models import Batch, LlamaConfig
from underlay.models.families import AnyConfig
from underlay.models.qwen import QwenConfig
from underlay.progress import silent
from underlay.train import CausalLM, TrainConfig, train
from underlay.train.world import World, joined

SHAPES: dict[str, AnyConfig] = {
    "llama": LlamaConfig(vocabulary=40, context=16, width=32, depth=3, heads=4, kv_heads=2, hidden=48),
    # Nothing here can be halved evenly but heads: 7 hidden channels a head, 5 layers, 41 tokens.
    "odd": LlamaConfig(vocabulary=41, context=16, width=30, depth=3, heads=3, kv_heads=3, hidden=47, tied=False),
    "qwen": QwenConfig(vocabulary=40, context=16, width=32, depth=2, heads=4, kv_heads=2, hidden=48),
}


class Noted(Counting):
    """Writes down which samples were asked for; kills this world's first process while it reads a certain one."""

    def __init__(self, killed_at: int | None) -> None:
        super().__init__(weigh=True)
        self.killed_at, self.asked = killed_at, []

    def batch(self, first: int, count: int) -> Batch:
        self.asked += range(first, first + count)
        if self.killed_at in range(first, first + count):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(first, count)


def work(world: World, order: dict) -> None:
    torch.manual_seed(0)
    with world.weights():
        model = SHAPES[order["shape"]].build()
    source = Noted(order.get("killed_at"))
    settings = TrainConfig(
        **{"precision": "float32", "compile": False, "batch_rows": 8, "micro_rows": 4} | order["train"]
    )
    folder = Path(order["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    stop_at = order.get("stop_at")

    def progress(done: float, *_: object, **__: object) -> None:
        if stop_at == done and world.leads:
            os.kill(os.getpid(), signal.SIGTERM)

    said: list[str] = []
    outcome = None
    try:
        outcome = train(
            model, CausalLM(), source, settings, folder, progress if stop_at else silent, said.append, world=world
        )
    except KeyboardInterrupt:
        said.append("stopped")
    result: dict = {"asked": source.asked, "said": said}
    if outcome is not None:
        digest = hashlib.sha256()
        for _, tensor in sorted(outcome.weights.items()):
            digest.update(tensor.numpy().tobytes())
        result |= {
            "log": list(outcome.journal),
            "hash": digest.hexdigest(),
            "shapes": {name: list(tensor.shape) for name, tensor in outcome.weights.items()},
            "held": sum(piece.numel() for piece in model.parameters()),
        }
    (folder / f"{order['name']}-{world.rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    with joined() as world:
        for order in json.loads(sys.argv[1]):
            work(world, order)
