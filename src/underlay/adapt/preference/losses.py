"""What is learned of preferences, as equations.

All but the last two are functions of one number a pair,

    delta = log p(chosen) - log q(chosen) - log p(rejected) + log q(rejected)

with p the model that learns and q the one it started from, both given the prompt: by how much more the model has come
to prefer the chosen answer. beta times log p - log q is the reward that the model implies (arXiv:2305.18290).
Everything is in nats and float32; losses are of a pair, or of an answer, and are not averaged.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo(delta: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(beta delta): Direct Preference Optimization (arXiv:2305.18290, equation 7).

    delta: (pairs,). smoothing: the share of pairs that are thought to be the wrong way round (conservative DPO,
    Mitchell 2023; the label smoothing of classifiers).
    """
    return -(1 - smoothing) * F.logsigmoid(beta * delta) - smoothing * F.logsigmoid(-beta * delta)


def ipo(delta: Tensor, beta: float) -> Tensor:
    """(delta - 1 / (2 beta))^2: Identity Preference Optimization (arXiv:2310.12036, equation 17; beta is its tau).

    delta: (pairs,). The paper writes it of whole answers; as its authors compute it, each log-probability is the mean
    over the answer's tokens, so that long answers do not have to differ more than short ones.
    """
    return (delta - 1 / (2 * beta)) ** 2


def hinge(delta: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta delta): SLiC-HF's loss (arXiv:2305.10425), relative to the starting model (arXiv:2309.06657).

    delta: (pairs,). Pairs that are told apart by 1 / beta are not learned any further.
    """
    return F.relu(1 - beta * delta)


def kto(
    ratio: Tensor, good: Tensor, point: Tensor, beta: float, desirable: float = 1.0, undesirable: float = 1.0
) -> Tensor:
    """Kahneman-Tversky Optimization (arXiv:2402.01306, equation 8): of single answers that are good, or bad.

        desirable   (1 - sigmoid(beta (ratio - point)))   of good answers
        undesirable (1 - sigmoid(beta (point - ratio)))   of bad ones

    ratio: (answers,), log p - log q; good: (answers,) bool; point: what ratios are compared with, how far the model has
    moved on the whole (`reference_point`), broadcastable; no gradient goes through it.
    """
    gain = beta * (ratio - point.detach())
    weight = torch.where(good, desirable, undesirable)
    return weight * torch.sigmoid(torch.where(good, -gain, gain))


def reference_point(mismatched: Tensor) -> Tensor:
    """What KTO compares with: the mean ratio of answers to other prompts than their own, at least 0.

    mismatched: (groups, answers), log p - log q; returns (groups, 1). It estimates the divergence KL(p, q).
    """
    return mismatched.mean(-1, keepdim=True).clamp(min=0)


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: float = 0.0, centring: float = 0.0) -> Tensor:
    """-log sigmoid(chosen - rejected - margin): a reward model's loss (Bradley and Terry 1952; arXiv:2203.02155).

    chosen, rejected: (pairs,) rewards. margin: by how much they shall differ (arXiv:2307.09288). centring: adds this
    times (chosen + rejected)^2, which keeps rewards near 0, where the rest leaves them free (arXiv:2312.09244).
    """
    return centring * (chosen + rejected) ** 2 - F.logsigmoid(chosen - rejected - margin)
