"""Bytes to text: what encoding a text is in, and its line ends made one.

Plain text is UTF-8 unless a byte order mark says otherwise; what is not goes to the ledger rather than be guessed at.
Pages say what they are in, or do not: then UTF-8 is tried, then what the bytes look like (as browsers do,
https://encoding.spec.whatwg.org).
"""

import codecs
import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from underlay.data.gather.items import BadRecord
from underlay.data.gather.task import Task

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(
    rb"<(?:meta|\?xml)[^>]{0,300}?(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE
)


def wide_encoding(head: bytes) -> tuple[str, int] | None:
    """The encoding with units of more than a byte that a byte order mark names, and the mark's length."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, len(mark)
    return None


def decode(data: bytes, task: Task, line: int, offset: int) -> str | BadRecord:
    """UTF-8 to text with one kind of line end."""
    if b"\0" in data:
        at = data.index(0) + offset
        return task.bad(line, len(data), "binary", f"binary: a zero byte at offset {at}", offset)
    try:
        return _one_line_end((data if offset else data.removeprefix(codecs.BOM_UTF8)).decode())
    except UnicodeDecodeError as error:
        at = data[: error.start].count(b"\n") + line
        why = f"not UTF-8: byte {data[error.start]:#04x} on line {at}"
        return task.bad(at, len(data), "not-utf8", why, offset)


def plain(text: str) -> str:
    """The text with newlines for line ends, and without what no file can hold."""
    return clean(_one_line_end(text))


def _one_line_end(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def clean(text: str) -> str:
    """JSON and UTF-16 can spell lone surrogates, which no file can hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", errors="replace").decode()
    return text


def clean_name(name: str) -> str:
    """A name or an address as a source of documents may be called: without zero characters too, which end names."""
    return clean(name).replace("\0", "")


def decode_page(data: bytes, declared: str | None = None) -> str:
    """A page to text: by its byte order mark, what its server or itself declares, as UTF-8, or by what it looks
    like."""
    wide = wide_encoding(data)
    if wide:
        return clean(data[wide[1] :].decode(wide[0], "replace"))
    inside = _DECLARED.search(data[:4096])
    for name in (declared, inside and inside[1].decode("ascii"), "utf-8"):
        # Only names that browsers know: Python has codecs that are none, or take quadratic time.
        known = map_encoding_to_html5(name, False) if name else None
        try:
            if known:
                return clean(data.decode(known).removeprefix("\ufeff"))
        except (UnicodeDecodeError, LookupError):
            continue
    found = detect_encoding(data) or "cp1252"
    try:
        return clean(data.decode(found, "replace"))
    except LookupError:
        return clean(data.decode("cp1252", "replace"))
