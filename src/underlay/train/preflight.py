"""What is worth knowing before the first step: does the model fit, does all of it learn, is its loss what chance gives.

One row is run forward and backward, and more only where that one does not reach everything: an answer that earned what
all others of its group did teaches nothing, and an expert that no token of a row asked for learns nothing of it.
Nothing of them stays behind but, on a CPU, room for gradients.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from underlay.errors import UserError
from underlay.models import Batch
from underlay.train.memory import forget_gradients
from underlay.train.objectives import Loss, Objective
from underlay.train.spread import Spread, here

_MARGIN = 1.3
"""What is held beyond the tensors that are counted: the allocator's slack, and tensors that live for a moment."""
MOST_ROWS = 32
"""Rows that are looked at until every parameter has had a gradient."""


@dataclass(frozen=True)
class Preflight:
    """What the first rows told."""

    parameters: int
    """Those that learn."""
    held: int
    """How many of them this process holds."""
    loss: float
    """Mean loss of the first row, in nats a target."""
    supervised: float | None
    """Share of positions whose target counts; None where targets are not positions of a text."""
    unreached: tuple[str, ...]
    """Parameters without a gradient from any row that was looked at; none where `silent`."""
    silent: bool
    """Whether no parameter had one: then nothing is known of what can learn."""
    row_bytes: int
    """What a row keeps for its backward pass, the largest of them."""

    def needed(self, rows: int) -> int:
        """Bytes beyond the weights for steps of `rows` at once: gradients, two moments, and what rows keep."""
        return int(3 * 4 * self.held + _MARGIN * rows * self.row_bytes)


def inspect(spread: Spread, objective: Objective, rows: Iterable[Batch]) -> Preflight:
    """Run rows, each a batch, the same in all processes, until every parameter has had a gradient or none are left.

    Their gradients are forgotten again (see `forget_gradients`).
    """
    kept = 0
    first: tuple[Loss, Batch] | None = None
    # What comes before a matrix that starts at zero gets its first gradient in the second step.
    waiting = {piece.name for piece in spread.pieces if not piece.name.endswith(".lora_a")}
    everything = len(waiting)
    for batch in rows:
        loss, row_bytes, reached = _run(spread, objective, batch)
        first, kept, waiting = first or (loss, batch), max(kept, row_bytes), waiting - reached
        if not waiting:
            break
    assert first is not None, "there is a row at least"
    loss, batch = first
    silent, count = len(waiting) == everything, float(loss.count)
    return Preflight(
        sum(piece.parameter.numel() for piece in spread.pieces),
        sum(piece.local.numel() for piece in spread.pieces),
        float(loss.sum.detach()) / count if count else math.nan,
        count / batch.targets.numel() if _by_position(batch, count) else None,
        () if silent else tuple(piece.name for piece in spread.pieces if piece.name in waiting),
        silent,
        kept,
    )


def _run(spread: Spread, objective: Objective, batch: Batch) -> tuple[Loss, int, set[str]]:
    """The loss of a row, the bytes that it keeps for the pass back, and the names of what it reaches."""
    model = spread.model
    weights = {piece.local.untyped_storage().data_ptr() for piece in spread.pieces}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter):  # one that was put together for a moment
            return tensor
        storage = here(tensor.detach()).untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(model, batch)
    loss.sum.backward()  # type: ignore[no-untyped-call]
    gradients = [piece.gradient() for piece in spread.pieces]
    reached = spread.world.most(*(gradient is not None and bool(gradient.any()) for gradient in gradients))
    forget_gradients(model, spread.world.device)
    names = {piece.name for piece, seen in zip(spread.pieces, reached, strict=True) if seen}
    return loss, sum(kept.values()), names


def _by_position(batch: Batch, count: float) -> bool:
    whole = batch.targets.shape == batch.tokens.shape
    return whole and count == (batch.targets.numel() if batch.weights is None else float(batch.weights.sum()))


def fitting(found: Preflight, rows: int, device: torch.device) -> int:
    """How many rows, `rows` or a half, a quarter ... of them, go through the model at once on this machine.

    Raises UserError where not even one does.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    fit = rows
    while found.needed(fit) > free and fit % 2 == 0:
        fit //= 2
    if found.needed(fit) > free:
        raise UserError(
            f"training needs about {found.needed(fit) / 2**30:.1f} GiB for {found.parameters:,} parameters and {fit} "
            f"rows at once, {free / 2**30:.1f} GiB are free; take a smaller model, or lower micro_rows or context"
        )
    return fit
