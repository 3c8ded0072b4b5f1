"""Arithmetic of training and inference, by formula.

A weight matrix costs 2 FLOPs a token forward and twice that backward (Kaplan et al., arXiv:2001.08361, section 2.1);
attention adds the two products of queries with keys and of weights with values (PaLM, arXiv:2204.02311, appendix B).
"""

import torch

from underlay.models.config import TextConfig
from underlay.models.encoder import EncoderConfig
from underlay.models.families import blank
from underlay.models.parts import Experts


def matmul_parameters(config: TextConfig) -> int:
    """Weights in the matrix products of every token: blocks and output head, not the look-up of embeddings.

    Of a mixture of experts only those count that a token uses.
    """
    with torch.device("meta"):
        blocks = blank(config).blocks
    total = sum(parameter.numel() for parameter in blocks.parameters() if parameter.ndim == 2)
    for module in blocks.modules():
        if isinstance(module, Experts):
            stacked = module.gate.numel() + module.up.numel() + module.down.numel()
            total += stacked * module.chosen // len(module.gate)
    return total + config.vocabulary * config.width


def training_flops(config: TextConfig, tokens: int, context: int, predicted: float = 1.0) -> float:
    """FLOPs to train on `tokens` tokens in rows of `context`: 6 N D, and attention, which causality halves.

    `predicted`: share of tokens whose target counts; the head is computed for no others.
    """
    attention = 6 * config.depth * config.heads * config.head_dim * context
    matrices = matmul_parameters(config) - (1 - predicted) * config.vocabulary * config.width
    if isinstance(config, EncoderConfig):
        attention *= 2
        matrices += predicted * config.width**2  # the layer before the head
    return float(tokens) * (6 * matrices + attention)
