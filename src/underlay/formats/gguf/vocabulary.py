"""A tokenizer.json as GGUF's metadata: tokens, their kinds, merges or scores, and the special ones.

llama.cpp has tokenizers of its own and rebuilds ours from these tables (src/llama-vocab.cpp). It knows the regular
expressions that split text before byte-level BPE by name only, so an expression it does not know gets the nearest name
and a warning: such a file may cut some texts differently.
"""

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from underlay.errors import UserError
from underlay.formats.gguf.container import Value

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "\u2581"

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_QWEN2 = f"{_CONTRACTIONS}{_WORD}|\\p{{N}}{_TAIL}"
_LLAMA3 = f"{_CONTRACTIONS}{_WORD}|\\p{{N}}{{1,3}}{_TAIL}"
_KNOWN = {_GPT2: "gpt-2", rf"{_GPT2}|\s+": "gpt-2", _QWEN2: "qwen2", _LLAMA3: "smaug-bpe"}
_DIGITS = r"\p{N}"


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer, and which of its tokens mean something to the model."""

    document: Mapping[str, Any]
    """The JSON of a tokenizer.json."""
    bos: int | None = None
    eos: int | None = None
    end_of_turn: int | None = None
    unknown: int | None = None
    padding: int | None = None
    separator: int | None = None
    classification: int | None = None
    mask: int | None = None
    add_bos: bool = False
    """Whether a text begins with bos (in encoders: with the classification token)."""
    add_eos: bool = False
    chat_template: str | None = None
    """Jinja."""


def tokenizer_metadata(facts: TokenizerFacts, vocabulary: int, types: int) -> tuple[dict[str, Value], list[str]]:
    """The keys under `tokenizer.`, and warnings where llama.cpp may cut texts differently.

    vocabulary: rows of the embedding; tokens are filled up to them with unused ones. types: rows of the embedding of
    token types, 0 for none. Raises UserError for a tokenizer that llama.cpp cannot rebuild.
    """
    model = facts.document.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("vocab"), Mapping):
        kind = model.get("type") if isinstance(model, Mapping) else None
        raise UserError(f"a tokenizer of type {kind} cannot be written as GGUF; BPE and WordPiece can")
    tokens, kinds = _tokens(facts, vocabulary)
    warnings: list[str] = []
    steps = {step.get("type"): step for step in _steps(facts.document.get("normalizer"), "normalizers")}
    found: dict[str, Value]
    if model.get("type") == "WordPiece":
        found = _wordpiece(tokens, kinds, model, steps, warnings)
    elif model.get("type") == "BPE" and model.get("byte_fallback"):
        found = _sentencepiece(tokens, kinds, model, steps, facts, warnings)
    elif model.get("type") == "BPE":
        found = _byte_level(tokens, model, facts, steps, warnings)
    else:
        raise UserError(f"a tokenizer of type {model.get('type')} cannot be written as GGUF; BPE and WordPiece can")
    if len(set(tokens)) < len(tokens):  # llama.cpp ends its process on such a file
        twice = Counter(tokens).most_common(1)[0][0]
        raise UserError(f"token {twice!r} would stand twice in the GGUF file")
    found |= {"tokens": tokens, "token_type": kinds, "add_bos_token": facts.add_bos, "add_eos_token": facts.add_eos}
    ids = {
        "bos": facts.bos if facts.bos is not None or model.get("type") != "WordPiece" else facts.classification,
        "eos": facts.eos,
        "eot": facts.end_of_turn,
        "unknown": facts.unknown,
        "padding": facts.padding,
        "seperator": facts.separator,  # the key is spelled so
        "cls": facts.classification,
        "mask": facts.mask,
    }
    for name, number in ids.items():
        if number is not None and not 0 <= number < vocabulary:
            raise UserError(f"the {name} token {number} has no row in the model's embedding, which has {vocabulary}")
    found |= {f"{name}_token_id": number for name, number in ids.items() if number is not None}
    if types:
        found["token_type_count"] = types
    named: dict[str, Value] = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
    if facts.chat_template is not None:
        named["tokenizer.chat_template"] = facts.chat_template
    return named, warnings


def _tokens(facts: TokenizerFacts, vocabulary: int) -> tuple[list[str], list[int]]:
    """Text and kind of each row of the embedding."""
    bytes_too = bool(facts.document["model"].get("byte_fallback"))
    by_id: dict[int, tuple[str, int]] = {
        number: (token, BYTE if bytes_too and _is_byte(token) else NORMAL)
        for token, number in facts.document["model"]["vocab"].items()
    }
    for added in facts.document.get("added_tokens") or []:
        special, content = bool(added.get("special")), str(added["content"])
        # llama.cpp looks for these in the text itself, before spaces are marked.
        text = content.replace(_SPACE, " ") if bytes_too and not special else content
        by_id[added["id"]] = (text, CONTROL if special else USER_DEFINED)
    if bytes_too and facts.unknown in by_id:
        by_id[facts.unknown] = (by_id[facts.unknown][0], UNKNOWN)
    beyond = [number for number in by_id if not 0 <= number < vocabulary]
    if beyond:
        raise UserError(f"token {max(beyond)} has no row in the model's embedding, which has {vocabulary}")
    filled = [by_id.get(number, (f"[PAD{number}]", UNUSED)) for number in range(vocabulary)]
    return [token for token, _ in filled], [kind for _, kind in filled]


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _steps(part: Any, key: str) -> list[Mapping[str, Any]]:
    """The steps of a normaliser or pre-tokenizer, flat."""
    if not isinstance(part, Mapping):
        return []
    if part.get("type") == "Sequence":
        return [step for inner in part[key] for step in _steps(inner, key)]
    return [part]


def _byte_level(
    tokens: list[str],
    model: Mapping[str, Any],
    facts: TokenizerFacts,
    normalizers: Mapping[Any, Mapping[str, Any]],
    warnings: list[str],
) -> dict[str, Value]:
    steps = _steps(facts.document.get("pre_tokenizer"), "pretokenizers")
    level = next((step for step in steps if step.get("type") == "ByteLevel"), None)
    if level is None:
        raise UserError("a BPE tokenizer that is not byte-level cannot be written as GGUF")
    if normalizers:
        names = ", ".join(str(name) for name in normalizers)
        warnings.append(f"llama.cpp does not normalise text ({names}): texts in other forms may be cut differently")
    ignores = bool(model.get("ignore_merges"))
    pre, exact = _pre(steps, bool(level.get("use_regex", True)), ignores)
    if not exact:
        warnings.append(f"llama.cpp has no name for this pre-tokenizer; {pre} is nearest: texts may be cut differently")
    if any(len(parts) != 2 or any(" " in part for part in parts) for parts in _merges(model)):
        raise UserError("a merge of this tokenizer does not have two parts without spaces")
    found: dict[str, Value] = {"model": "gpt2", "pre": pre, "add_space_prefix": bool(level.get("add_prefix_space"))}
    if merges := [" ".join(parts) for parts in _merges(model)]:
        return found | {"merges": merges}
    # An empty array has no type, and llama.cpp refuses a file without any: this merge never applies.
    return found | {"merges": [f"{tokens[0]} {tokens[0]}"]}


def _merges(model: Mapping[str, Any]) -> list[list[str]]:
    return [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model.get("merges") or []]


def _pre(steps: list[Mapping[str, Any]], own: bool, ignores: bool) -> tuple[str, bool]:
    """llama.cpp's name for what splits the text, and whether it splits just so."""
    patterns, exact = [], True
    for step in steps:
        if step.get("type") == "Split":
            pattern = step.get("pattern") or {}
            patterns.append(str(pattern.get("Regex", pattern.get("String"))))
            exact &= step.get("behavior") == "Isolated" and not step.get("invert") and "Regex" in pattern
        elif step.get("type") == "Digits":
            patterns.append(_DIGITS)
            exact &= bool(step.get("individual_digits"))
        elif step.get("type") != "ByteLevel":
            exact = False
    if own:
        patterns.append(_GPT2)
    if patterns and patterns[0] == _DIGITS and len(patterns) == 2 and _KNOWN.get(patterns[1]) == "gpt-2":
        return "smollm", exact and not ignores
    whole = "|".join(patterns)
    near = whole if whole in _KNOWN else (difflib.get_close_matches(whole, _KNOWN, n=1, cutoff=0.0) or [_GPT2])[0]
    name = _KNOWN[near]
    if name == "smaug-bpe" and ignores:  # the same expression; whole words skip their merges
        return "llama-bpe", exact and near == whole
    return name, exact and near == whole and not ignores


def _sentencepiece(
    tokens: list[str],
    kinds: list[int],
    model: Mapping[str, Any],
    normalizers: Mapping[Any, Mapping[str, Any]],
    facts: TokenizerFacts,
    warnings: list[str],
) -> dict[str, Value]:
    """Merges become scores: the earlier a token can be made, the higher."""
    ranks: dict[str, int] = {}
    for rank, parts in enumerate(_merges(model)):
        ranks.setdefault("".join(parts), rank)
    if sum(kind == BYTE for kind in kinds) != 256:
        raise UserError("a tokenizer that falls back to bytes needs all 256 byte tokens in GGUF")
    others = set(normalizers) - {"Prepend", "Replace"}
    if others:
        warnings.append(f"llama.cpp does not normalise text ({', '.join(map(str, others))}): it may cut differently")
    scores = [
        0.0 if kind != NORMAL else -float(ranks.get(token, 10**6)) for token, kind in zip(tokens, kinds, strict=True)
    ]
    steps = _steps(facts.document.get("pre_tokenizer"), "pretokenizers")
    prefix = "Prepend" in normalizers or any(step.get("prepend_scheme") in ("always", "first") for step in steps)
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": prefix}


def _wordpiece(
    tokens: list[str],
    kinds: list[int],
    model: Mapping[str, Any],
    normalizers: Mapping[Any, Mapping[str, Any]],
    warnings: list[str],
) -> dict[str, Value]:
    """Beginnings of words get the mark that SentencePiece has, continuations lose theirs."""
    mark = str(model.get("continuing_subword_prefix", "##"))
    for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == NORMAL:
            tokens[index] = token.removeprefix(mark) if token.startswith(mark) else _SPACE + token
    bert = normalizers.get("BertNormalizer")
    if bert is None or len(normalizers) > 1 or not bert.get("handle_chinese_chars", True):
        warnings.append("llama.cpp normalises as BERT does; this tokenizer does not: texts may be cut differently")
    lower = bool((bert or {}).get("lowercase", False))
    accents = (bert or {}).get("strip_accents")
    return {
        "model": "bert",
        "pre": "default",
        "normalizer.lowercase": lower,
        "normalizer.strip_accents": lower if accents is None else bool(accents),
    }
