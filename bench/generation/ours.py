"""Underlay's engine, as the server uses it: requests are submitted, then `step` moves all of them."""

import time
from pathlib import Path
from typing import Any

from generation.turns import Rows, Tick, What

SETTINGS = ("bfloat16", "float32", "int8", "int4")


class Ours:
    """One model in one precision."""

    def __init__(self, what: What) -> None:
        import torch

        from underlay.generate import Engine
        from underlay.models.storage import load_decoder
        from underlay.text import Tokenizer

        folder = Path(what.model)
        self.engine: Any = Engine(
            load_decoder(folder),
            Tokenizer.load(folder),
            slots=what.batch,
            precision=what.setting,
            threads=what.threads,
            step_tokens=2048,  # as many as llama.cpp and OpenVINO read together here
        )
        self.facts = {"torch": torch.__version__, "threads": what.threads}

    def generate(self, prompts: Rows, count: int, tick: Tick, seconds: float) -> None:
        """See `Side`."""
        from underlay.generate import Request, Sampling

        end = time.perf_counter() + seconds
        greedy = Sampling(0.0)
        handles = [self.engine.submit(Request(row, count, greedy, stop_ids=frozenset())) for row in prompts]
        numbers = {id(handle): row for row, handle in enumerate(handles)}
        open_ones = len(handles)
        while open_ones:
            came = []
            for event in self.engine.step():
                if event.id is not None:
                    came.append(numbers[id(event.handle)])
                open_ones -= event.finish is not None
            tick(came)
            if time.perf_counter() > end:
                for handle in handles:
                    handle.cancel()

    def score(self, rows: Rows) -> float:
        """See `Side`."""
        found = self.engine.score(rows)
        return -float(sum(row.sum() for row in found)) / sum(len(row) for row in found)


def open_side(what: What) -> Ours:
    """Load it."""
    return Ours(what)
