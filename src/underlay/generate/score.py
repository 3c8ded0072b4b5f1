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
from underlay.models import Decoder
from underlay.progress import Progress, silent

BATCH_TOKENS = 4096
"""Tokens read in one go: enough to fill the matrix units, little enough to stay near the caches."""
LOGIT_ROWS = 512
"""Positions whose logits exist at the same time."""


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


@torch.inference_mode()
def score(
    model: Decoder, sequences: Sequence[Sequence[int]], dtype: torch.dtype, progress: Progress = silent
) -> list[Tensor]:
    """Log-probabilities, in nats, of tokens 1 to n - 1 of each sequence of n tokens (usually BOS first).

    Returns one tensor (n - 1,) float32 a sequence. Raises ParameterError where a sequence is empty or holds an id the
    model does not have.
    """
    config = model.config
    device = model.embedding.weight.device
    tensors = [torch.as_tensor(sequence, dtype=torch.int64) for sequence in sequences]
    for index, tensor in enumerate(tensors):
        if len(tensor) == 0:
            raise ParameterError("token_lists", f"sequence {index} is empty; start it with BOS")
        if tensor.min() < 0 or tensor.max() >= config.vocabulary:
            raise ParameterError("token_lists", f"sequence {index} holds an id outside 0..{config.vocabulary - 1}")
    results = [torch.empty(len(tensor) - 1) for tensor in tensors]
    work = [w for index, tensor in enumerate(tensors) for w in windows(index, len(tensor), config.context)]
    total, done = sum(map(len, results)), 0
    for batch in batches(work):
        widest = max(w.end - w.start for w in batch)
        tokens = torch.zeros(len(batch), widest, dtype=torch.int64)
        for row, w in enumerate(batch):
            tokens[row, : w.end - w.start] = tensors[w.sequence][w.start : w.end]
        # Attention is causal: what pads a row on the right changes nothing before it.
        hidden = model.hidden(tokens.to(device), dtype=dtype)
        kept = torch.cat([hidden[row, w.first - w.start : w.end - w.start] for row, w in enumerate(batch)])
        targets = torch.cat([tensors[w.sequence][w.first + 1 : w.end + 1] for w in batch]).to(device)
        found = _log_probabilities(model, kept, targets).cpu()
        row = 0
        for w in batch:
            results[w.sequence][w.first : w.end] = found[row : (row := row + w.end - w.first)]
        done += row
        progress(done, total)
    return results


def _log_probabilities(model: Decoder, hidden: Tensor, targets: Tensor) -> Tensor:
    """hidden: (rows, width); targets: (rows,); returns (rows,) float32."""
    found = torch.empty(len(targets), device=targets.device)
    for start in range(0, len(targets), LOGIT_ROWS):
        part = slice(start, start + LOGIT_ROWS)
        logits = model.logits(hidden[part]).float()
        found[part] = logits.gather(-1, targets[part, None])[:, 0] - logits.logsumexp(-1)
    return found
