"""What is learned from rewards, as equations.

    ratio = p(token) / q(token)            p: the model as it is now, q: as it was when the answer was made
    loss  = -min(ratio A, clip(ratio, 1 - e, 1 + e) A)                     (PPO, arXiv:1707.06347, equation 7)

A, the advantage, is how much better an answer, or a token of it, turned out than was to be expected. GRPO expects the
mean of a group of answers to the same prompt (arXiv:2402.03300), PPO what a critic says. Everything is float32.
"""

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["dapo", "grpo", "dr_grpo"]
_LEAST_STD = 1e-4


def surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped loss of each token; all of the same shape."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def k3(log_p: Tensor, log_q: Tensor) -> Tensor:
    """e^d - d - 1 with d = log q - log p, of tokens drawn from p: KL(p, q) without bias, and never below 0.

    The third estimator of Schulman (2020), which GRPO adds to its loss (arXiv:2402.03300, equation 4).
    """
    difference = log_q - log_p
    return torch.expm1(difference) - difference


def group_advantages(rewards: Tensor, group: int) -> Tensor:
    """(reward - mean) / (std + 1e-4) within each group of neighbours; std is the sample's (Bessel).

    rewards: (answers,), NaN where an answer could not be scored: it is no part of its group, and its advantage is 0.
    Where all rewards of a group are equal, so where only one is left, advantages are 0.
    """
    grouped = rewards.view(-1, group)
    there = ~grouped.isnan()
    count = there.sum(1, keepdim=True)
    mean = grouped.nansum(1, keepdim=True) / count.clamp(min=1)
    apart = torch.where(there, grouped - mean, 0.0)
    std = (apart.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return torch.where(even_groups(rewards, group)[:, None], 0.0, apart / (std + _LEAST_STD)).flatten()


def even_groups(rewards: Tensor, group: int) -> Tensor:
    """Which groups have no two different rewards, and so nothing to learn from; (groups,) bool."""
    grouped = rewards.view(-1, group)
    lowest = torch.where(grouped.isnan(), float("inf"), grouped).amin(1)
    highest = torch.where(grouped.isnan(), float("-inf"), grouped).amax(1)
    return lowest >= highest


def generalised_advantages(
    rewards: Tensor, values: Tensor, active: Tensor, discount: float, trace: float
) -> tuple[Tensor, Tensor]:
    """Advantages of tokens, and what the critic should have said (GAE, arXiv:1506.02438, equation 16).

        delta_t = r_t + discount V_t+1 - V_t            A_t = delta_t + discount trace A_t+1

    rewards, values: (answers, time); active: (answers, time) bool, True at an answer's tokens, which stand in one
    piece; after the last nothing is worth anything. Returns A and A + V, (answers, time), 0 where nothing is active.
    """
    advantages = torch.zeros_like(rewards)
    later = next_value = rewards.new_zeros(len(rewards))
    for place in reversed(range(rewards.shape[1])):
        here, value = active[:, place], values[:, place]
        delta = rewards[:, place] + discount * next_value - value
        later = torch.where(here, delta + discount * trace * later, 0.0)
        next_value = torch.where(here, value, 0.0)
        advantages[:, place] = later
    return advantages, torch.where(active, advantages + values, 0.0)


def whitened(advantages: Tensor, active: Tensor) -> Tensor:
    """Of mean 0 and variance 1 over all active tokens; 0 elsewhere. Both (answers, time)."""
    chosen = advantages[active]
    if len(chosen) < 2:
        return torch.zeros_like(advantages)
    return torch.where(active, (advantages - chosen.mean()) / (chosen.std() + 1e-8), 0.0)


def value_loss(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> Tensor:
    """max((v - R)^2, (clip(v, v' - c, v' + c) - R)^2) / 2 of each token; v' is what the critic said before.

    As InstructGPT's predecessor has it (arXiv:2009.01325); it slows the critic as clipping slows the policy.
    """
    near = before + (values - before).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (near - returns).square()) / 2


def shares(active: Tensor, reduction: Reduction, longest: int) -> Tensor:
    """How much each token weighs in a step, so that sums over the step, divided by its rows, are what is wanted.

    active: (rows, time) bool, True at tokens that are learned from, of all rows of a step. A row without any counts
    for nothing. longest: tokens that an answer may have. Returns (rows, time) float32.

        dapo     the mean over all tokens
        grpo     the mean over answers of the mean over an answer's tokens
        dr_grpo  the mean over answers of the sum over an answer's tokens, divided by `longest`
    """
    here = active.float()
    lengths = here.sum(1, keepdim=True)
    rows, answers = len(active), max(1, int((lengths > 0).sum()))
    if reduction == "dapo":
        return here * rows / lengths.sum().clamp(min=1)
    return here * (rows / answers) / (lengths.clamp(min=1) if reduction == "grpo" else longest)
