"""Losses of preferences against published and hand-made values, and against what they are for."""

import math

import pytest
import torch
from torch import tensor

from underlay.adapt.preference import losses

DELTA = tensor([0.0, 10.0, 20.0])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (losses.dpo(DELTA, 0.1), [0.693147, 0.313262, 0.126928]),
        (losses.dpo(DELTA, 0.1, 0.1), [0.693147, 0.413262, 0.326928]),
        (losses.ipo(DELTA, 0.1), [25, 25, 225]),
        (losses.hinge(DELTA, 0.1), [1, 0, 0]),
        (losses.bradley_terry(tensor([0.0, 1.0, 2.0]), tensor([0.0, 0.0, 0.0])), [0.693147, 0.313262, 0.126928]),
        (losses.bradley_terry(tensor([3.0]), tensor([1.0]), margin=1.0), [0.313262]),
        (losses.bradley_terry(tensor([3.0]), tensor([1.0]), margin=1.0, centring=0.01), [0.473262]),
    ],
)
def test_golden_values(found: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)


def test_kto_weighs_what_is_good_and_what_is_bad() -> None:
    # By hand: beta (ratio - point) is 1, so good answers cost sigmoid(-1) and bad ones sigmoid(1).
    ratio, point = tensor([12.0, 12.0]), tensor([2.0, 2.0])
    found = losses.kto(ratio, tensor([True, False]), point, 0.1, desirable=2.0, undesirable=3.0)
    torch.testing.assert_close(found, tensor([2 * 0.268941, 3 * 0.731059]), rtol=0, atol=1e-5)


def test_ktos_point_is_never_negative_and_takes_no_gradient() -> None:
    mismatched = tensor([[1.0, 3.0], [-5.0, 1.0]], requires_grad=True)
    point = losses.reference_point(mismatched)
    assert point.tolist() == [[2.0], [0.0]]
    ratio = tensor([0.0, 0.0], requires_grad=True)
    losses.kto(ratio, tensor([True, False]), mismatched[:, 0], 0.1).sum().backward()
    assert mismatched.grad is None
    assert ratio.grad is not None
    assert ratio.grad[0] < 0 < ratio.grad[1]


@pytest.mark.parametrize("name", ["dpo", "ipo", "hinge"])
def test_each_loss_falls_as_the_chosen_answer_gains(name: str) -> None:
    delta = tensor([-3.0, 0.0, 1.0], requires_grad=True)
    getattr(losses, name)(delta, 0.1).sum().backward()
    assert delta.grad is not None
    assert (delta.grad < 0).all()


def test_smoothing_stops_at_odds_that_it_believes() -> None:
    # With a tenth of pairs the wrong way round, the best log-odds are ln 9.
    best = tensor(math.log(9) / 0.1, requires_grad=True)
    losses.dpo(best, 0.1, 0.1).backward()
    assert best.grad is not None
    assert abs(float(best.grad)) < 1e-7
