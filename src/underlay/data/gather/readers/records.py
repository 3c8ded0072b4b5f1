"""Records: mappings of names to values, from JSONL, tables and columns alike, and the documents they make.

A record's text stands in the first of the fields `text_fields` that holds any. Its licence, date and address are
taken where it has them. A record that names an image or a recording, or holds one, is a caption of that.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from underlay.data.document import Document
from underlay.data.gather.items import BadRecord
from underlay.data.gather.kinds import kind_of
from underlay.data.gather.licences import spdx
from underlay.data.gather.readers.dates import iso_date
from underlay.data.gather.readers.decode import clean, clean_name
from underlay.data.gather.task import Task

LICENCE_FIELDS = ("license", "licence", "license_spdx_id")
DATE_FIELDS = ("date", "created", "timestamp", "created_at", "published", "date_published")
ADDRESS_FIELDS = ("url", "uri")
MEDIA_FIELDS = ("file_name", "file", "image", "audio", "path", "media")
_MEDIA = frozenset(MEDIA_FIELDS)


def from_record(record: Any, task: Task, number: int, offset: int, size: int) -> Document | BadRecord:
    """The document that a record makes; `number` is its place in the file, counted from 1, `size` its bytes there."""
    fields: Mapping[str, Any] = record if isinstance(record, dict) else {}
    wanted = task.config.text_fields
    text = _first(fields, wanted)
    if text is None:
        return task.bad(number, size, "no-text", f"record {number} has no {' or '.join(wanted)} field", offset)
    text = text.replace("\0", "")  # JSON and columns can spell it; no page of text has it
    if not text.strip():
        return task.bad(number, size, "empty", f"record {number} has an empty text", offset)
    if _is_larger(text, task.config.max_document_bytes):
        return task.bad(number, size, "too-large", f"record {number} is larger than max_document_bytes", offset)
    medium = _medium(fields, task, number)
    if medium is None:
        return task.bad(number, size, "no-media", f"what record {number} describes is not beside it", offset)
    date = next((found for key in DATE_FIELDS if key in fields and (found := iso_date(fields[key]))), "")
    stated = _first(fields, LICENCE_FIELDS)
    name = named(task.name, _first(fields, ADDRESS_FIELDS))
    licence = spdx(stated) if stated and stated.strip() else task.licence
    return Document(clean(text), name, number, number, licence, task.kind.language, offset, date, medium)


def named(source: str, address: str | None) -> str:
    """How a document calls its source, where it has an address of its own: `crawl.warc.gz#https://example.com/`."""
    return f"{source}#{clean_name(address[:2000])}" if address else source


def _first(fields: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    for key in keys:
        value = fields.get(key)
        if isinstance(value, str):
            return value
    return None


def _is_larger(text: str, most: int) -> bool:
    """Whether a text has more bytes in UTF-8; that it may have up to four a character saves counting them."""
    return len(text) > most or (4 * len(text) > most and len(text.encode("utf-8", "replace")) > most)


def _medium(fields: Mapping[str, Any], task: Task, number: int) -> str | None:
    """The image or recording of a record: empty where it names none, None where that cannot be read."""
    if _MEDIA.isdisjoint(fields):
        return ""
    for key in MEDIA_FIELDS:
        value = fields.get(key)
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            path = value.get("path")
            where = path if isinstance(path, str) and path else f"{task.name}#{number}"
            return f"{hashlib.sha256(value['bytes']).hexdigest()}:{clean_name(where[:2000])}"
        path = value.get("path") if isinstance(value, dict) else value
        if isinstance(path, str) and kind_of(path).reader == "media":
            return task.media(path)
    return ""
