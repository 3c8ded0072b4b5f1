"""What the C++ side is told of a model: its sizes, and which of the parts that families are made of it has."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from underlay.models import Decoder
from underlay.models.parts import ACTIVATIONS, MLP, Attention, Block, GatedMLP, LayerNorm, Linear, RMSNorm, Rope

MATRICES = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "mlp.gate",
    "mlp.up",
    "mlp.down",
)
"""The matrices of a block, in the order of the slots in model.h."""
NORMS = (
    "attention_norm",
    "attention_out_norm",
    "mlp_norm",
    "mlp_out_norm",
    "attention.query_norm",
    "attention.key_norm",
)
"""The norms of a block, likewise."""
HEAD = "head"


class Shape(ctypes.Structure):
    """`Shape` in model.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("depth", "width", "heads", "kv_heads", "head_dim", "hidden")),
        *((name, ctypes.c_int32) for name in ("vocabulary", "context", "gated", "activation", "cache", "threads")),
        *((name, ctypes.c_float) for name in ("embedding_scale", "softcap")),
    )


class Settings(ctypes.Structure):
    """`Settings` in model.h."""

    _fields_ = (
        *((name, ctypes.c_float) for name in ("scale", "softcap", "clip")),
        *((name, ctypes.c_int32) for name in ("window", "rope", "post_norm")),
    )


class Step(ctypes.Structure):
    """`Work` in model.h."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("start", "tokens", "blocks", "wanted", "adapter"))


@dataclass(frozen=True)
class Part:
    """A part of a model, its name there, and its slot in model.h."""

    name: str
    slot: int
    module: nn.Module


def unsupported(model: nn.Module) -> str | None:
    """Why a model cannot run natively, in a few words; None where it can."""
    if not isinstance(model, Decoder):
        return "it is no decoder"
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    if len(blocks) != len(model.blocks):
        return "its blocks are of a kind of their own"
    for block in blocks:
        if not isinstance(block.mlp, MLP | GatedMLP):
            return "a mixture of experts"
        if _activation(block.mlp) is None:
            return "an unknown activation"
        if not block.attention.causal:
            return "attention that looks ahead"
    if any(rope.scaling is not None and rope.scaling.kind == "dynamic" for rope in ropes(model)):
        return "rotary positions that change with the length of the text"
    if len({type(block.mlp) for block in blocks}) > 1:
        return "blocks that differ"
    for norm in (part.module for part in norms(model)):
        if not isinstance(norm, RMSNorm | LayerNorm):
            return "an unknown norm"
    return None


def ropes(model: Decoder) -> list[Rope]:
    """The kinds of rotary positions that layers have, each once."""
    found = (model.config.rope(layer) for layer in range(model.config.depth))
    return list(dict.fromkeys(rope for rope in found if rope is not None))


def matrices(model: Decoder) -> Iterator[Part]:
    """The matrices of all blocks; the head is not among them."""
    yield from (part for part in _parts(model, MATRICES) if isinstance(part.module, Linear))


def norms(model: Decoder) -> Iterator[Part]:
    """The norms of all blocks, and the last one."""
    yield from _parts(model, NORMS)
    yield Part("norm", model.config.depth * len(NORMS), model.norm)


def _parts(model: Decoder, names: tuple[str, ...]) -> Iterator[Part]:
    for layer, block in enumerate(model.blocks):
        for index, name in enumerate(names):
            owner, _, last = name.rpartition(".")
            module = getattr(getattr(block, owner) if owner else block, last, None)
            if module is not None:
                yield Part(f"blocks.{layer}.{name}", layer * len(names) + index, module)


def _activation(mlp: MLP | GatedMLP) -> int | None:
    """Its number in vector.h."""
    return next((index for index, function in enumerate(ACTIVATIONS.values()) if function is mlp.activation), None)


def shape(model: Decoder, cache: int, threads: int) -> Shape:
    """The sizes of a model that is not `unsupported`."""
    config, mlp = model.config, model.blocks[0].mlp
    assert isinstance(mlp, MLP | GatedMLP)
    return Shape(
        config.depth,
        config.width,
        config.heads,
        config.kv_heads,
        config.head_dim,
        config.hidden,
        config.vocabulary,
        config.context,
        isinstance(mlp, GatedMLP),
        _activation(mlp),
        cache,
        threads,
        config.embedding_scale(),
        config.final_softcap() or 0.0,
    )


def settings(model: Decoder, layer: int) -> Settings:
    """How a layer attends."""
    block, rope = model.blocks[layer], model.config.rope(layer)
    attention = block.attention
    assert isinstance(attention, Attention)
    return Settings(
        attention.head_dim**-0.5 if attention.scale is None else attention.scale,
        attention.softcap or 0.0,
        attention.clip or 0.0,
        model.config.window(layer) or 0,
        -1 if rope is None else ropes(model).index(rope),
        block.post_norm,
    )
