"""Muon for the matrices inside the blocks, AdamW for embeddings, norms and heads."""

import torch
from torch import Tensor

from underlay.models import initial
from underlay.train.config import OptimizerConfig
from underlay.train.muon import Muon
from underlay.train.spread import Piece, Spread


class Optimizer:
    """Both halves behind one `step`."""

    def __init__(self, spread: Spread, config: OptimizerConfig, dtype: torch.dtype = torch.float32) -> None:
        """dtype: what Muon computes directions in; weights and momenta are float32."""
        self.config = config
        muon = [p for p in spread.pieces if config.muon and _is_matrix(p)]
        taken = {piece.name for piece in muon}
        self.muon = Muon(spread, muon, config.momentum, config.weight_decay, dtype)
        self._others = [piece for piece in spread.pieces if piece.name not in taken]
        factors = initial.rates(spread.model)
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for piece in self._others:
            decay = config.weight_decay if piece.local.ndim >= 2 else 0.0
            groups.setdefault((factors[piece.name], decay), []).append(piece.local)
        self.adam = torch.optim.AdamW(
            [
                {"params": tensors, "factor": factor, "lr": config.adam_lr * factor, "weight_decay": decay}
                for (factor, decay), tensors in groups.items()
            ],
            lr=config.adam_lr,
            betas=config.betas,
            fused=True,
        )
        for piece in self._others:  # from the start, so that a checkpoint has somewhere to go
            zeros = {name: torch.zeros_like(piece.local) for name in ("exp_avg", "exp_avg_sq")}
            self.adam.state[piece.local] = {"step": torch.zeros((), device=piece.local.device), **zeros}

    def step(self, factor: float, keep: Tensor) -> None:
        """Take one step at `factor` times the configured rates; nothing changes where `keep` (a scalar bool) is False.

        Nobody waits for `keep`: it may still be computed by the device.
        """
        self.muon.step(self.config.lr * factor, keep)
        for group in self.adam.param_groups:
            group["lr"] = self.config.adam_lr * group["factor"] * factor
        for piece in self._others:
            piece.local.grad = piece.gradient()
        self.adam.found_inf = (~keep).float()  # type: ignore[attr-defined]  # where set, the fused kernel does nothing
        self.adam.step()
        for piece in self._others:
            if piece.spread:
                piece.local.grad = None

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        tensors = {f"muon.{name}": tensor for name, tensor in self.muon.state().items()}
        for piece in self._others:
            for name, value in self.adam.state[piece.local].items():
                tensors[f"adam.{piece.name}.{name}"] = value if value.ndim == 0 else piece.named(value)
        return tensors


def _is_matrix(piece: Piece) -> bool:
    """Whether it is a matrix inside a block; the thin ones of a change of low rank have no singular values to spare."""
    return piece.local.ndim >= 2 and piece.name.startswith("blocks.") and ".lora_" not in piece.name
