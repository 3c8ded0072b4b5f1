"""What llama.cpp calls our tensors and our facts, architecture by architecture.

Names and keys are those of llama.cpp's own readers (src/llama-arch.cpp, src/models/). One table of names each; the one
thing done to numbers is noted beside it. `llama` rotates neighbouring channels where we rotate halves, so the rows of
query and key are put into its order; the other architectures rotate halves as we do.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.formats.gguf.container import Value
from underlay.models.parts import RopeScaling

Pooling = Literal["none", "mean", "cls"]
_POOLINGS: dict[Pooling, int] = {"none": 0, "mean": 1, "cls": 2}


@dataclass(frozen=True)
class ModelFacts:
    """All that a GGUF file says of a model besides its tensors."""

    architecture: str
    """A name of `ARCHITECTURES`: the one of llama.cpp."""
    vocabulary: int
    """Rows of the embedding."""
    context: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    norm_eps: float
    activation: Literal["silu", "gelu"]
    """Of the MLP; the architectures fix it, so another than theirs is refused."""
    rope_base: float | None = None
    """None where positions are embedded."""
    rope_scaling: RopeScaling | None = None
    window: int | None = None
    """Earlier tokens that a token may look at; None for all."""
    tied: bool = False
    """Whether the head is the embedding."""
    name: str = "model"
    pooling: Pooling = "none"
    """Encoders: how a text becomes one vector."""


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's architectures, as far as it is written here."""

    names: dict[str, str]
    """Our tensor to theirs, without `.weight` and `.bias`; N stands for the block's number."""
    interleaved: bool = False
    """Whether it rotates neighbouring channels, so that query and key are permuted."""
    layer_norm: bool = False
    """LayerNorm, not RMSNorm."""
    causal: bool = True
    biases: str = ""
    """Which of our matrices may have a bias, as a regular expression."""
    stretches: bool = False
    """Whether it reads llama3's scaling, which is a tensor."""
    left_out: tuple[str, ...] = ()
    """Our tensors that it has no use for, as regular expressions."""
    splits: bool = True
    """Whether heads x head_dim may differ from the width."""
    ties: bool = True
    """Whether it can do without a head of its own."""


_ENDS = {"embedding": "token_embd", "norm": "output_norm", "head": "output"}
_ATTENTION = {
    "blocks.N.attention.query": "blk.N.attn_q",
    "blocks.N.attention.key": "blk.N.attn_k",
    "blocks.N.attention.value": "blk.N.attn_v",
    "blocks.N.attention.output": "blk.N.attn_output",
}
_HEAD_NORMS = {
    "blocks.N.attention.query_norm": "blk.N.attn_q_norm",
    "blocks.N.attention.key_norm": "blk.N.attn_k_norm",
}
_MLP = {"blocks.N.mlp.up": "blk.N.ffn_up", "blocks.N.mlp.down": "blk.N.ffn_down"}
_GATED = _MLP | {"blocks.N.mlp.gate": "blk.N.ffn_gate"}
_PRE_NORMS = {"blocks.N.attention_norm": "blk.N.attn_norm", "blocks.N.mlp_norm": "blk.N.ffn_norm"}
_LLAMA = _ENDS | _ATTENTION | _GATED | _PRE_NORMS

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(_LLAMA, interleaved=True, biases=r".*\.(attention|mlp)\..*", stretches=True),
    "qwen2": Architecture(_LLAMA, biases=r".*\.attention\.(query|key|value)", splits=False),
    "qwen3": Architecture(_LLAMA | _HEAD_NORMS),
    "olmo2": Architecture(
        _ENDS
        | _ATTENTION
        | _GATED
        | _HEAD_NORMS
        | {
            "blocks.N.attention_out_norm": "blk.N.post_attention_norm",
            "blocks.N.mlp_out_norm": "blk.N.post_ffw_norm",
        },
        splits=False,
        ties=False,
    ),
    "bert": Architecture(
        {"embedding": "token_embd", "positions": "position_embd", "types": "token_types"}
        | {"embedding_norm": "token_embd_norm"}
        | _ATTENTION
        | _MLP
        | {
            "blocks.N.attention_out_norm": "blk.N.attn_output_norm",
            "blocks.N.mlp_out_norm": "blk.N.layer_output_norm",
        },
        layer_norm=True,
        causal=False,
        biases=".*",
        # llama.cpp reads encoders for their hidden states alone.
        left_out=(r"pooler\..*", r"masked\..*", r"head\..*"),
        splits=False,
    ),
}


def architecture_of(facts: ModelFacts) -> Architecture:
    """The architecture, where it can hold a model of these facts. Raises UserError where it cannot."""
    found = ARCHITECTURES.get(facts.architecture)
    if found is None:
        raise UserError(f"{facts.architecture} cannot be written as GGUF; {', '.join(ARCHITECTURES)} can")
    if not found.splits and facts.heads * facts.head_dim != facts.width:
        total = f"{facts.heads} heads of {facts.head_dim} channels"
        raise UserError(f"GGUF's {facts.architecture} needs heads that fill the width {facts.width}, not {total}")
    activation = "silu" if found.causal else "gelu"
    if facts.activation != activation:
        raise UserError(f"GGUF's {facts.architecture} has the activation {activation}, this model {facts.activation}")
    if facts.rope_scaling and facts.rope_scaling.kind == "llama3" and not found.stretches:
        raise UserError(f"GGUF's {facts.architecture} cannot stretch positions as llama3 does; linear and yarn it can")
    _can_stretch(facts.rope_scaling)
    if facts.tied and not found.ties:
        raise UserError(f"GGUF's {facts.architecture} needs a head of its own; this model's is tied to its embedding")
    if facts.rope_base is None and found.causal:
        raise UserError(f"GGUF's {facts.architecture} needs rotary positions; this model has none")
    return found


def _can_stretch(scaling: RopeScaling | None) -> None:
    if scaling is None:
        return
    if scaling.kind == "dynamic":
        raise UserError("GGUF cannot stretch positions by the length of the text (dynamic); linear and yarn it can")
    if scaling.kind == "yarn" and (scaling.sharpen is not None or not scaling.truncate):
        raise UserError("GGUF's yarn scaling has its own sharpening and whole channels; this model's differ")


def their_name(architecture: Architecture, name: str) -> str | None:
    """llama.cpp's name of our tensor; None where it is left out. Raises UserError where it is not known."""
    if any(re.fullmatch(pattern, name) for pattern in architecture.left_out):
        return None
    stem, _, ending = name.rpartition(".")
    number = re.match(r"blocks\.(\d+)\.", stem)
    pattern = f"blocks.N.{stem[number.end() :]}" if number else stem
    if pattern not in architecture.names or ending not in ("weight", "bias"):
        raise UserError(f"tensor {name} has no place in this GGUF architecture")
    if ending == "bias" and not re.fullmatch(architecture.biases, stem):
        raise UserError(f"tensor {name}: this GGUF architecture has no bias there")
    theirs = architecture.names[pattern]
    return f"{theirs.replace('.N.', f'.{number[1]}.') if number else theirs}.{ending}"


def arranged(architecture: Architecture, facts: ModelFacts, name: str, tensor: Tensor) -> Tensor:
    """Our tensor with its numbers in llama.cpp's order, same shape."""
    if architecture.interleaved and ".attention.query." in name:
        return interleave(tensor, facts.heads)
    if architecture.interleaved and ".attention.key." in name:
        return interleave(tensor, facts.kv_heads)
    return tensor


def interleave(tensor: Tensor, heads: int) -> Tensor:
    """Reorder rows (heads x head_dim, ...) so that channels i and i + head_dim / 2 become neighbours."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def rope_factors(facts: ModelFacts) -> Tensor | None:
    """What llama3's scaling divides each pair's frequency by: (head_dim / 2), float32; None for other scalings.

    Long waves are stretched by the factor, short ones not at all, those between by a mixture (Llama 3.1).
    """
    scaling = facts.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    assert facts.rope_base is not None, "scaling stretches rotary positions"
    exponents = torch.arange(0, facts.head_dim, 2, dtype=torch.float32) / facts.head_dim
    frequencies = 1.0 / facts.rope_base**exponents
    turns = _original(scaling) * frequencies / (2 * math.pi)
    span = scaling.high - scaling.low
    kept = ((turns - scaling.low) / span).clamp(0, 1)
    return 1.0 / ((1 - kept) / scaling.factor + kept)


def model_metadata(facts: ModelFacts) -> dict[str, Value]:
    """The keys of the architecture. Raises UserError where a scaling lacks its original context."""
    architecture = architecture_of(facts)
    found: dict[str, Value] = {
        "context_length": facts.context,
        "embedding_length": facts.width,
        "block_count": facts.depth,
        "feed_forward_length": facts.hidden,
        "attention.head_count": facts.heads,
        "attention.head_count_kv": facts.kv_heads,
        "attention.key_length": facts.head_dim,
        "attention.value_length": facts.head_dim,
        "vocab_size": facts.vocabulary,
        f"attention.layer_norm_{'' if architecture.layer_norm else 'rms_'}epsilon": float(facts.norm_eps),
    }
    if not architecture.causal:
        found |= {"attention.causal": False, "pooling_type": _POOLINGS[facts.pooling]}
    if facts.rope_base is not None:
        found |= {"rope.dimension_count": facts.head_dim, "rope.freq_base": float(facts.rope_base)}
    scaling = facts.rope_scaling
    if scaling and scaling.kind != "llama3":
        found |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": float(scaling.factor)}
    if scaling and scaling.kind == "yarn":
        found |= {
            "rope.scaling.original_context_length": _original(scaling),
            "rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
            "rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
        }
    named = {f"{facts.architecture}.{key}": value for key, value in found.items()}
    return {"general.architecture": facts.architecture, "general.type": "model", "general.name": facts.name} | named


def _original(scaling: RopeScaling) -> int:
    if scaling.original_context is None:
        raise UserError(f"{scaling.kind} scaling of positions needs the context before it")
    return scaling.original_context
