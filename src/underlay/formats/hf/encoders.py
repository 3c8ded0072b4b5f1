"""Encoders of `transformers`: one layout a model type, and how `sentence-transformers` notes what makes a vector."""

import json
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from underlay.errors import UserError
from underlay.formats.hf.layout import Layout, Values, choice, count
from underlay.formats.keymap import Row, Tensors, moved, same
from underlay.formats.untrusted import shown
from underlay.models.bert import BertConfig
from underlay.models.encoder import EncoderConfig
from underlay.models.roberta import RobertaConfig
from underlay.text.files import read_json

_PARTS = ("weight", "bias")
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}
_FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "hidden": "intermediate_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
    "tied": "tie_word_embeddings",
}
_DEFAULTS = {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "tie_word_embeddings": True}
_FIXED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


def _trunk(name: str) -> tuple[Row, ...]:
    ours, theirs = "blocks.{layer}", f"{name}.encoder.layer.{{layer}}"
    return (
        *same("embedding.weight", f"{name}.embeddings.word_embeddings.weight"),
        *same("positions.weight", f"{name}.embeddings.position_embeddings.weight"),
        *same("types.weight", f"{name}.embeddings.token_type_embeddings.weight"),
        *same("embedding_norm", f"{name}.embeddings.LayerNorm", *_PARTS),
        *same(f"{ours}.attention.query", f"{theirs}.attention.self.query", *_PARTS),
        *same(f"{ours}.attention.key", f"{theirs}.attention.self.key", *_PARTS),
        *same(f"{ours}.attention.value", f"{theirs}.attention.self.value", *_PARTS),
        *same(f"{ours}.attention.output", f"{theirs}.attention.output.dense", *_PARTS),
        *same(f"{ours}.attention_out_norm", f"{theirs}.attention.output.LayerNorm", *_PARTS),
        *same(f"{ours}.mlp.up", f"{theirs}.intermediate.dense", *_PARTS),
        *same(f"{ours}.mlp.down", f"{theirs}.output.dense", *_PARTS),
        *same(f"{ours}.mlp_out_norm", f"{theirs}.output.LayerNorm", *_PARTS),
        *same("pooler", f"{name}.pooler.dense", *_PARTS),
    )


_BERT_HEAD = (
    *same("masked.dense", "cls.predictions.transform.dense", *_PARTS),
    *same("masked.norm", "cls.predictions.transform.LayerNorm", *_PARTS),
    *same("masked.bias", "cls.predictions.bias"),
    *same("head.weight", "cls.predictions.decoder.weight"),
)
_ROBERTA_HEAD = (
    *same("masked.dense", "lm_head.dense", *_PARTS),
    *same("masked.norm", "lm_head.layer_norm", *_PARTS),
    *same("masked.bias", "lm_head.bias"),
    *same("head.weight", "lm_head.decoder.weight"),
)


def _reader(first_position: int) -> Any:
    def read(values: Values, ours: Values, where: str) -> Values:  # noqa: ARG001
        activation = choice(values, "hidden_act", _ACTIVATIONS, "gelu", where)
        rows = count(values, "max_position_embeddings", 512, where)
        if rows <= first_position:
            raise UserError(f"{where}: max_position_embeddings is {rows}; there must be more than {first_position}")
        return {"activation": activation, "context": rows - first_position}

    return read


def _writer(first_position: int) -> Any:
    def write(config: EncoderConfig) -> Values:
        names = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
        if config.activation not in names:
            raise UserError(f"a {config.family} with the activation {config.activation} has no place in this format")
        rows = config.context + first_position
        ids = {"pad_token_id": first_position - 1} if first_position else {}
        types = {} if config.types else {"type_vocab_size": 1}  # one there must be; see `arranged`
        return {"hidden_act": names[config.activation], "max_position_embeddings": rows, **ids, **types}

    return write


def _layout(name: str, architecture: str, config: type[EncoderConfig], head: tuple[Row, ...], **more: Any) -> Layout:
    first = config.first_position
    usual: dict[str, Any] = {"fields": _FIELDS, "defaults": _DEFAULTS, "fixed": _FIXED, "prefix": f"{name}."}
    rest = {"rows": (*_trunk(name), *head), "read": _reader(first), "write": _writer(first)}
    return Layout(model_type=name, architecture=architecture, config=config, **{**usual, **rest, **more})


LAYOUTS = (
    _layout(
        "bert",
        "BertForMaskedLM",
        BertConfig,
        _BERT_HEAD,
        left_out=(r"(bert\.)?embeddings\.position_ids", r"cls\.seq_relationship\..*"),
        copies={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
    ),
    _layout(
        "roberta",
        "RobertaForMaskedLM",
        RobertaConfig,
        _ROBERTA_HEAD,
        left_out=(r"(roberta\.)?embeddings\.position_ids",),
        copies={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    ),
)


def shift(layout: Layout, values: Values, where: str) -> int:
    """How many more rows than ours their table of positions begins with: RoBERTa's follow the id that pads."""
    first = layout.config.first_position if issubclass(layout.config, EncoderConfig) else 0
    pad = count({"pad_token_id": values.get("pad_token_id")}, "pad_token_id", first - 1, where) if first else -1
    return pad + 1 - first


def arranged(layout: Layout, config: EncoderConfig, rows: Sequence[Row], by: int, names: Container[str]) -> list[Row]:
    """The rows, as far as they depend on the model. by: what `shift` says; names: what a file has, or is to have."""
    result = []
    for row in rows:
        copy = next((copy for copy, original in layout.copies.items() if (original,) == row.theirs), "")
        if row.ours == ("positions.weight",) and by:
            result.append(moved(row.ours[0], row.theirs[0], by))
        elif row.ours == ("masked.bias",) and not config.tied and copy in names:
            # Their head adds the copy. Only where the head is tied does that follow the original.
            result.append(Row(row.ours, (copy,)))
        else:
            result.append(row)
    if not config.types:
        name = f"{layout.prefix}embeddings.token_type_embeddings.weight"
        result.append(Row((), (name,), _no_types, lambda _: [torch.zeros(1, config.width)]))
    return result


def biases(layout: Layout, rows: Sequence[Row]) -> list[Row]:
    """Rows that write the head's bias under its second name too, which newer readers add where nothing is tied."""
    found = []
    for row in rows:
        copy = next((copy for copy, original in layout.copies.items() if (original,) == row.theirs), "")
        if row.ours == ("masked.bias",):
            found.append(Row(row.ours, (copy,), write=lambda tensors: [tensors[0].clone()]))
    return found


def _no_types(tensors: Tensors) -> Tensors:
    if tensors[0].any():
        raise UserError("token_type_embeddings must be 0 in a model that has no types")
    return []


def heads_in(names: Iterable[str]) -> Values:
    """Which heads a file has, from the names of its tensors: our fields."""
    there = set(names)
    masked = any(name.startswith(("cls.predictions.", "lm_head.")) for name in there)
    return {"masked_head": masked, "pooler": any("pooler.dense." in name for name in there)}


_POOLING = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
_MODULES = "modules.json"


def read_pooling(folder: Path) -> Values:
    """How the folder of a `sentence-transformers` model makes vectors: our fields; none where it is no such folder."""
    if not (folder / _MODULES).exists():
        return {}
    modules = read_json(folder / _MODULES)
    if not isinstance(modules, list):
        raise UserError(f"{folder / _MODULES}: must be a list of modules")
    kinds = {str(module.get("type", "")).rpartition(".")[2]: module for module in modules if isinstance(module, dict)}
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise UserError(f"{folder / _MODULES}: module {unknown[0]!r} is not known; vectors would be others without it")
    _check_texts(folder)
    path = folder / "1_Pooling" / "config.json"
    if "Pooling" not in kinds or not path.exists():
        return {"normalised": "Normalize" in kinds}
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold keys and values")
    used = [key for key, value in values.items() if key.startswith("pooling_mode_") and value is True]
    ours = [name for name, key in _POOLING.items() if [key] == used]
    if not ours:
        raise UserError(
            f"{path}: pooling by {', '.join(used) or 'nothing'} is not known; there are {', '.join(_POOLING)}"
        )
    return {"pooling": ours[0], "normalised": "Normalize" in kinds}


def _check_texts(folder: Path) -> None:
    """Raise UserError where texts are to be changed first in a way that we do not."""

    def told(name: str) -> Values:
        found = read_json(folder / name) if (folder / name).exists() else {}
        return found if isinstance(found, dict) else {}

    texts, lower = "config_sentence_transformers.json", "sentence_bert_config.json"
    prompts, default = told(texts).get("prompts"), told(texts).get("default_prompt_name")
    prompt = prompts.get(default) if isinstance(prompts, dict) and isinstance(default, str) else None
    if prompt:
        raise UserError(
            f"{folder / texts}: {shown(prompt)} is to stand before each text, which is not done here; set "
            "default_prompt_name to null there, and write it before your texts"
        )
    if told(lower).get("do_lower_case") is True and told("tokenizer_config.json").get("do_lower_case") is not True:
        raise UserError(
            f"{folder / lower}: texts are to be lower-cased first, which is not done here; set do_lower_case to false "
            "there, and lower-case your texts"
        )


def write_pooling(config: EncoderConfig, folder: Path) -> None:
    """Note for `sentence-transformers` how vectors are made."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if config.normalised else [])]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": "" if kind == "Transformer" else f"{index}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    (folder / _MODULES).write_text(json.dumps(modules, indent=2) + "\n", "utf-8")
    values: Values = {"word_embedding_dimension": config.width}
    values |= {key: name == config.pooling for name, key in _POOLING.items()}
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    if config.normalised:
        (folder / "2_Normalize").mkdir()
