"""What weights start from, and how far each may move.

Decoders start as GPT-2 did (Radford et al. 2019): small normal weights, those that are added to the residual stream
smaller still, by the root of the number of additions. Encoders start as BERT did (arXiv:1810.04805), without that.

Under the maximal update parametrisation (arXiv:2203.03466, table 8, for Adam) a model of width m times the one whose
learning rates are known has matrices 1 / sqrt(m) as large and rates 1 / m as high; its logits are divided by m. Here
the gain of the final norm carries that division, so that the model computes, and is exported, like any other.
"""

import torch
from torch import Tensor, nn

from underlay.models.config import TextConfig

STD = 0.02
"""Of freshly drawn weights."""
_ADDED = ("attention.output.weight", "mlp.down.weight", "mlp.down")
"""Matrices whose product is added to the residual stream."""
_HIDDEN = ("blocks.", "masked.dense.", "pooler.")
"""Matrices that are as many channels wide on both sides as the model is."""
_LAST_NORMS = ("norm", "masked.norm")
"""Norms right before the head, of decoders and of encoders."""


@torch.no_grad()
def draw(model: nn.Module, shrink: bool = True) -> None:
    """Draw all matrices from a normal distribution (torch's default generator), set all biases to zero.

    With `shrink`, what is added to the residual stream starts smaller, by 1 / sqrt(2 depth).
    """
    config = _config(model)
    assert config is not None, "only text models are drawn here"
    depth, ratio = config.depth, _ratio(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.ndim >= 2:
            std = STD / (2 * depth) ** 0.5 if shrink and name.endswith(_ADDED) else STD
            nn.init.normal_(parameter, std=std / (_narrowing(name, ratio) or 1.0))
    if ratio != 1 and config.tied:
        for name, module in model.named_modules():
            if name in _LAST_NORMS:
                set_gain(module, 1 / ratio)


def rates(model: nn.Module) -> dict[str, float]:
    """For each parameter by name, the factor on AdamW's learning rate that its initialisation calls for."""
    config = _config(model)
    ratio = _ratio(config)
    factors = {name: 1.0 for name, _ in model.named_parameters()}
    if config is not None and ratio != 1:
        for name, parameter in model.named_parameters():
            gain = name.rpartition(".")[0] in _LAST_NORMS and config.tied
            if gain or name == "head.weight" or (name.startswith(_HIDDEN) and parameter.ndim >= 2):
                factors[name] = 1 / ratio
    return factors


def set_gain(norm: nn.Module, gain: float) -> bool:
    """Make a norm's output `gain` times what it is when fresh; returns False where the norm has no weights."""
    weight = norm.weight
    if isinstance(weight, Tensor):
        weight.fill_(gain - getattr(norm, "offset", 0.0))
    return isinstance(weight, Tensor)


def _config(model: nn.Module) -> TextConfig | None:
    config = getattr(model, "config", None)
    return config if isinstance(config, TextConfig) else None


def start_gain(config: TextConfig) -> float:
    """The final norm's gain where embeddings start from counts: small, so that a tied head starts nearly even."""
    return 0.2 / (_ratio(config) if config.tied else 1.0)


def _ratio(config: TextConfig | None) -> float:
    """How many times wider the model is than the one its learning rates are for."""
    return config.width / config.mup_width if config is not None and config.mup_width else 1.0


def _narrowing(name: str, ratio: float) -> float:
    """By how much a matrix starts smaller: the root of the ratio, by all of it where its outputs do not widen."""
    if name == "head.weight" or name.endswith("router.weight"):
        return ratio
    return ratio**0.5 if name.startswith(_HIDDEN) else 1.0
