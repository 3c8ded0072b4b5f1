"""The equations of learning from rewards, against values by hand and plain loops."""

import math

import pytest
import torch

from underlay.adapt.reinforce.figures import correlation
from underlay.adapt.reinforce.losses import (
    Reduction,
    even_groups,
    generalised_advantages,
    group_advantages,
    k3,
    shares,
    surrogate,
    value_loss,
    whitened,
)

NAN = math.nan


def close(found: torch.Tensor, wanted: list[float], within: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=within)


def test_the_surrogate_is_clipped_where_that_is_less_hopeful() -> None:
    ratio = torch.tensor([math.e, 1 / math.e, math.exp(0.1)])
    close(surrogate(ratio, torch.ones(3), 0.2), [-1.2, -0.367879, -1.105171])
    close(surrogate(ratio, -torch.ones(3), 0.2), [math.e, 0.8, 1.105171])


def test_a_token_that_the_clip_holds_has_no_gradient() -> None:
    ratio = torch.tensor([1.3, 0.7, 1.3, 0.7], requires_grad=True)
    surrogate(ratio, torch.tensor([1.0, -1.0, -1.0, 1.0]), 0.2).sum().backward()
    assert ratio.grad is not None
    close(ratio.grad, [0.0, 0.0, 1.0, -1.0])


def test_k3_has_the_published_values_and_the_divergence_on_average() -> None:
    close(k3(torch.zeros(2), torch.tensor([0.1, -0.1])), [0.00517092, 0.00483742], 1e-7)
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    assert float((p * k3(p.log(), q.log())).sum()) == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-6)


def test_group_advantages_have_the_published_values() -> None:
    found = group_advantages(torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0, 3, 3, 3, 3]), 4)
    a, b, c = 0.865875, 1.49970, -0.49990
    close(found, [a, -a, -a, a, b, c, c, c, 0, 0, 0, 0])


def test_what_cannot_be_scored_is_no_part_of_its_group() -> None:
    found = group_advantages(torch.tensor([1.0, NAN, 0, 1, NAN, 5, NAN, NAN]), 4)
    three = group_advantages(torch.tensor([1.0, 0, 1]), 3)
    close(found, [float(three[0]), 0.0, float(three[1]), float(three[2]), 0, 0, 0, 0])


def test_rewards_that_differ_by_rounding_alone_are_no_advantages() -> None:
    rewards = torch.full((4,), 0.1)
    assert not group_advantages(rewards, 4).any()
    assert even_groups(torch.tensor([0.1, 0.1, 0.1, 0.2, NAN, NAN]), 2).tolist() == [True, False, True]


def test_generalised_advantages_are_sums_of_discounted_errors() -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(3, 7), torch.randn(3, 7)
    active = torch.zeros(3, 7, dtype=torch.bool)
    spans = [(1, 5), (0, 7), (3, 4)]
    for row, (first, end) in enumerate(spans):
        active[row, first:end] = True
    discount, trace = 0.9, 0.7
    found, returns = generalised_advantages(rewards, values, active, discount, trace)
    for row, (first, end) in enumerate(spans):
        reward, value = rewards[row, first:end].tolist(), [*values[row, first:end].tolist(), 0.0]
        errors = [reward[at] + discount * value[at + 1] - value[at] for at in range(end - first)]
        for at in range(end - first):
            wanted = sum((discount * trace) ** (later - at) * errors[later] for later in range(at, end - first))
            assert float(found[row, first + at]) == pytest.approx(wanted, abs=1e-5)
            assert float(returns[row, first + at]) == pytest.approx(wanted + value[at], abs=1e-5)
    assert not found[~active].any()
    assert not returns[~active].any()


def test_with_a_trace_of_one_returns_are_what_is_still_to_come() -> None:
    rewards = torch.tensor([[9.0, 1.0, 2.0, 4.0]])
    active = torch.tensor([[False, True, True, True]])
    _, returns = generalised_advantages(rewards, torch.randn(1, 4), active, 1.0, 1.0)
    close(returns[0], [0.0, 7.0, 6.0, 4.0])


def test_whitened_advantages_have_mean_nought_and_variance_one_over_what_is_active() -> None:
    torch.manual_seed(0)
    active = torch.rand(5, 8) > 0.5
    found = whitened(3 + 2 * torch.randn(5, 8), active)
    assert float(found[active].mean()) == pytest.approx(0, abs=1e-6)
    assert float(found[active].std()) == pytest.approx(1, abs=1e-5)
    assert not found[~active].any()


def test_a_critics_values_move_no_further_than_the_clip() -> None:
    values = torch.tensor([1.0, 0.1, -1.0], requires_grad=True)
    found = value_loss(values, torch.zeros(3), torch.tensor([2.0, 2.0, 2.0]), 0.2)
    close(found.detach(), [1.8**2 / 2, 1.9**2 / 2, 3.0**2 / 2])
    found.sum().backward()
    assert values.grad is not None
    close(values.grad, [0.0, -1.9, -3.0])  # the first has moved as far as it may; the last moved the wrong way


@pytest.mark.parametrize("reduction", ["dapo", "grpo", "dr_grpo"])
def test_weights_make_each_reduction_of_one_division(reduction: Reduction) -> None:
    torch.manual_seed(0)
    losses, lengths = torch.randn(4, 6), [3, 6, 0, 1]  # the third is unscorable
    active = torch.zeros(4, 6, dtype=torch.bool)
    for row, length in enumerate(lengths):
        active[row, :length] = True
    rows = [losses[row, :length] for row, length in enumerate(lengths) if length]
    wanted = {
        "dapo": torch.cat(rows).mean(),
        "grpo": torch.stack([row.mean() for row in rows]).mean(),
        "dr_grpo": torch.stack([row.sum() for row in rows]).sum() / (3 * 10),
    }[reduction]
    weights = shares(active, reduction, 10)
    torch.testing.assert_close((losses * weights).sum() / len(active), wanted)
    assert not weights[~active].any()


def test_a_correlation_is_pearsons() -> None:
    one, other = torch.tensor([1.0, 2, 4, 7]), torch.tensor([3.0, 1, 5, 2])
    assert correlation(one, other) == pytest.approx(float(torch.corrcoef(torch.stack([one, other]))[0, 1]), abs=1e-6)
    assert correlation(one, torch.ones(4)) == 0
