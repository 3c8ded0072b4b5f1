"""Muon for the matrices inside the blocks, AdamW for embeddings, norms and heads.

Muon orthogonalises each matrix's momentum by a polynomial iteration before it steps (Jordan et al. 2024,
"Muon: an optimizer for hidden layers in neural networks"; arXiv:2502.16982). Matrices of equal shape are stacked, so
that one batched product serves them all.
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from underlay.config import Config
from underlay.models import initial
from underlay.models.parts import computed


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


# For each iteration the odd quintic that brings all singular values nearest to one, given what the iterations before it
# leave (Polar Express, arXiv:2505.16932); the last one repeats.
_QUINTICS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)


def orthogonalize(matrices: Tensor, steps: int = 4, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Push all singular values towards one: (count, rows, columns) to the same shape, in `computed(dtype)`."""
    x = matrices.to(computed(dtype, matrices.device))
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # the margin keeps bfloat16's rounding below one
    for step in range(steps):
        a, b, c = _QUINTICS[min(step, len(_QUINTICS) - 1)]
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
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
    def step(self, lr: float, keep: Tensor) -> None:
        """Move every matrix by `lr` times its orthogonalised momentum; nothing changes where `keep` is False."""
        for shape, group in self.groups.items():
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            gradient = torch.where(keep, gradient, 0)
            buffer = self.buffers[shape].lerp_(gradient, (1 - self.momentum) * keep)
            # Stacks of matrices, such as experts, are stacked once more.
            update = orthogonalize(gradient.lerp_(buffer, self.momentum).flatten(0, -3)).float().view_as(buffer)
            # A tall matrix moves its outputs as much as a square one (Jordan et al. 2024).
            scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
            weights: list[Tensor] = list(group)
            if self.weight_decay:
                torch._foreach_mul_(weights, 1 - lr * self.weight_decay * keep)
            torch._foreach_add_(weights, list(update.mul_(keep).unbind()), alpha=-lr * scale)


class Optimizer:
    """Both halves behind one `step`."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if config.muon and p.ndim >= 2 and name.startswith("blocks.")]
        taken = {id(p) for p in matrices}
        self.muon = Muon(matrices, config.momentum, config.weight_decay)
        factors = initial.rates(model)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in named:
            if id(p) not in taken:
                decay = config.weight_decay if p.ndim >= 2 else 0.0
                groups.setdefault((factors[name], decay), []).append(p)
        self.adam = torch.optim.AdamW(
            [
                {"params": parameters, "factor": factor, "lr": config.adam_lr * factor, "weight_decay": decay}
                for (factor, decay), parameters in groups.items()
            ],
            lr=config.adam_lr,
            betas=config.betas,
            fused=True,
        )

    def step(self, factor: float, keep: Tensor) -> None:
        """Take one step at `factor` times the configured rates; nothing changes where `keep` (a scalar bool) is False.

        Nobody waits for `keep`: it may still be computed by the device.
        """
        self.muon.step(self.config.lr * factor, keep)
        for group in self.adam.param_groups:
            group["lr"] = self.config.adam_lr * group["factor"] * factor
        self.adam.found_inf = (~keep).float()  # type: ignore[attr-defined]  # where set, the fused kernel does nothing
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
