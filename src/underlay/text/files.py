"""The files of a tokenizer's folder, in the layout of the field: read with bounds, and written.

`tokenizer.json` holds the algorithm (the format of the `tokenizers` library). `tokenizer_config.json` says which tokens
play which role, and holds the chat template. Older folders keep parts of it in `special_tokens_map.json`,
`chat_template.jinja`, `generation_config.json` and `sentence_bert_config.json`; those are read as well.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from underlay.errors import UserError
from underlay.text.backend import steps
from underlay.text.special import ROLE_KEYS

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
SENTENCES = "sentence_bert_config.json"

# Larger than any tokenizer that exists, smaller than what would fill a machine.
MOST_BYTES = 256 << 20
MOST_IDS = 4 << 20
MOST_GROWTH = 64

Config = dict[str, Any]

_FLAGS = ("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces")
_LISTS = ("additional_special_tokens", "extra_special_tokens", "stop_tokens")


def read_text(path: Path, limit: int = MOST_BYTES) -> str:
    """A file as UTF-8. Raises UserError where it is missing, larger than `limit` bytes, or no UTF-8."""
    try:
        if not path.is_file():  # a pipe or a device would be read without end
            raise UserError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
        with path.open("rb") as file:
            # Not limit + 1: the buffer is made before anything is read.
            raw = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
        if len(raw) > limit:
            raise UserError(f"{path}: larger than {limit >> 20} MiB, which no such file is; bring the right file")
        return raw.decode("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; bring the file again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def read_json(path: Path, limit: int = MOST_BYTES) -> Any:
    """A file as JSON. Raises UserError where it is missing, too large, too deep, or no JSON."""
    try:
        return json.loads(read_text(path, limit))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply") from error
    except UserError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: not JSON: {error}") from error


def read_object(path: Path) -> Config:
    """A JSON object, or an empty one where there is no such file."""
    if not path.is_file():
        return {}
    value = read_json(path, 16 << 20)
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object")
    return value


def read_backend(path: Path) -> Backend:
    """The algorithm in `tokenizer.json`. Raises UserError naming the file where it holds none.

    The library numbers added tokens by their order and ignores the ids that are written there, so a file whose ids
    have gaps between added tokens is refused.
    """
    text = read_text(path)
    backend = parse_backend(text, str(path))
    parsed = json.loads(text)
    for part, lists in ("normalizer", "normalizers"), ("decoder", "decoders"):
        if (growth := _growth(steps(parsed.get(part), lists))) > MOST_GROWTH:
            raise UserError(f"{path}: its {part} makes text {growth:.0f} times as long; no tokenizer does that")
    for token in parsed.get("added_tokens") or []:
        if (got := backend.token_to_id(token["content"])) != token["id"]:
            raise UserError(f"{path}: the added token {token['content']!r} has id {token['id']}, its place gives {got}")
    return backend


def _growth(parts: Iterable[Config]) -> float:
    """How many times as long text can become by these steps."""
    growth = 1.0
    for step in parts:
        if step["type"] == "Replace":
            found = len(step["pattern"].get("String", ""))  # a regular expression may match nothing
            growth *= max(1.0, len(step["content"]) / found if found else 1 + len(step["content"]))
    return growth


@contextmanager
def no_panic() -> Iterator[None]:
    """Where the library's own code panics over a damaged algorithm, raise a UserError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # it is not even an Exception, and has no public name
            raise
        raise UserError("the tokenizer fails on this text, because its file is damaged; bring it again") from error


def parse_backend(text: str, name: str) -> Backend:
    """`Backend.from_str`, whose failures become UserErrors that begin with `name`."""
    try:
        with no_panic():
            return Backend.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{name}: not a tokenizer: {(str(error).splitlines() or ['?'])[0]}") from error


def read_config(folder: Path) -> Config:
    """What the folder says about roles, stop tokens and chat; an empty dict where it says nothing.

    Only keys that we understand are kept. Raises UserError naming the file where one is malformed.
    """
    raw = {**read_object(folder / "special_tokens_map.json"), **read_object(folder / CONFIG)}
    config: Config = {}
    for key in ROLE_KEYS:
        if (name := _content(raw.get(key))) is not None:
            config[key] = name
    for key in _LISTS:
        if isinstance(values := raw.get(key), dict):  # newer files map a name of a role to its token
            values = list(values.values())
        if isinstance(values, list):
            config[key] = [name for value in values if (name := _content(value)) is not None]
    config |= {key: raw[key] for key in _FLAGS if isinstance(raw.get(key), bool)}
    length = raw.get("model_max_length")
    # sentence-transformers cuts texts at its own length, which is what such a model was trained with.
    if isinstance(shorter := read_object(folder / SENTENCES).get("max_seq_length"), int):
        length = shorter
    if isinstance(length, int | float) and not isinstance(length, bool) and 0 < length < 1 << 31:
        config["model_max_length"] = int(length)
    if (source := _template(folder, raw)) is not None:
        config["chat_template"] = source
    return config


def added_tokens(folder: Path) -> list[tuple[int, str, Config]]:
    """(id, text, flags) of tokens that the folder adds outside `tokenizer.json`, by id."""
    found: dict[int, tuple[str, Config]] = {}
    for name, index in read_object(folder / "added_tokens.json").items():
        if not isinstance(index, int):
            raise UserError(f"{folder / 'added_tokens.json'}: the id of {name!r} is no number")
        found[index] = (name, {})
    listed = read_object(folder / CONFIG).get("added_tokens_decoder")
    for index, entry in (listed if isinstance(listed, dict) else {}).items():
        text = _content(entry)
        if not index.isdecimal() or len(index) > 9 or text is None:
            raise UserError(f"{folder / CONFIG}: added_tokens_decoder has no token with id {index!r}")
        flags = {k: v for k, v in entry.items() if isinstance(v, bool)} if isinstance(entry, dict) else {}
        found[int(index)] = (text, flags)
    return [(index, *found[index]) for index in sorted(found)]


def stop_ids(folder: Path) -> list[int]:
    """Ids at which `generation_config.json` ends an answer."""
    value = read_object(folder / "generation_config.json").get("eos_token_id")
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    return [index for index in values if isinstance(index, int) and not isinstance(index, bool) and index >= 0]


def _content(value: Any) -> str | None:
    """The text of a token, which some files wrap into an object with its flags."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _template(folder: Path, raw: Config) -> str | None:
    if (folder / TEMPLATE).is_file():
        return read_text(folder / TEMPLATE, 1 << 20)
    value = raw.get("chat_template")
    if isinstance(value, list):  # several by name
        named = {e.get("name"): e.get("template") for e in value if isinstance(e, dict)}
        value = named.get("default")
    return value if isinstance(value, str) and value else None
