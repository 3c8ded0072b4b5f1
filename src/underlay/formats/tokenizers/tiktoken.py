r"""Files of ranks (tiktoken; Llama 3): one token a line, its bytes in base64 and its id.

Two neighbours merge where their bytes together are a token, the lowest id first, so the merges follow from the ids.
What the file does not hold, the regular expression that cuts text into pieces and the special tokens behind the last
id, is known for the families below, by the file's name or the number of its tokens; others name their expression as
`pat_str` in `tokenizer_config.json`.
"""

import base64
import binascii
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from underlay.errors import UserError
from underlay.text.backend import byte_alphabet
from underlay.text.files import CONFIG, MOST_IDS, Config, added_tokens, parse_backend, read_object, read_text

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
QWEN = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_LLAMA3 = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{index}|>" for index in range(4)),
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
    *(f"<|reserved_special_token_{index}|>" for index in range(5, 251)),
]
_END = {"eos_token": "<|endoftext|>"}

# Name: tokens in the file, expression, special tokens by id, roles.
FAMILIES: dict[str, tuple[int, str, dict[int, str], Config]] = {
    "r50k_base": (50256, GPT2, {50256: "<|endoftext|>"}, _END),
    "p50k_base": (50280, GPT2, {50256: "<|endoftext|>"}, _END),
    "cl100k_base": (
        100256,
        CL100K,
        {
            100257: "<|endoftext|>",
            100258: "<|fim_prefix|>",
            100259: "<|fim_middle|>",
            100260: "<|fim_suffix|>",
            100276: "<|endofprompt|>",
        },
        _END,
    ),
    "o200k_base": (199998, O200K, {199999: "<|endoftext|>", 200018: "<|endofprompt|>"}, _END),
    "qwen": (
        151643,
        QWEN,
        dict(enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 151643)),
        _END | {"stop_tokens": ["<|im_end|>"]},
    ),
    "llama3": (
        128000,
        CL100K,
        dict(enumerate(_LLAMA3, 128000)),
        {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
            "stop_tokens": ["<|eot_id|>"],
            "add_bos_token": True,
        },
    ),
}

_LINE = re.compile(rb"[A-Za-z0-9+/=]+ [0-9]+\s*")


def looks_like_ranks(path: Path) -> bool:
    """Whether the file's first line is base64 and a number."""
    with path.open("rb") as file:
        return _LINE.fullmatch(file.readline(4096)) is not None


def read_ranks(path: Path, folder: Path) -> tuple[Backend, Config]:
    """The algorithm of a file of ranks, and its roles. Raises UserError naming the file."""
    ranks = parse_ranks(path)
    pattern, special, config = _family(path, folder, len(ranks))
    special = special | {index: text for index, text, _ in added_tokens(folder)}
    alphabet = {byte: char for char, byte in byte_alphabet().items()}
    names = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    merges = [
        (rank, length, names[token[:length]], names[token[length:]])
        for token, rank in ranks.items()
        for length in range(1, len(token))
        if token[:length] in ranks and token[length:] in ranks
    ]
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    if taken := set(ranks.values()) & special.keys():
        raise UserError(f"{path}: the id {min(taken)} is a token's and a special token's; mend {CONFIG}")
    if max(special, default=0) > MOST_IDS:
        raise UserError(f"{folder / CONFIG}: an id of {max(special)}; no model has so many tokens")
    first = max(ranks.values()) + 1
    vocabulary |= {text: index for index, text in special.items() if index < first}  # in a gap between others
    behind = {index: special.get(index, f"<|reserved_{index}|>") for index in range(first, max(special, default=0) + 1)}
    added = [
        {
            "id": index,
            "content": text,
            "special": True,
            "normalized": False,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
        }
        for index, text in sorted((special | behind).items())
    ]
    source = byte_level(pattern, vocabulary, [[left, right] for _, _, left, right in sorted(merges)], added)
    source["model"]["ignore_merges"] = True  # a piece that is a token is that token, however it would merge
    return parse_backend(json.dumps(source), str(path)), config


def byte_level(pattern: str, vocabulary: dict[str, int], merges: list[Any], added: list[Any]) -> dict[str, Any]:
    """The JSON of a byte-level BPE that first cuts text by an expression."""
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, byte_step]},
        "post_processor": None,
        "decoder": {**byte_step, "add_prefix_space": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }


def parse_ranks(path: Path) -> dict[bytes, int]:
    """Bytes to id. Raises UserError naming the line that is damaged, and where one of the 256 bytes is missing."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_text(path, 64 << 20).splitlines(), 1):
        if not line.strip():
            continue
        text, _, rank = line.partition(" ")
        try:
            token = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(f"{path}:{number}: not base64 and a number") from error
        if not rank.strip().isdecimal() or len(rank) > 9 or int(rank) > MOST_IDS:
            raise UserError(f"{path}:{number}: {rank[:20]!r} is no id of a token")
        if not token or len(token) > 1024 or token in ranks:
            raise UserError(f"{path}:{number}: an empty, overlong or repeated token; bring the file again")
        ranks[token] = int(rank)
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise UserError(f"{path}: lacks some of the 256 bytes; bring the file again")
    if len(set(ranks.values())) != len(ranks):
        raise UserError(f"{path}: the same id twice; bring the file again")
    return ranks


def _family(path: Path, folder: Path, count: int) -> tuple[str, dict[int, str], Config]:
    config = read_object(folder / CONFIG)
    if isinstance(pattern := config.get("pat_str"), str):
        return pattern, {}, {}
    for name, (_, pattern, special, roles) in FAMILIES.items():
        if path.stem.startswith(name):
            return pattern, special, roles
    for size, pattern, special, roles in FAMILIES.values():
        if size == count:
            return pattern, special, roles
    raise UserError(
        f"{path}: {count} tokens are of no family that is known; put the expression that cuts its text into {CONFIG} "
        "as pat_str"
    )
