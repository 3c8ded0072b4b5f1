"""Soft prompts as `peft` writes them: `adapter_config.json`, and `prompt_embeddings` in `adapter_model.safetensors`.

PROMPT_TUNING keeps the rows that stand before every input, (tokens, width). PREFIX_TUNING keeps a row a token, in which
the layers follow each other, each with its keys and then its values, head by head.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.formats.peft import CONFIG, WEIGHTS
from underlay.formats.safetensors import read_header, read_tensors
from underlay.formats.untrusted import shown
from underlay.models.decoder import Decoder
from underlay.models.storage import write_tensors
from underlay.text.files import read_json

_NAME = "prompt_embeddings"
_LONGEST = 1 << 20


def kind_of(folder: Path) -> Literal["prompt", "prefix"] | None:
    """Which of them a folder of `peft` holds; None where it is another sort of adapter."""
    found = read_json(folder / CONFIG, _LONGEST).get("peft_type")
    return "prompt" if found == "PROMPT_TUNING" else "prefix" if found == "PREFIX_TUNING" else None


def write_prompt(prompt: Tensor, model: Decoder, folder: Path, base: str) -> None:
    """Write the rows of a prompt (tokens, width) into an existing folder; base: what `peft` shows as the model."""
    values = {"prompt_tuning_init": "RANDOM"}
    _write("PROMPT_TUNING", prompt, len(prompt), model.config.width, model, folder, base, values)


def read_prompt(folder: Path, model: Decoder) -> Tensor:
    """The rows of a prompt, (tokens, width) float32. Raises UserError where they are damaged, or of another model."""
    return _read("PROMPT_TUNING", folder, model.config.width)


def write_prefix(keys: Tensor, values: Tensor, model: Decoder, folder: Path, base: str) -> None:
    """Write a prefix, both (layers, kv_heads, tokens, head_dim), into an existing folder."""
    layers, heads, tokens, size = keys.shape
    flat = torch.stack([keys, values], 1).permute(3, 0, 1, 2, 4).reshape(tokens, -1)
    extra = {"prefix_projection": False, "encoder_hidden_size": model.config.width}
    assert flat.shape[1] == 2 * layers * heads * size
    _write("PREFIX_TUNING", flat, tokens, heads * size, model, folder, base, extra)


def read_prefix(folder: Path, model: Decoder) -> tuple[Tensor, Tensor]:
    """Keys and values (layers, kv_heads, tokens, head_dim) float32. Raises UserError as `read_prompt` does."""
    heads, size = _heads(model)
    flat = _read("PREFIX_TUNING", folder, 2 * len(model.blocks) * heads * size)
    both = flat.view(len(flat), len(model.blocks), 2, heads, size).permute(1, 2, 3, 0, 4)
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def _heads(model: Decoder) -> tuple[int, int]:
    attention: Any = model.blocks[0].attention
    return attention.kv_heads, attention.head_dim


def _write(
    kind: str, rows: Tensor, tokens: int, width: int, model: Decoder, folder: Path, base: str, extra: dict[str, Any]
) -> None:
    values = {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "num_virtual_tokens": tokens,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": _heads(model)[0] if kind == "PREFIX_TUNING" else model.config.heads,
        "num_layers": len(model.blocks),
        "inference_mode": True,
    }
    write_tensors({_NAME: rows.float().contiguous()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(values | extra, indent=2, sort_keys=True) + "\n")


def _read(kind: str, folder: Path, width: int) -> Tensor:
    values = read_json(folder / CONFIG, _LONGEST)
    if (found := values.get("peft_type")) != kind:
        raise UserError(f"{folder / CONFIG}: peft_type is {shown(found)}; {kind} is needed here")
    if values.get("prefix_projection"):
        raise UserError(f"{folder / CONFIG}: prefix_projection is not supported; save the prefix without it")
    path = folder / WEIGHTS
    header = read_header(path)
    tensors = dict(read_tensors(path, header))
    if set(tensors) != {_NAME}:
        raise UserError(f"{path}: {_NAME} alone is expected, found {', '.join(sorted(tensors)) or 'nothing'}")
    rows = tensors[_NAME].float()
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
        raise UserError(f"{path}: {_NAME} are {tuple(rows.shape)}; of this model they are (tokens, {width})")
    if not rows.isfinite().all():
        raise UserError(f"{path}: {_NAME} hold NaN or infinity; copy them again")
    return rows
