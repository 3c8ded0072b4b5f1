"""The part of a block that thinks about each position by itself."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underlay.models.parts.linear import Linear

Activation = Literal["gelu", "gelu_tanh", "silu", "relu", "relu2"]
"""gelu: with the error function (arXiv:1606.08415); gelu_tanh: its approximation; silu: x sigmoid(x)
(arXiv:1702.03118); relu2: the square of relu (Primer, arXiv:2109.08668)."""


def relu2(x: Tensor) -> Tensor:
    """The square of what is positive."""
    return F.relu(x).square()


ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
    "relu2": relu2,
}


class MLP(nn.Module):
    """down(activation(up(x))) (arXiv:1706.03762, section 3.3)."""

    def __init__(self, width: int, hidden: int, activation: Activation, bias: bool = False) -> None:
        super().__init__()
        self.up = Linear(width, hidden, bias)
        self.down = Linear(hidden, width, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); returns the same shape."""
        return self.down(self.activation(self.up(x)))


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)); SwiGLU with silu, GeGLU with a gelu (arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int, activation: Activation, bias: bool = False) -> None:
        super().__init__()
        self.gate = Linear(width, hidden, bias)
        self.up = Linear(width, hidden, bias)
        self.down = Linear(hidden, width, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); returns the same shape."""
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    """A mixture of gated MLPs, of which each position uses a few (arXiv:1701.06538; softmax, then the best k).

    So that no expert is forgotten, their use is balanced by the loss of the Switch Transformer (arXiv:2101.03961,
    equation 4): experts times the sum over experts of (share of positions) x (mean probability), 1 at best.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Activation,
        experts: int,
        chosen: int,
        balance: float = 0.01,
    ) -> None:
        """Take `experts` MLPs, of which each position uses `chosen`; `balance` weighs the loss that balances them."""
        super().__init__()
        self.chosen, self.balance = chosen, balance
        self.router = Linear(width, experts)
        self.gate = nn.Parameter(torch.empty(experts, hidden, width))
        self.up = nn.Parameter(torch.empty(experts, hidden, width))
        self.down = nn.Parameter(torch.empty(experts, width, hidden))
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); returns the same shape."""
        flat = x.flatten(0, -2)
        probabilities = self.router(flat).softmax(-1, dtype=torch.float32)
        weights, picks = probabilities.topk(self.chosen, dim=-1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        result = torch.zeros_like(flat)
        for expert in range(len(self.gate)):
            rows, rank = (picks == expert).nonzero(as_tuple=True)
            mine = flat[rows]
            gate, up, down = (part[expert].to(x.dtype) for part in (self.gate, self.up, self.down))
            mine = F.linear(self.activation(F.linear(mine, gate)) * F.linear(mine, up), down)
            result.index_add_(0, rows, mine * weights[rows, rank, None])
        if self.training and self.balance and torch.is_grad_enabled():
            used = F.one_hot(picks, len(self.gate)).float().mean((0, 1))
            uneven = len(self.gate) * (used * probabilities.mean(0)).sum()
            result = _learn(result, uneven * (self.balance * len(flat)))
        return result.view_as(x)


def _learn(x: Tensor, loss: Tensor) -> Tensor:
    learned: Tensor = _Learn.apply(x, loss)  # type: ignore[no-untyped-call]
    return learned


class _Learn(torch.autograd.Function):
    """Passes `x` through and has `loss` learned from as if it were added to the summed loss of the batch."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, loss: Tensor) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        return gradients[0], torch.ones((), device=gradients[0].device)
