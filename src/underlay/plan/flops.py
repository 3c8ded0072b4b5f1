"""Arithmetic of training and inference, by formula.

A weight matrix costs 2 FLOPs a token forward and twice that backward (Kaplan et al., arXiv:2001.08361, section 2.1);
attention adds the two products of queries with keys and of weights with values (PaLM, arXiv:2204.02311, appendix B).
"""

from underlay.models import LlamaConfig


def matmul_parameters(config: LlamaConfig) -> int:
    """Weights in the matrix products of every token: blocks and output head, not the look-up of embeddings."""
    head_dim = config.width // config.heads
    attention = 2 * config.width * config.width + 2 * config.width * config.kv_heads * head_dim
    return config.depth * (attention + 3 * config.width * config.hidden) + config.vocabulary * config.width


def training_flops(config: LlamaConfig, tokens: int, context: int) -> float:
    """FLOPs to train on `tokens` tokens in rows of `context`: 6 N D, and attention where causality halves it."""
    attention = 6 * config.depth * config.width * context
    return float(tokens) * (6 * matmul_parameters(config) + attention)
