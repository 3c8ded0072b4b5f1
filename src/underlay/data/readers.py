"""Readers: one file in, its documents out. What cannot be read comes out as a `BadRecord` that says where and why."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from resiliparse.extract.html2text import extract_plain_text

from underlay.data.document import Document
from underlay.data.licences import licence_of_text

# File endings that hold text, and what the text is written in.
_LANGUAGES = {
    "text": "txt text rst tex log csv tsv org adoc",
    "markdown": "md markdown",
    "python": "py pyi",
    "javascript": "js mjs cjs jsx",
    "typescript": "ts tsx",
    "c": "c h",
    "cpp": "cc cpp cxx hpp hh",
    "java": "java",
    "go": "go",
    "rust": "rs",
    "ruby": "rb",
    "php": "php",
    "shell": "sh bash zsh",
    "sql": "sql",
    "css": "css",
    "r": "r",
    "lua": "lua",
    "haskell": "hs",
    "scala": "scala",
    "kotlin": "kt",
    "swift": "swift",
    "julia": "jl",
    "yaml": "yaml yml",
    "toml": "toml ini cfg",
    "html": "html htm xhtml",
    "jsonl": "jsonl ndjson",
    "parquet": "parquet",
}
_BY_ENDING = {ending: language for language, endings in _LANGUAGES.items() for ending in endings.split()}
_TEXT_KEYS = ("text", "content", "body")
_LICENCE_KEYS = ("license", "licence", "license_spdx_id")


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A file or record that could not be read."""

    source: str
    line: int
    bytes: int
    reason: str
    detail: str


def language_of(path: Path) -> str | None:
    """What a file is written in, by its ending; None where the ending is not one of text."""
    return _BY_ENDING.get(path.suffix.lower().removeprefix("."))


def read_file(path: Path, name: str, fallback: str, piece_bytes: int) -> Iterator[Document | BadRecord]:
    """The documents of one file; `name` is how they call their source, `fallback` the licence where they state none."""
    language = language_of(path) or "text"
    try:
        if language == "parquet":
            yield from _read_parquet(path, name, fallback)
            return
        data = path.read_bytes()
    except OSError as error:
        yield BadRecord(name, 1, 0, "unreadable", f"cannot be read: {error.strerror or error}")
        return
    if not data.strip():
        yield BadRecord(name, 1, len(data), "empty", "an empty file")
    elif language == "jsonl":
        yield from _read_jsonl(data, name, fallback)
    elif isinstance(text := _decode(data, name, 1), BadRecord):
        yield text
    elif language == "html":
        plain = extract_plain_text(text, main_content=True, alt_texts=False)
        if plain.strip():
            yield Document(plain, name, 1, 1, licence_of_text(text) or fallback, language)
        else:
            yield BadRecord(name, 1, len(data), "no-text", "an HTML page without text")
    else:
        stated = licence_of_text(text) or fallback
        for first_line, piece in _pieces(text, piece_bytes):
            yield Document(piece, name, first_line, first_line + piece.rstrip("\n").count("\n"), stated, language)


def _decode(data: bytes, name: str, line: int) -> str | BadRecord:
    if b"\0" in data:
        return BadRecord(name, line, len(data), "binary", f"binary: a zero byte at offset {data.index(0)}")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        at = data[: error.start].count(b"\n") + line
        return BadRecord(name, at, len(data), "not-utf8", f"not UTF-8: byte {data[error.start]:#04x} on line {at}")


def _pieces(text: str, size: int) -> Iterator[tuple[int, str]]:
    """Cut a long text at the first empty line after every `size` characters; yields (first line, piece)."""
    start, line = 0, 1
    while start < len(text):
        cut = text.find("\n\n", start + size)
        end = len(text) if cut < 0 or len(text) - cut < size // 4 else cut + 2
        yield line, text[start:end]
        line += text.count("\n", start, end)
        start = end


def _read_jsonl(data: bytes, name: str, licence: str) -> Iterator[Document | BadRecord]:
    for number, row in enumerate(data.split(b"\n"), 1):
        if not row.strip():
            continue
        text = _decode(row, name, number)
        if isinstance(text, BadRecord):
            yield text
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield BadRecord(name, number, len(row), "bad-json", f"line {number} is not JSON: {error}")
            continue
        yield _from_record(record, name, number, len(row), licence)


def _read_parquet(path: Path, name: str, licence: str) -> Iterator[Document | BadRecord]:
    try:
        number = 0
        for rows in pq.ParquetFile(path).iter_batches(batch_size=256):
            for record in rows.to_pylist():
                number += 1
                yield _from_record(record, name, number, 0, licence)
        if not number:
            yield BadRecord(name, 1, path.stat().st_size, "empty", "no records")
    except (pa.ArrowException, OSError, ValueError) as error:
        yield BadRecord(name, 1, path.stat().st_size, "bad-parquet", f"not Parquet: {str(error).splitlines()[0]}")


def _from_record(record: Any, name: str, number: int, size: int, licence: str) -> Document | BadRecord:
    fields = record if isinstance(record, dict) else {}
    text = next((fields[key] for key in _TEXT_KEYS if isinstance(fields.get(key), str)), None)
    if text is None:
        return BadRecord(name, number, size, "no-text", f"record {number} has no {' or '.join(_TEXT_KEYS)} field")
    stated = next((fields[key] for key in _LICENCE_KEYS if isinstance(fields.get(key), str)), None)
    return Document(_clean(text), name, number, number, _clean(stated or licence), "text")


def _clean(text: str) -> str:
    """JSON can spell lone surrogates, which no file can hold."""
    return text.encode("utf-8", errors="replace").decode()
