"""Muon: momentum whose singular values are all made alike.

It orthogonalises each matrix's momentum by a polynomial iteration before it steps (Jordan et al. 2024, "Muon: an
optimizer for hidden layers in neural networks"; arXiv:2502.16982). Matrices of equal shape are stacked, so that one
batched product serves them all. Where matrices are spread over processes, each process puts some of them together,
orthogonalises those, and sends the pieces back.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from underlay.train.spread import Piece, Spread

# For each iteration the odd quintic that brings all singular values nearest to one, given what the iterations before it
# leave (Polar Express, arXiv:2505.16932); the last one repeats.
_QUINTICS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)


def orthogonalize(matrices: Tensor, steps: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    """Push all singular values towards one: (count, rows, columns) to the same shape, in `dtype`."""
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # the margin keeps bfloat16's rounding below one
    for step in range(steps):
        a, b, c = _QUINTICS[min(step, len(_QUINTICS) - 1)]
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalised, for matrices; those of one shape, which lie alike, are one stack."""

    def __init__(
        self,
        spread: Spread,
        pieces: Iterable[Piece],
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """dtype: what directions are computed in."""
        self.spread, self.momentum, self.weight_decay, self.dtype = spread, momentum, weight_decay, dtype
        alike: dict[object, list[Piece]] = {}
        for piece in pieces:
            alike.setdefault((piece.parameter.shape, *piece.dims.items()), []).append(piece)
        self.stacks = [(group, torch.stack([torch.zeros_like(p.local) for p in group])) for group in alike.values()]
        """Pieces that are alike, and their momenta: (count, *piece)."""

    @torch.no_grad()
    def step(self, lr: float, keep: Tensor) -> None:
        """Move every matrix by `lr` times its orthogonalised momentum; nothing changes where `keep` is False."""
        for group, momenta in self.stacks:
            found = [piece.gradient() for piece in group]
            gradient = torch.stack(
                [torch.zeros_like(m) if g is None else g for g, m in zip(found, momenta, strict=True)]
            )
            gradient = torch.where(keep, gradient, 0)
            momenta.lerp_(gradient, (1 - self.momentum) * keep)
            whole = self.spread.gathered(gradient.lerp_(momenta, self.momentum), group[0])
            # Stacks of matrices, such as experts, are stacked once more.
            update = orthogonalize(whole.flatten(0, -3), dtype=self.dtype).float().view_as(whole)
            update = self.spread.scattered(update, momenta, group[0])
            # A tall matrix moves its outputs as much as a square one (Jordan et al. 2024).
            rows, columns = group[0].parameter.shape[-2:]
            weights: list[Tensor] = [piece.local for piece in group]
            if self.weight_decay:
                torch._foreach_mul_(weights, 1 - lr * self.weight_decay * keep)
            torch._foreach_add_(weights, list(update.mul_(keep).unbind()), alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def state(self) -> dict[str, Tensor]:
        """The momenta, by the names of the matrices."""
        return {
            piece.name: piece.named(momentum)
            for group, momenta in self.stacks
            for piece, momentum in zip(group, momenta.unbind(), strict=True)
        }
