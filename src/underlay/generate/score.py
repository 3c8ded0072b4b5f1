"""How likely a model holds given tokens: the log-probability of each, given those before it.

Sequences longer than the context C are read in windows that move by half of it; each window scores only what no
window before it has, so every token is scored once, with at least C/2 tokens of context once so many came before it:

    tokens    t0 t1 t2 t3 t4 t5 t6 t7 ...             C = 4
    window 0  t0 t1 t2 t3             scores t1 t2 t3 t4
    window 1        t2 t3 t4 t5       scores             t5 t6
    window 2              t4 t5 t6 t7 scores                   t7 ...
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from underlay.generate.request import ParameterError
from underlay.generate.runner import Runner
from underlay.progress import Progress, silent

BATCH_TOKENS = 4096
"""Tokens read in one go: enough to fill the matrix units, little enough to stay near the caches."""


@dataclass(frozen=True)
class _Window:
    sequence: int
    start: int
    """Where the window begins to read."""
    end: int
    """Where it stops reading; the token at `end` is the last it scores."""
    first: int
    """The first place whose next token it scores."""


def windows(sequence: int, length: int, context: int) -> Iterator[_Window]:
    """Cut the sequence numbered `sequence`, of `length` tokens, into windows of at most `context`."""
    stride = max(context // 2, 1)
    start = done = 0
    while done < length - 1:
        end = min(start + context, length - 1)
        yield _Window(sequence, start, end, done)
        done, start = end, start + stride


def batches(work: Sequence[_Window]) -> Iterator[list[_Window]]:
    """Group windows of like length, so that little is padded, up to `BATCH_TOKENS` each."""
    batch: list[_Window] = []
    for window in sorted(work, key=lambda w: w.start - w.end):
        widest = batch[0].end - batch[0].start if batch else 0
        if batch and widest * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def score(
    runner: Runner, sequences: Sequence[Sequence[int]], vocabulary: int, context: int, progress: Progress = silent
) -> list[Tensor]:
    """Log-probabilities, in nats, of tokens 1 to n - 1 of each sequence of n tokens (usually BOS first).

    Returns one tensor (n - 1,) float32 a sequence. Raises ParameterError where a sequence is empty or holds an id the
    model does not have.
    """
    tensors = [torch.as_tensor(sequence, dtype=torch.int64) for sequence in sequences]
    for index, tensor in enumerate(tensors):
        if len(tensor) == 0:
            raise ParameterError("token_lists", f"sequence {index} is empty; start it with BOS")
        if tensor.min() < 0 or tensor.max() >= vocabulary:
            raise ParameterError("token_lists", f"sequence {index} holds an id outside 0..{vocabulary - 1}")
    results = [torch.empty(len(tensor) - 1) for tensor in tensors]
    work = [w for index, tensor in enumerate(tensors) for w in windows(index, len(tensor), context)]
    total, done = sum(map(len, results)), 0
    for batch in batches(work):
        found = runner.likelihoods([tensors[w.sequence][w.start : w.end + 1].tolist() for w in batch])
        for w, scores in zip(batch, found, strict=True):
            results[w.sequence][w.first : w.end] = scores[w.first - w.start :]
            done += w.end - w.first
        progress(done, total)
    return results
