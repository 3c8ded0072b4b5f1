"""A model as one GGUF file for llama.cpp."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from underlay.errors import UserError
from underlay.formats.gguf.arrangement import (
    ModelFacts,
    architecture_of,
    arranged,
    model_metadata,
    rope_factors,
    their_name,
)
from underlay.formats.gguf.container import TensorInfo, Writer
from underlay.formats.gguf.quantize import F16, F32, Q4_0, Q8_0, Kind, encode, fitting
from underlay.formats.gguf.vocabulary import TokenizerFacts, tokenizer_metadata

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_ROPE = "rope_freqs.weight"
_EMBEDDINGS = ("token_embd.weight", "output.weight")
# llama.cpp adds these to others as they are, and reads them as F32.
_ALWAYS_F32 = ("position_embd.weight", "token_types.weight")


@dataclass(frozen=True)
class Exported:
    """What was written, and what a reader of it should know."""

    path: Path
    size: int
    """Bytes."""
    kinds: Mapping[str, int]
    """How many tensors of each kind."""
    fallen_back: tuple[str, ...]
    """Our tensors that are F16 because their rows do not fill blocks."""
    left_out: tuple[str, ...]
    """Our tensors that the architecture has no place for."""
    warnings: tuple[str, ...]
    """Where llama.cpp may differ from this model."""


def export(
    path: Path,
    kind: Kind,
    facts: ModelFacts,
    tokenizer: TokenizerFacts,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, Tensor]],
) -> Exported:
    """Write a model as GGUF; the file appears when it is whole, and memory holds one tensor at a time.

    kind: how matrices are stored. Vectors stay F32, and so do embedded positions and types. Rows that do not fill
    blocks become F16 (`fallen_back` names them). Under Q4_0 the embedding and the head are Q8_0, for they lose most.
    shapes: of all tensors, by our names; tensors: the same, in any order. Raises UserError where the architecture
    cannot hold the model, a tensor is missing, not expected or not finite, MachineError where the disk gives way.
    """
    architecture = architecture_of(facts)
    names = {ours: their_name(architecture, ours) for ours in shapes}
    _complete(facts, shapes)
    infos = {
        ours: TensorInfo(theirs, tuple(shapes[ours]), _kind(theirs, shapes[ours], kind))
        for ours, theirs in names.items()
        if theirs is not None
    }
    factors = rope_factors(facts)
    extra = [] if factors is None else [TensorInfo(_ROPE, tuple(factors.shape), F32)]
    types = shapes["types.weight"][0] if "types.weight" in shapes else 0
    words, warnings = tokenizer_metadata(tokenizer, facts.vocabulary, types)
    if facts.window is not None and facts.window < facts.context:
        warnings.append(f"llama.cpp looks at all earlier tokens: beyond {facts.window} the answers differ")
    metadata = model_metadata(facts) | {"general.file_type": kind.file_type, "general.quantization_version": 2} | words
    with Writer(path, metadata, [*extra, *infos.values()]) as writer:
        if factors is not None:
            writer.write(_ROPE, encode(factors, F32, _ROPE))
        for ours, tensor in tensors:
            if names.get(ours, "") is None:
                continue
            if ours not in infos or tuple(tensor.shape) != infos[ours].shape:
                raise UserError(f"tensor {ours} of shape {tuple(tensor.shape)} is not as announced")
            info = infos[ours]
            writer.write(info.name, encode(arranged(architecture, facts, ours, tensor), info.kind, ours))
    return Exported(
        path=path,
        size=writer.size,
        kinds=Counter(info.kind.name for info in [*extra, *infos.values()]),
        fallen_back=tuple(
            ours for ours, info in infos.items() if info.kind is F16 and kind.block > 1 and info.name not in _ALWAYS_F32
        ),
        left_out=tuple(ours for ours, theirs in names.items() if theirs is None),
        warnings=tuple(warnings),
    )


def _kind(theirs: str, shape: tuple[int, ...], kind: Kind) -> Kind:
    if theirs in _ALWAYS_F32:
        return F32
    return fitting(tuple(shape), Q8_0 if kind is Q4_0 and theirs in _EMBEDDINGS else kind)


def _complete(facts: ModelFacts, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError where a tensor is missing that llama.cpp would miss, or has another shape than it expects."""
    architecture = architecture_of(facts)
    if facts.tied and "head.weight" in shapes:
        raise UserError("the model is tied, and yet has a head.weight")
    inner, shared = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    matrices = {
        "embedding": (facts.vocabulary, facts.width),
        "positions": (facts.context, facts.width),
        "head": (facts.vocabulary, facts.width),
        "blocks.N.attention.query": (inner, facts.width),
        "blocks.N.attention.key": (shared, facts.width),
        "blocks.N.attention.value": (shared, facts.width),
        "blocks.N.attention.output": (facts.width, inner),
        "blocks.N.mlp.gate": (facts.hidden, facts.width),
        "blocks.N.mlp.up": (facts.hidden, facts.width),
        "blocks.N.mlp.down": (facts.width, facts.hidden),
    }
    for pattern in architecture.names:
        if pattern == "types" or (pattern == "head" and facts.tied):
            continue
        for number in range(facts.depth) if ".N." in pattern else [0]:
            name = pattern.replace(".N.", f".{number}.")
            biased = architecture.layer_norm and pattern.endswith("norm")
            for ending in ("weight", "bias") if biased else ("weight",):
                if f"{name}.{ending}" not in shapes:
                    raise UserError(f"tensor {name}.{ending} is missing; GGUF's {facts.architecture} needs it")
            found = tuple(shapes[f"{name}.weight"])
            if found != matrices.get(pattern, found):
                raise UserError(f"tensor {name}.weight must be {matrices[pattern]}, is {found}")
    beyond = [name for name in shapes if (block := _BLOCK.match(name)) and int(block[1]) >= facts.depth]
    if beyond:
        raise UserError(f"tensor {beyond[0]} belongs to a block beyond the depth of {facts.depth}")
