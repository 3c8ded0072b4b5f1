"""Muon for the matrices inside the blocks, AdamW for embeddings, norms and heads.

Muon orthogonalises each matrix's momentum by a Newton-Schulz iteration before it steps (Jordan et al. 2024,
"Muon: an optimizer for hidden layers in neural networks"; arXiv:2502.16982). Matrices of equal shape are stacked, so
that one batched product serves them all.
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from underlay.config import Config


class OptimizerConfig(Config):
    """How far each step goes."""

    lr: float = Field(default=0.02, gt=0)
    """Muon's rate: the spectral size of each step on a square matrix."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Of Muon (Nesterov)."""
    adam_lr: float = Field(default=0.003, gt=0)
    """AdamW's rate for embeddings, norms and heads."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of first and second moments."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of matrices, times the rate of the step."""
    muon: bool = True
    """Use Muon for the blocks' matrices; otherwise AdamW, at `adam_lr`, for everything."""


# Quintic coefficients that lift small singular values fastest while keeping all near one (Jordan et al. 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Push all singular values towards one: (count, rows, columns) to the same shape, in `dtype`."""
    a, b, c = _QUINTIC
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalised, for matrices; state is one tensor a shape."""

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float, weight_decay: float) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        self.groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for parameter in parameters:
            self.groups.setdefault(tuple(parameter.shape), []).append(parameter)
        self.buffers = {
            shape: torch.zeros(len(group), *shape, device=group[0].device) for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every matrix by `lr` times its orthogonalised momentum."""
        for shape, group in self.groups.items():
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            buffer = self.buffers[shape].lerp_(gradient, 1 - self.momentum)
            update = orthogonalize(gradient.lerp_(buffer, self.momentum)).float()
            # A tall matrix moves its outputs as much as a square one (Jordan et al. 2024).
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            weights: list[Tensor] = list(group)
            torch._foreach_mul_(weights, 1 - lr * self.weight_decay)
            torch._foreach_add_(weights, list(update.unbind()), alpha=-lr * scale)


class Optimizer:
    """Both halves behind one `step`."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if config.muon and p.ndim == 2 and name.startswith("blocks.")]
        taken = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in taken]
        self.muon = Muon(matrices, config.momentum, config.weight_decay)
        decayed = [p for p in others if p.ndim >= 2]
        plain = [p for p in others if p.ndim < 2]
        self.adam = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.adam_lr,
            betas=config.betas,
            fused=True,
        )

    def step(self, factor: float) -> None:
        """Take one step at `factor` times the configured rates."""
        self.muon.step(self.config.lr * factor)
        for group in self.adam.param_groups:
            group["lr"] = self.config.adam_lr * factor
        self.adam.step()

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        tensors = {f"muon.{'x'.join(map(str, shape))}": t for shape, t in self.muon.buffers.items()}
        for index, entry in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in entry.items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up a state that `state` gave."""
        for shape, buffer in self.muon.buffers.items():
            buffer.copy_(tensors[f"muon.{'x'.join(map(str, shape))}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, _, rest = key.partition(".")
            if owner == "adam":
                index, _, name = rest.partition(".")
                state.setdefault(int(index), {})[name] = value
        self.adam.load_state_dict({"state": state, "param_groups": self.adam.state_dict()["param_groups"]})
