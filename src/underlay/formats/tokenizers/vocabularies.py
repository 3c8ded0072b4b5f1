"""Vocabularies as plain lists: `vocab.json` with `merges.txt` (GPT-2, RoBERTa, Qwen 2), and `vocab.txt` (BERT)."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from underlay.errors import UserError
from underlay.formats.tokenizers.tiktoken import QWEN, byte_level
from underlay.text.files import CONFIG, MOST_IDS, Config, parse_backend, read_json, read_object, read_text

_ROBERTA = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>", "unk_token": "<unk>"}
_BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]", "unk_token": "[UNK]"}


def read_merges(folder: Path) -> tuple[Backend, Config]:
    """Byte-level BPE from `vocab.json` and `merges.txt`. Raises UserError naming the file that is damaged."""
    path = folder / "vocab.json"
    vocabulary = _numbered(read_json(path), path)
    lines = read_text(folder / "merges.txt").splitlines()
    if lines and lines[0].startswith("#version"):
        del lines[0]
    merges = [line.split(" ") for line in lines if line.strip()]
    for number, merge in enumerate(merges, 1):
        if len(merge) != 2:
            raise UserError(f"{folder / 'merges.txt'}: merge {number} is not two tokens; bring the file again")
    if any(token.endswith("</w>") for token in vocabulary):
        raise UserError(f"{path}: marks the ends of words, for which it does not say enough; bring its tokenizer.json")
    config = read_object(folder / CONFIG)
    name = str(config.get("tokenizer_class", ""))
    source = byte_level(QWEN, vocabulary, merges, [])
    if name.startswith("Qwen"):
        source["normalizer"] = {"type": "NFC"}
        defaults: Config = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    else:
        prefix = bool(config.get("add_prefix_space", False))
        cut = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
        source["pre_tokenizer"] = cut
        defaults = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
        if {"<s>", "</s>", "<mask>"} <= vocabulary.keys():
            defaults = _ROBERTA | {"bos_token": "<s>", "eos_token": "</s>"}
            source["post_processor"] = {
                "type": "RobertaProcessing",
                "sep": ["</s>", vocabulary["</s>"]],
                "cls": ["<s>", vocabulary["<s>"]],
                "trim_offsets": True,
                "add_prefix_space": prefix,
            }
    source["added_tokens"] = _special(vocabulary, defaults)
    return parse_backend(json.dumps(source), str(path)), defaults


def read_words(folder: Path) -> tuple[Backend, Config]:
    """WordPiece (BERT, arXiv:1810.04805) from `vocab.txt`. Raises UserError naming the file where it is damaged."""
    path = folder / "vocab.txt"
    tokens = read_text(path).split("\n")
    if tokens[-1] == "":
        del tokens[-1]
    vocabulary = {token.removesuffix("\r"): index for index, token in enumerate(tokens)}
    if not tokens or "[UNK]" not in vocabulary:
        raise UserError(f"{path}: no [UNK], so not a vocabulary of WordPiece; bring a tokenizer.json")
    config = read_object(folder / CONFIG)
    lower = config.get("do_lower_case", True)
    accents = config.get("strip_accents")
    source: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _special(vocabulary, _BERT),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
            "strip_accents": accents if isinstance(accents, bool) else None,
            "lowercase": bool(lower),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _brackets(vocabulary, path),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }
    return parse_backend(json.dumps(source), str(path)), dict(_BERT)


def _brackets(vocabulary: dict[str, int], path: Path) -> dict[str, Any]:
    """`[CLS] a [SEP]`, and `[CLS] a [SEP] b [SEP]` with the second half's type 1."""
    if not {"[CLS]", "[SEP]"} <= vocabulary.keys():
        raise UserError(f"{path}: no [CLS] and [SEP]; bring a tokenizer.json")

    def mark(name: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    single = [mark("[CLS]", 0), {"Sequence": {"id": "A", "type_id": 0}}, mark("[SEP]", 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}, mark("[SEP]", 1)],
        "special_tokens": {
            name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
        },
    }


def _special(vocabulary: dict[str, int], roles: Config) -> list[dict[str, Any]]:
    flags = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
    names = sorted({name for name in roles.values() if name in vocabulary}, key=lambda name: vocabulary[name])
    return [{"id": vocabulary[name], "content": name, "lstrip": name == "<mask>", **flags} for name in names]


def _numbered(value: Any, path: Path) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path}: not a vocabulary: an object of tokens and ids")
    if any(
        not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < MOST_IDS for index in value.values()
    ):
        raise UserError(f"{path}: an id is no number, or larger than any model's")
    if len(set(value.values())) != len(value):
        raise UserError(f"{path}: the same id twice; bring the file again")
    return value
