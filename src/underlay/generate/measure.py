"""How fast an engine reads and writes here, for people who ask which way their model takes."""

import time
from dataclasses import dataclass

from underlay.errors import UserError
from underlay.generate.engine import Engine
from underlay.generate.request import Request, Sampling


@dataclass(frozen=True)
class Speed:
    """Tokens a second."""

    reads: float
    """Of one prompt, half as long as the context."""
    writes: float
    """Of one answer to it."""
    together: float
    """Of as many answers as there are slots, together."""


def measure(engine: Engine) -> Speed:
    """Answer some requests, in a second or a few; the engine must have nothing else to do.

    Raises UserError where the model gives no answer.
    """
    length = max(1, engine.context // 2)
    wanted = max(1, min(32, engine.context - length))
    # Any tokens do: how long they take does not depend on which they are.
    prompt = [place % 50 for place in range(length)]
    _timed(engine, prompt, wanted, 1)
    (reads, writes), (_, together) = _timed(engine, prompt, wanted, 1), _timed(engine, prompt, wanted, engine.slots)
    return Speed(reads, writes, together)


def _timed(engine: Engine, prompt: list[int], wanted: int, count: int) -> tuple[float, float]:
    """Tokens read and tokens written a second."""
    engine.scheduler.pool.forget()
    requests = Request(prompt, wanted, Sampling(0), stop_ids=frozenset()).choices(count)
    handles = [engine.submit(request) for request in requests]
    start = time.perf_counter()
    while not all(handle.ids or handle.finish for handle in handles):
        engine.step()
    read, before = time.perf_counter(), sum(len(handle.ids) for handle in handles)
    while engine.busy:
        engine.step()
    for handle in handles:
        if handle.error is not None:
            raise UserError(f"the answer failed: {handle.error}")
    written = sum(len(handle.ids) for handle in handles) - before
    return len(prompt) / (read - start), written / max(time.perf_counter() - read, 1e-9)
