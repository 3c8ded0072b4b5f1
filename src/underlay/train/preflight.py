"""What is worth knowing before the first step: does the model fit, does all of it learn, is its loss what chance gives.

One row is run forward and backward. Nothing of it stays behind but, on a CPU, room for gradients.
"""

import math
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from underlay.errors import UserError
from underlay.models import Batch
from underlay.train.memory import forget_gradients
from underlay.train.objectives import Objective
from underlay.train.spread import Spread, here

_MARGIN = 1.3
"""What is held beyond the tensors that are counted: the allocator's slack, and tensors that live for a moment."""


@dataclass(frozen=True)
class Preflight:
    """What one row told."""

    parameters: int
    """Those that learn."""
    held: int
    """How many of them this process holds."""
    loss: float
    """Mean loss of the row, in nats a target."""
    supervised: float | None
    """Share of positions whose target counts; None where targets are not positions of a text."""
    unreached: tuple[str, ...]
    """Parameters without a gradient."""
    row_bytes: int
    """What a row keeps for its backward pass."""

    def needed(self, rows: int) -> int:
        """Bytes beyond the weights for steps of `rows` at once: gradients, two moments, and what rows keep."""
        return int(3 * 4 * self.held + _MARGIN * rows * self.row_bytes)


def inspect(spread: Spread, objective: Objective, batch: Batch) -> Preflight:
    """Run one row, the same in all processes. Its gradients are forgotten again (see `forget_gradients`)."""
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
    # What comes before a matrix that starts at zero gets its first gradient in the second step.
    late = [piece.name.endswith(".lora_a") for piece in spread.pieces]
    found = zip(spread.pieces, reached, late, strict=True)
    unreached = tuple(piece.name for piece, seen, waits in found if not seen and not waits)
    forget_gradients(model, spread.world.device)
    count = float(loss.count)
    return Preflight(
        sum(piece.parameter.numel() for piece in spread.pieces),
        sum(piece.local.numel() for piece in spread.pieces),
        float(loss.sum.detach()) / count if count else math.nan,
        count / batch.targets.numel() if _by_position(batch, count) else None,
        unreached,
        sum(kept.values()),
    )


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
