"""Learning from inputs that are moved where the loss grows fastest (FGM, Goodfellow et al., arXiv:1412.6572).

Tokens cannot be moved a little, their embeddings can (Miyato et al., arXiv:1605.07725). Of each row of a batch

    g = d loss / d x               x: the row's embedded tokens
    r = epsilon |x| g / |g|        the move; with several ascents: steps of 1.5 epsilon |x| / ascents along a fresh
                                   gradient each, within a ball of radius epsilon |x| (PGD, arXiv:1706.06083; FreeLB,
                                   arXiv:1909.11764)
    loss = (loss(x) + weight loss(x + r)) / (1 + weight)

|x| stands there so that epsilon means the same for every model, and cannot be escaped by larger embeddings.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from underlay.models import Batch, Decoder, Encoder
from underlay.train import Loss, Objective

Change = Callable[[Tensor], Tensor]
_OVERSHOOT = 1.5
"""Ascents together are longer than the way to the edge, so that they can turn and still arrive."""


@contextmanager
def embedded(model: nn.Module, change: Change) -> Iterator[None]:
    """Within it, what a model's embedding gives of tokens, (batch, time, width), is changed before it is read."""
    assert isinstance(model, Decoder | Encoder)
    handle = model.embedding.register_forward_hook(lambda _, __, rows: change(rows))
    try:
        yield
    finally:
        handle.remove()


def worst_move(objective: Objective, model: nn.Module, batch: Batch, epsilon: float, ascents: int = 1) -> Tensor:
    """Where to move a batch's embeddings, (batch, time, width) float32, so that the loss grows.

    Positions that the loss does not reach, such as padding, stay where they are. No parameter gets a gradient.
    """
    assert isinstance(model, Decoder | Encoder)
    with torch.no_grad():
        rows = model.embedding(batch.tokens).float()
    move = torch.zeros_like(rows)
    step = epsilon if ascents == 1 else _OVERSHOOT * epsilon / ascents
    for _ in range(ascents):
        gradient = _gradient(objective, model, batch, move)
        length = _length(rows * gradient.any(-1, keepdim=True))
        move = move + step * length * gradient / _length(gradient).clamp(min=torch.finfo(torch.float32).tiny)
        far = _length(move) / (epsilon * length).clamp(min=torch.finfo(torch.float32).tiny)
        move = move / far.clamp(min=1)
    return move


@dataclass(frozen=True)
class Adversarial:
    """Another objective, learned from the batch as it is and from its embeddings moved.

    Where nothing is learned, such as on held-out rows, it is the other objective alone. Metrics are those of the clean
    batch, and `attacked`: the loss of the moved one.
    """

    objective: Objective
    epsilon: float
    ascents: int = 1
    weight: float = 1.0

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Three passes or more: one for each ascent, one clean, one moved."""
        if not torch.is_grad_enabled():
            return self.objective(model, batch)
        move = worst_move(self.objective, model, batch, self.epsilon, self.ascents)
        clean = self.objective(model, batch)
        with embedded(model, lambda rows: rows + move.to(rows.dtype)):
            moved = self.objective(model, batch)
        loss = (clean.sum + self.weight * moved.sum) / (1 + self.weight)
        return Loss(loss, clean.count, {**clean.metrics, "attacked": moved.sum.detach()})


def _gradient(objective: Objective, model: nn.Module, batch: Batch, move: Tensor) -> Tensor:
    found: list[Tensor] = []

    def leaf(rows: Tensor) -> Tensor:
        assert not found, "a model embeds its tokens once in a pass"
        found.append((rows.detach() + move.to(rows.dtype)).requires_grad_())
        return found[0]

    with torch.enable_grad(), embedded(model, leaf):
        loss = objective(model, batch)
        return torch.autograd.grad(loss.sum, found[0])[0].float()


def _length(rows: Tensor) -> Tensor:
    """Of each row as one vector: (batch, 1, 1)."""
    return rows.flatten(1).norm(dim=1)[:, None, None]
