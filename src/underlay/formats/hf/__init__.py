"""Folders of `transformers`: `config.json` beside safetensors, read and written.

`open_model` gives our config and, one after the other, our tensors; `outgoing` goes the other way. Names and values
are those of layouts (`decoders`, `encoders`), one a model type, which serve both directions.
"""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from underlay.config import parse
from underlay.errors import UserError
from underlay.formats.checkpoint import Checkpoint
from underlay.formats.hf import decoders, encoders
from underlay.formats.hf.layout import SIZES, Layout, Values, read_config, write_config
from underlay.formats.hf.tasks import read_task, task_rows, write_task
from underlay.formats.keymap import Row, read_in, spelled_out, written_out
from underlay.formats.untrusted import shown
from underlay.models.config import TextConfig
from underlay.models.encoder import EncoderConfig
from underlay.models.families import blank
from underlay.models.mistral import MistralConfig
from underlay.text.files import read_json

LAYOUTS: Mapping[str, Layout] = {layout.model_type: layout for layout in (*decoders.LAYOUTS, *encoders.LAYOUTS)}
_LONGEST_CONTEXT = 1 << 24
_FEWEST = 4
"""Tensors that any layer has at least."""
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Incoming:
    """A stranger's model, understood but not read yet."""

    config: TextConfig
    checkpoint: Checkpoint
    names: Mapping[str, str]
    """What each tensor of the checkpoint is called in the rows."""
    rows: tuple[Row, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Of our tensors."""
    left_out: tuple[str, ...]
    """Tensors of the checkpoint that Underlay has no use for."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Our tensors, as they are stored. Raises UserError where one has not the shape that the config calls for."""
        return read_in(self.checkpoint, self.names, self.rows, self.shapes)


def open_model(folder: Path, ignore: frozenset[str] = frozenset()) -> Incoming:
    """Understand a folder: config and names of tensors, before any weight is read.

    ignore: keys of the config that may be unknown. Raises UserError, in one line that names it, for what is damaged,
    unknown, missing, or refused.
    """
    path = folder / "config.json"
    values = read_json(path, 16 << 20)
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a model's config")
    layout = _layout_of(values, path)
    if values.get("quantization_config"):
        raise UserError(f"{path}: quantization_config: quantised weights cannot be imported; bring the original ones")
    checkpoint = Checkpoint.open(folder)
    names = _named(layout, checkpoint.names)
    _check_depth(layout, values, checkpoint, path)
    ours = read_config(layout, values, str(path), ignore)
    by = encoders.shift(layout, values, str(path))
    if by >= ours["context"]:
        raise UserError(f"{path}: pad_token_id {shown(values.get('pad_token_id'))} leaves no positions behind it")
    ours["context"] -= by
    if issubclass(layout.config, EncoderConfig):
        ours |= {**encoders.heads_in(checkpoint.names), **encoders.read_pooling(folder)}
    ours |= read_task(layout, values, checkpoint.names, str(path))
    config = _parsed(layout, ours, path)
    _check_sizes(layout, config, checkpoint, path)
    called_of = {name: called for called, name in names.items()}
    if len(called_of) < len(names):
        twice = next(called for called, name in names.items() if called_of[name] != called)
        raise UserError(f"{checkpoint.path}: tensor {shown(twice)} is there twice, under two names")
    shapes, rows = _arranged(layout, config, by, called_of.keys())
    wanted = {name for row in rows for name in row.theirs}
    replaced = {layout.copies[name] for name in wanted & layout.copies.keys()} - wanted
    left_out, used = [], {}
    for called, name in names.items():
        original = layout.copies.get(name)
        if name in wanted:
            used[called] = name
        elif config.tied and original in called_of:
            _check_copy(checkpoint, called, called_of[original])
        elif name in replaced or any(re.fullmatch(pattern, called) for pattern in layout.left_out):
            left_out.append(called)
        else:
            raise UserError(
                f"{checkpoint.path}: tensor {shown(called)} is unknown in a {layout.model_type} with this config"
            )
    odd = [called for called in used if checkpoint.dtypes[called] not in _DTYPES]
    if odd:
        dtype = str(checkpoint.dtypes[odd[0]]).removeprefix("torch.")
        raise UserError(f"{checkpoint.path}: tensor {odd[0]} is {dtype}; float32, float16 and bfloat16 can be imported")
    return Incoming(config, checkpoint, used, tuple(rows), shapes, tuple(left_out))


def outgoing(config: TextConfig, pad: int | None = None) -> tuple[Values, list[Row]]:
    """Their config, and the rows by which `keymap.written_out` turns our tensors into theirs.

    pad: the tokenizer's id that fills rows up, which RoBERTa's positions depend on. Raises UserError where no model
    type has a place for the model.
    """
    layout = _layout_for(config)
    values = write_config(layout, config)
    values |= write_task(layout, config)
    by = encoders.shift(layout, {"pad_token_id": pad}, "export")
    if by:
        values |= {"pad_token_id": pad, "max_position_embeddings": values["max_position_embeddings"] + by}
    rows = _arranged(layout, config, by)[1]
    if isinstance(config, EncoderConfig) and not config.tied:
        rows += encoders.biases(layout, rows)
    if isinstance(config, EncoderConfig) and not config.masked_head and config.task is None:
        values["architectures"] = [layout.architecture.replace("ForMaskedLM", "Model")]
        rows = [
            Row(row.ours, tuple(n.removeprefix(layout.prefix) for n in row.theirs), row.read, row.write) for row in rows
        ]
    return values, rows


def write_pooling(config: TextConfig, folder: Path) -> None:
    """For encoders, note how vectors are made, as `sentence-transformers` does."""
    if isinstance(config, EncoderConfig):
        encoders.write_pooling(config, folder)


def _arranged(
    layout: Layout, config: TextConfig, by: int = 0, names: Container[str] = ()
) -> tuple[dict[str, tuple[int, ...]], list[Row]]:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in blank(config).state_dict().items()}
    experts = config.experts if isinstance(config, MistralConfig) else None
    rows = spelled_out(task_rows(layout, config), shapes, config.depth, experts or 0)
    return shapes, encoders.arranged(layout, config, rows, by, names) if isinstance(config, EncoderConfig) else rows


def _check_depth(layout: Layout, values: Values, checkpoint: Checkpoint, path: Path) -> None:
    key = layout.fields["depth"]
    depth, tensors = values.get(key), len(checkpoint.names)
    if isinstance(depth, int) and depth * _FEWEST > tensors:
        raise UserError(f"{path}: {key} is {shown(depth)}, but the weights are only {tensors} tensors")


def _parsed(layout: Layout, ours: Values, path: Path) -> TextConfig:
    """The config. Errors name the user's key, not ours."""
    try:
        return parse(layout.config, ours, str(path))
    except UserError as error:
        line = str(error).removeprefix(str(path))
        line = re.sub(r"^: key '(\w+)'", lambda m: f": key '{layout.fields.get(m[1], m[1])}'", line)
        raise UserError(f"{path}{line}") from error


def _check_sizes(layout: Layout, config: TextConfig, checkpoint: Checkpoint, path: Path) -> None:
    """Nothing is made from sizes that the weights cannot have, not even without memory."""
    longest = max((size for shape in checkpoint.shapes.values() for size in shape), default=0)
    learned = isinstance(config, EncoderConfig) or getattr(config, "learned_positions", False)
    for name in sorted({"types", *SIZES}, key=lambda name: (name not in layout.fields, name != "width", name)):
        size = getattr(config, name, None) or 0
        limit = _LONGEST_CONTEXT if name == "context" and not learned else longest
        if name == "depth":
            limit = len(checkpoint.names) // _FEWEST
        if size > limit:
            key = layout.fields.get(name, name)
            raise UserError(f"{path}: {key} is {shown(size)}; by the weights it can be {limit} at most")


def _layout_of(values: Values, path: Path) -> Layout:
    kind: Any = values.get("model_type")
    if not isinstance(kind, str) or kind not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise UserError(f"{path}: model_type {shown(kind)} is not known; there are {known}")
    return LAYOUTS[kind]


def _layout_for(config: TextConfig) -> Layout:
    names = {"gemma3": "gemma3_text"}
    if isinstance(config, MistralConfig) and config.experts:
        return LAYOUTS["mixtral"]
    if getattr(config, "position_free_every", None):
        return LAYOUTS["smollm3"]
    return LAYOUTS[names.get(config.family, config.family)]


def _named(layout: Layout, called: list[str]) -> dict[str, str]:
    """What tensors are called in the layout's rows: with the trunk's prefix, and in today's spelling."""
    bare = not any(name.startswith(layout.prefix) for name in called)
    first = {name.split(".")[0] for row in layout.rows for name in row.theirs} | {"cls"}
    result = {}
    for name in called:
        spelled = re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_SPELLING[m[1]]}", name)
        result[name] = layout.prefix + spelled if bare and spelled.split(".")[0] not in first else spelled
    return result


_SPELLING = {"gamma": "weight", "beta": "bias"}


def _check_copy(checkpoint: Checkpoint, copy: str, original: str) -> None:
    one, two = (checkpoint.places[name] for name in (copy, original))
    alike = (one.dtype, one.shape) == (two.dtype, two.shape)
    if not alike or not torch.equal(checkpoint.tensor(copy), checkpoint.tensor(original)):
        raise UserError(
            f"{checkpoint.path}: tensor {copy} differs from {original}, but the config ties them; "
            "set tie_word_embeddings to false in config.json"
        )


__all__ = ["LAYOUTS", "Incoming", "open_model", "outgoing", "write_pooling", "written_out"]
