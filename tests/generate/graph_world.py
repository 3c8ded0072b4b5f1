"""What tests of graphs share: something that stands in for CUDA's, and requests that come and go."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from underlay.generate import Engine, Request, Sampling
from underlay.generate.graphs import Step
from underlay.generate.runner import Runner
from underlay.generate.threads import one_thread
from underlay.models import Decoder
from underlay.text import Tokenizer

UNCAPTURABLE = ("_local_scalar_dense", "lift_fresh", "masked_select", "nonzero", "unique")


class OnDevice(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU, or the GPU for the host, on a CPU too."""

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if any(name in str(function) for name in UNCAPTURABLE):
            raise RuntimeError(f"{function} cannot be captured")
        return function(*given, **(named or {}))


class Replays:
    """Does each step again, with the inputs that lie there, and leaves nothing that the next step could live on."""

    def __init__(self) -> None:
        self.captured: list[tuple[int, int]] = []
        """(rows, blocks)"""
        self.replayed: list[tuple[int, int]] = []
        self._logits: list[Tensor] = []

    def __call__(self, step: Step, inputs: Tensor, logits: Tensor) -> Callable[[], None]:
        bucket = len(inputs), inputs.shape[1] - 2
        self.captured.append(bucket)
        self._logits.append(logits)

        def replay() -> None:
            for theirs in self._logits:
                theirs.fill_(float("nan"))
            with OnDevice():
                step(inputs, logits)
            inputs.fill_(-(10**9))
            self.replayed.append(bucket)

        with OnDevice():
            step(inputs, logits)
        return replay


@one_thread()
def come_and_go(model: Decoder, tokenizer: Tokenizer, runner: Runner, seed: int, greedy: bool = False) -> list[Any]:
    """What becomes of some requests of which some are cancelled, with little memory."""
    rng = random.Random(seed)
    slots, context = rng.choice([1, 3, 5, 9]), model.config.context
    memory = runner.block_bytes * rng.choice([context // 16 + 2, slots * context // 16])
    engine = Engine(model, tokenizer, slots, memory=memory, step_tokens=rng.choice([7, 64, 512]), runner=runner)
    handles = []
    for number in range(12):
        prompt = [rng.randrange(7, tokenizer.size) for _ in range(rng.choice([1, 2, 17, 60, 120]))]
        sampling = Sampling(0 if greedy else rng.choice([0, 0.7, 1.2]), top_k=rng.choice([None, 20]), seed=number)
        count = rng.choice([1, 5, 30, 70])
        handles.append(engine.submit(Request(prompt, count, sampling, stop_ids=frozenset())))
        for _ in range(rng.choice([0, 1, 8])):
            engine.step()
        if rng.random() < 0.1:
            handles[rng.randrange(len(handles))].cancel()
    while engine.busy:
        engine.step()
    engine.invariants()
    assert torch.isfinite(runner.likelihoods([[1, 2, 3]])[0]).all()  # others may use the model as well
    return [(handle.finish, handle.ids) for handle in handles]
