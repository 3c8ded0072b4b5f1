"""SentencePiece models (arXiv:1808.06226): BPE and Unigram, with byte fallback and the model's own normalisation.

The file is one Protocol Buffers message (sentencepiece_model.proto). Its algorithm is rebuilt from parts of the
`tokenizers` library, id for id. What that library cannot express is refused, but for this: where pieces overlap
themselves, such as "aa" in "aaa", BPE may cut elsewhere; the normaliser goes by what a reader sees as one character,
and where it replaces a letter it loses a mark behind it; and where the letters of `<0x41>` are unknown to a Unigram,
that text becomes the byte.
"""

import base64
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from underlay.errors import UserError
from underlay.formats.tokenizers.protobuf import fields
from underlay.text.files import CONFIG, MOST_IDS, Config, parse_backend, read_object

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)

# Those whose ids are not the file's: they put their own tokens before it.
_SHIFTED = (
    "XLMRoberta",
    "Camembert",
    "MBart",
    "Nllb",
    "M2M100",
    "Barthez",
    "XGLM",
    "Pegasus",
    "BigBird",
    "Speech2Text",
)
_BOS_FIRST = ("Llama", "CodeLlama", "Gemma", "Mistral")
_EOS_LAST = ("T5", "MT5", "UMT5")


@dataclass
class Model:
    """What a model file says, as far as encoding needs it; defaults are the format's."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    kind: int = UNIGRAM
    byte_fallback: bool = False
    space_behind: bool = False
    roles: dict[int, int] = field(default_factory=lambda: {40: 0, 41: 1, 42: 2, 43: -1})
    """Ids of the unknown, the beginning, the end and padding, by their field in the file; -1 is none."""
    charsmap: bytes = b""
    prefix: bool = True
    squeeze: bool = True
    escape: bool = True


def parse_model(data: bytes) -> Model:
    """Read a model file. Raises ValueError where it is damaged."""
    model = Model()
    for number, value in fields(data):
        if number == 1:
            model.pieces.append(_piece(_bytes(value)))
            if len(model.pieces) > MOST_IDS:
                raise ValueError("more pieces than any model has tokens")
        elif number == 2:
            for key, inner in fields(_bytes(value)):
                if key == 3:
                    model.kind = _number(inner)
                elif key == 24:
                    model.space_behind = bool(inner)
                elif key == 35:
                    model.byte_fallback = bool(inner)
                elif key in model.roles:
                    model.roles[key] = _signed(inner)
        elif number == 3:
            for key, inner in fields(_bytes(value)):
                if key == 2:
                    model.charsmap = _bytes(inner)
                elif key == 3:
                    model.prefix = bool(inner)
                elif key == 4:
                    model.squeeze = bool(inner)
                elif key == 5:
                    model.escape = bool(inner)
    if not model.pieces:
        raise ValueError("it has no pieces")
    return model


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in fields(data):
        if number == 1:
            text = _bytes(value).decode("utf-8")
        elif number == 2:
            (score,) = struct.unpack("<f", _bytes(value))
        elif number == 3:
            kind = _number(value)
    if len(text) > 4096:
        raise ValueError("a piece of thousands of characters")
    if not abs(score) < 1e30:
        raise ValueError(f"the score of {text!r} is no number")
    return text, score, kind


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text should be")
    return value


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("text where a number should be")
    return value


def _signed(value: int | bytes) -> int:
    number = _number(value)
    return number - (1 << 64) if number >> 63 else number


def read_sentencepiece(path: Path, folder: Path) -> tuple[Backend, Config]:
    """The algorithm of a model file, and its roles. Raises UserError naming the file."""
    if path.stat().st_size > 64 << 20:
        raise UserError(f"{path}: larger than 64 MiB, which no such file is; bring the right file")
    try:
        model = parse_model(path.read_bytes())
    except (ValueError, struct.error) as error:
        raise UserError(f"{path}: not a SentencePiece model: {error}") from error
    _refuse_inexact(path, folder, model)
    source = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(index, text, kind, late=not (model.charsmap or model.squeeze))
            for index, (text, _, kind) in enumerate(model.pieces)
            if kind in (UNKNOWN, CONTROL) or (kind == USER and model.kind == BPE)
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(model)},
        "model": _bpe(model) if model.kind == BPE else _unigram(model),
    }
    backend = parse_backend(json.dumps(source), str(path))
    return backend, _roles(model, folder)


def _refuse_inexact(path: Path, folder: Path, model: Model) -> None:
    if model.kind not in (UNIGRAM, BPE):
        raise UserError(f"{path}: a SentencePiece model of words or characters; only BPE and Unigram are supported")
    if model.space_behind or not model.escape:
        raise UserError(f"{path}: marks spaces in a way that is not supported; bring a tokenizer.json")
    texts = [text for text, _, _ in model.pieces]
    if len(set(texts)) != len(texts):
        raise UserError(f"{path}: the same piece twice; bring the file again")
    if any(kind == UNUSED for _, _, kind in model.pieces):
        raise UserError(f"{path}: has pieces that are marked unused, which is not supported; bring a tokenizer.json")
    if model.kind == BPE and model.prefix and any(kind == USER for _, _, kind in model.pieces):
        # The library cuts at symbols first, and would put the leading space behind each of them.
        raise UserError(f"{path}: a leading space beside user-defined symbols is not supported; bring a tokenizer.json")
    if not 0 <= model.roles[40] < len(texts) or model.pieces[model.roles[40]][2] != UNKNOWN:
        raise UserError(f"{path}: its unknown piece is not in the file; bring the file again")
    if model.byte_fallback and {f"<0x{b:02X}>" for b in range(256)} - set(texts):
        raise UserError(f"{path}: says that it falls back to bytes, but lacks some; bring the file again")
    name = str(read_object(folder / CONFIG).get("tokenizer_class", ""))
    if name.startswith(_SHIFTED):
        raise UserError(f"{path}: a {name} shifts the ids of this file; bring its tokenizer.json")


def _added(index: int, text: str, kind: int, late: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": kind != USER}
    # A run of spaces as a symbol can only be found once spaces are marked; where runs are squeezed there is none.
    return {"id": index, "content": text, **flags, "normalized": late and kind == USER and "▁" in text}


def _normalizers(model: Model) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.squeeze:
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if model.prefix:
        steps.append({"type": "Prepend", "prepend": "▁"})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]


def _decoders(model: Model) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    if model.byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if model.prefix or model.squeeze:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _bpe(model: Model) -> dict[str, Any]:
    """BPE by merges: each way to put a piece together from two others, the best piece first."""
    scores = {text: score for text, score, kind in model.pieces if kind == NORMAL}
    merges = [
        (-score, length, text[:length], text[length:])
        for text, score in scores.items()
        for length in range(1, len(text))
        if text[:length] in scores and text[length:] in scores
    ]
    return {
        "type": "BPE",
        "unk_token": model.pieces[model.roles[40]][0],
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "vocab": {text: index for index, (text, _, _) in enumerate(model.pieces)},
        "merges": [[left, right] for _, _, left, right in sorted(merges)],
    }


def _unigram(model: Model) -> dict[str, Any]:
    normal = [score for _, score, kind in model.pieces if kind == NORMAL] or [0.0]
    least, best = 6 * min(0.0, *normal), max(0.0, *normal)

    def scored(text: str, score: float, kind: int) -> float:
        if kind == BYTE:
            return least  # the library finds every piece in text; a byte's name is to lose against its six letters
        if kind == USER:
            return len(text.encode()) * best - 0.1  # as SentencePiece has it, so that symbols win
        return score

    vocabulary = [(piece[0], scored(*piece)) for piece in model.pieces]
    return {
        "type": "Unigram",
        "unk_id": model.roles[40],
        "vocab": vocabulary,
        "byte_fallback": model.byte_fallback,
    }


def _roles(model: Model, folder: Path) -> Config:
    keys = {40: "unk_token", 41: "bos_token", 42: "eos_token", 43: "pad_token"}
    count = len(model.pieces)
    config: Config = {keys[k]: model.pieces[index][0] for k, index in model.roles.items() if 0 <= index < count}
    name = str(read_object(folder / CONFIG).get("tokenizer_class", ""))
    if name.startswith(_BOS_FIRST):
        config["add_bos_token"] = True
    if name.startswith(_EOS_LAST):
        config["add_eos_token"] = True
    return config
