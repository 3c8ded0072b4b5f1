"""Muon's orthogonalisation against the singular value decomposition, and its step against the formula."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from underlay.train.muon import _QUINTICS, Muon, orthogonalize
from underlay.train.spread import Spread


def drawn(rows: int, columns: int, rank: int, seed: int, count: int = 2) -> Tensor:
    """Random float64 matrices (count, rows, columns) of a rank."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(count, rows, rank, generator=generator, dtype=torch.float64)
    return left @ torch.randn(count, rank, columns, generator=generator, dtype=torch.float64)


def muon(parameters: list[torch.nn.Parameter], momentum: float, weight_decay: float) -> Muon:
    spread = Spread(torch.nn.ParameterList(parameters))
    return Muon(spread, spread.pieces, momentum, weight_decay)


def lifted(values: Tensor, steps: int) -> Tensor:
    """What the iteration makes of singular values (count, n): the same odd quintics, one number at a time."""
    x = values / (1.02 * values.norm(dim=1, keepdim=True) + 1e-7)
    for step in range(steps):
        a, b, c = _QUINTICS[min(step, len(_QUINTICS) - 1)]
        x = a * x + b * x**3 + c * x**5
    return x


SIZES = st.sampled_from([(8, 8), (48, 16), (16, 48), (64, 3), (3, 64), (1, 20), (20, 1), (1, 1)])


@given(SIZES, st.integers(0, 1000), st.integers(1, 64), st.sampled_from([4, 5]))
def test_it_lifts_singular_values_and_keeps_their_directions(
    size: tuple[int, int], seed: int, rank: int, steps: int
) -> None:
    matrices = drawn(*size, min(rank, *size), seed)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.where(values > 1e-10 * values[:, :1], values, 0.0)  # of a lower rank: what is not there stays away
    expected = left @ torch.diag_embed(lifted(values, steps)) @ right
    found = orthogonalize(matrices.float(), steps, torch.float32).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("steps", "least", "most"), [(4, 0.43, 1.57), (5, 0.87, 1.13), (12, 1.0, 1.04)])
def test_what_it_lifts_them_to(steps: int, least: float, most: float) -> None:
    values = torch.linspace(0.002, 1, 20_000, dtype=torch.float64)
    found = lifted(torch.stack([values, (1 - values**2).sqrt()], dim=1), steps)[:, 0]
    assert least < found.min()
    assert found.max() < most


@given(SIZES, st.integers(0, 1000))
def test_with_more_steps_it_is_the_polar_factor(size: tuple[int, int], seed: int) -> None:
    matrices = drawn(*size, min(size), seed)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalize(matrices.float(), 12, torch.float32).double()
    error = torch.linalg.matrix_norm(found - left @ right, 2)
    assert (error[values[:, -1] > 1e-3 * values.norm(dim=1)] < 0.05).all()


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        *((scale, torch.float32) for scale in (1e-3, 1e-2, 1.0, 1e4, 1e12)),
        *((scale, torch.bfloat16) for scale in (2.0**-9, 1.0, 2.0**14, 2.0**40)),  # others would be rounded otherwise
    ],
)
def test_the_scale_does_not_matter(scale: float, dtype: torch.dtype) -> None:
    matrices = drawn(24, 40, 24, 3).float()
    torch.testing.assert_close(
        orthogonalize(matrices * scale, dtype=dtype), orthogonalize(matrices, dtype=dtype), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-13, 1e-30])
def test_next_to_nothing_is_no_direction(scale: float, dtype: torch.dtype) -> None:
    found = orthogonalize(drawn(24, 40, 24, 3).float() * scale, dtype=dtype).float()
    assert torch.isfinite(found).all()
    assert torch.linalg.matrix_norm(found, 2).max() < 0.1


def test_experts_are_stacks_of_matrices_of_their_own() -> None:
    stack = torch.nn.Parameter(torch.zeros(3, 12, 8))
    single = [torch.nn.Parameter(torch.zeros(12, 8)) for _ in range(3)]
    gradient = drawn(12, 8, 8, 5, 3).float()
    stack.grad = gradient.clone()
    for parameter, part in zip(single, gradient, strict=True):
        parameter.grad = part.clone()
    muon([stack], 0.9, 0.0).step(0.1, torch.tensor(True))
    muon(single, 0.9, 0.0).step(0.1, torch.tensor(True))
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in single]))


def test_steps_follow_nesterov_momentum_and_decay() -> None:
    """m = b m + (1 - b) g;  W = (1 - lr d) W - lr sqrt(max(1, rows / columns)) orth(b m + (1 - b) g)."""
    weight = torch.nn.Parameter(drawn(12, 8, 8, 6, 1)[0].float())
    expected, momentum = weight.detach().double(), torch.zeros(12, 8, dtype=torch.float64)
    optimizer = muon([weight], momentum=0.8, weight_decay=0.5)
    for step in range(4):
        gradient = drawn(12, 8, 8, 10 + step, 1)[0].float()
        weight.grad = gradient.clone()
        optimizer.step(0.1, torch.tensor(True))
        momentum = 0.8 * momentum + 0.2 * gradient.double()
        aim = orthogonalize((0.8 * momentum + 0.2 * gradient.double()).float()[None], dtype=torch.float32)[0].double()
        expected = (1 - 0.1 * 0.5) * expected - 0.1 * (12 / 8) ** 0.5 * aim
    torch.testing.assert_close(weight.detach().double(), expected, rtol=2e-2, atol=2e-2)
