"""Decode steps as graphs: captured once, then replayed in one call in the place of hundreds of small kernels' launches.

What a graph reads and writes never moves or changes its shape, so steps are padded to buckets: rows and blocks of a row
in powers of two. Rows that only pad read and write the block after the spare one. A new graph has to give what the same
step gives without it; where it cannot be had or differs, this is said once and no graph is used from then on.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from underlay.generate.runner import BLOCK, Work
from underlay.models import Decoder
from underlay.models.parts import Experts

LEAST_BLOCKS = 8
"""Blocks of a row in the smallest bucket."""
KEPT = 32
"""Graphs at a time; the one that was not used for longest goes first."""
WARM = 2
"""Runs before a capture, in which libraries choose their kernels and take their memory."""

Step = Callable[[Tensor, Tensor], None]
"""Reads (rows, 2 + blocks) int64, each row a token, its place and its blocks; fills (rows, vocabulary) float32."""


class Capture(Protocol):
    """Makes steps that can be replayed."""

    def __call__(self, step: Step, inputs: Tensor, logits: Tensor) -> Callable[[], None]:
        """What does the step again on these very tensors. They hold valid inputs; raises RuntimeError if it cannot."""


class DecodeGraphs:
    """Runs works of one token each by graphs."""

    def __init__(
        self, step: Step, capture: Capture, context: int, vocabulary: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """dtype: the step computes in; context: most places that a work may have."""
        self._step, self._capture = step, capture
        self._most, self._vocabulary = -(-context // BLOCK), vocabulary
        self._tolerance, self._device = torch.finfo(dtype).eps ** 0.5, device
        self._kept: dict[tuple[int, int], tuple[Tensor, Callable[[], None]]] = {}  # what was used last comes last
        self._logits: dict[int, Tensor] = {}
        self._problem: str | None = None

    def describe(self) -> str:
        """Whether there are graphs, for people."""
        return "decode steps as graphs" if self._problem is None else f"no graphs, since {self._problem}"

    def run(self, works: Sequence[Work], spare: int) -> Tensor | None:
        """Logits (works, vocabulary), which the next run overwrites; None where the step has to be done without graphs.

        spare: a block that nobody writes to; the next one may be overwritten.
        """
        if self._problem is not None:
            return None
        rows = _power(len(works))
        needed = max(work.start for work in works) // BLOCK + 1
        blocks = max(needed, min(_power(max(needed, LEAST_BLOCKS)), self._most))
        padding = [[0, 0, spare + 1, *[spare] * (blocks - 1)]] * rows
        filled = [[work.tokens[0], work.start, *_padded(work.blocks, blocks, spare)] for work in works]
        # By way of numpy, which reads lists five times as fast: each step waits for this.
        feed = torch.from_numpy(np.array(filled + padding[len(works) :], np.int64))
        if (rows, blocks) not in self._kept:
            try:
                self._add(torch.tensor(padding), feed, len(works))
            except RuntimeError as error:
                self._give_up(str(error).splitlines()[0])
                return None
        else:
            inputs, replay = self._kept[rows, blocks] = self._kept.pop((rows, blocks))
            inputs.copy_(feed)
            replay()
        return self._logits[rows][: len(works)]

    def _add(self, padding: Tensor, feed: Tensor, works: int) -> None:
        """Capture the bucket of a step, and do the step by it. Raises RuntimeError where that cannot be or is wrong."""
        rows, width = padding.shape
        while len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]  # first, so that the new one finds its memory free
        if rows not in self._logits:
            self._logits[rows] = torch.empty(rows, self._vocabulary, device=self._device)
        # Captured on rows that only pad: what a graph made of its inputs at that moment would show below.
        inputs, logits = padding.to(self._device), self._logits[rows]
        replay = self._capture(self._step, inputs, logits)
        inputs.copy_(feed)
        replay()
        # Only now, so that the graph cannot live on keys and values that were written without it.
        eager = torch.empty_like(logits)
        self._step(feed.to(self._device), eager)
        found, expected = logits[:works], eager[:works]
        off = (found - expected).abs().amax(-1)
        if not bool((off <= self._tolerance * expected.abs().amax(-1)).all()):
            raise RuntimeError(f"they gave other logits: {float(off.max()):.2g} off in a step of {works}")
        self._kept[rows, width - 2] = inputs, replay

    def _give_up(self, problem: str) -> None:
        self._problem = problem
        self._kept.clear()
        self._logits.clear()
        warnings.warn(f"answers are written without CUDA graphs, since {problem}", RuntimeWarning, stacklevel=2)


class CudaCapture:
    """Captures on one CUDA device; all graphs share a pool of memory, as never two of them run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step, inputs: Tensor, logits: Tensor) -> Callable[[], None]:
        """See `Capture`."""
        here, aside = torch.cuda.current_stream(self._device), _side_stream(self._device)
        # A capture that fails leaves its own stream the current one; the outer context puts `here` back.
        with torch.cuda.device(self._device), torch.cuda.stream(here):
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(WARM):
                    step(inputs, logits)
            here.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on asking the device for memory.
            with torch.cuda.graph(graph, self._pool, aside, capture_error_mode="thread_local"):
                step(inputs, logits)
        return graph.replay


def cuda_capture(model: Decoder) -> Capture | None:
    """What captures a model's steps; None where it is not on CUDA, spread over processes, or a mixture of experts.

    Which rows an expert gets is read back by the host, for which no graph can wait.
    """
    weight = model.embedding.weight
    here = weight.device.type == "cuda" and type(weight.data) is torch.Tensor
    if not here or any(isinstance(module, Experts) for module in model.modules()):
        return None
    return CudaCapture(weight.device)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all engines: what libraries keep for each stream is never given back."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _power(count: int) -> int:
    """The power of two that holds so many."""
    return 1 << (count - 1).bit_length()


def _padded(blocks: Sequence[int], width: int, spare: int) -> list[int]:
    return [*blocks[:width], *[spare] * (width - len(blocks))]
