"""The parts that model families are arranged from.

Shapes: `x: (batch, time, width)`. Weights are kept in float32 and cast to the activations' dtype where they are used,
so that one module serves float32 and bfloat16 without autocast. A CPU that has no unit for bfloat16 computes in float32
(`computed`).
"""

from underlay.models.parts.attention import Attention, LayerCache
from underlay.models.parts.block import Block
from underlay.models.parts.likelihood import linear_log_probabilities
from underlay.models.parts.linear import Embedding, Linear
from underlay.models.parts.lora import LoraLinear
from underlay.models.parts.loss import linear_cross_entropy
from underlay.models.parts.mlp import ACTIVATIONS, MLP, Activation, Experts, GatedMLP
from underlay.models.parts.norm import LayerNorm, RMSNorm
from underlay.models.parts.precision import bf16_unit, computed
from underlay.models.parts.rope import Rope, RopeScaling, Rotation, rotate

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Activation",
    "Attention",
    "Block",
    "Embedding",
    "Experts",
    "GatedMLP",
    "LayerCache",
    "LayerNorm",
    "Linear",
    "LoraLinear",
    "RMSNorm",
    "Rope",
    "RopeScaling",
    "Rotation",
    "bf16_unit",
    "computed",
    "linear_cross_entropy",
    "linear_log_probabilities",
    "rotate",
]
