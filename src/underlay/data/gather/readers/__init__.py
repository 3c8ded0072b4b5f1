"""Readers: a file in, its documents out. One small module for each family of formats.

A reader takes a `Task` and a `Mark` to begin at, and yields items in the order of the file. It never raises for what
a file holds: what cannot be read comes out as a `BadRecord`. It yields a mark wherever it could be begun again, and
holds no more than a record.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from underlay.data.gather.items import START, Item, Mark
from underlay.data.gather.kinds import TEXTUAL, Magic, Reader, magic_of
from underlay.data.gather.readers import columns, jsonl, mediawiki, page, pdf, table, text, warc
from underlay.data.gather.readers.archive import read_tar, read_zip
from underlay.data.gather.readers.decode import wide_encoding
from underlay.data.gather.task import Task

_HEAD = 4096
_WHOLE = ("parquet", "arrow", "zip")
"""Formats that are read from several places at once, which nothing compressed can be."""


def read(task: Task, start: Mark = START) -> Iterator[Item]:
    """All that a file holds, from a mark on."""
    try:
        yield from _read(task, start)
    except OSError as error:
        yield task.bad(1, 0, "unreadable", f"cannot be read: {error.strerror or error}")


def _read(task: Task, start: Mark) -> Iterator[Item]:
    packing = task.kind.packing
    if packing:
        with task.file() as file:
            outside = file.read(512)
        magic = magic_of(outside)
        if outside and (magic is None or magic.reader != packing):
            yield _mislabelled(task, magic, packing)
            return
    with task.stream(START) as stream:
        head = stream.read(_HEAD)
        if not head and not stream.broken:
            yield task.bad(1, 0, "empty", "an empty file")
        if not head:
            return
    magic = magic_of(head)
    reader = task.kind.reader or (_reader_of(magic) if magic else "text")
    if task.kind.language == "xml" and magic and magic.reader == "mediawiki":
        reader = "mediawiki"
    wide = wide_encoding(head)
    if task.kind.language == "xml" and wide and "<mediawiki" in head.decode(wide[0], "replace"):
        yield task.bad(1, task.size, "not-utf8", f"a MediaWiki dump in {wide[0].upper()}; make it UTF-8, as dumps are")
        return
    if reader == "media":
        yield task.bad(1, task.size, "no-text", "an image or a recording, without a text beside it")
    elif reader is None or _contradicts(reader, magic, head):
        yield _mislabelled(task, magic, task.kind.reader or "text")
    elif packing and reader in _WHOLE:
        yield task.bad(1, task.size, "packed", f"{reader} within {packing}: it has to be unpacked first")
    elif task.describes is not None:
        yield from _caption(task)
    else:
        language = "text" if reader == "mediawiki" else task.kind.language
        yield from READERS[reader](replace(task, head=head, kind=replace(task.kind, language=language)), start)


def _reader_of(magic: Magic) -> Reader | None:
    """Who reads what the first bytes say; for files whose endings say nothing."""
    return magic.reader if magic.reader in READERS else None  # type: ignore[return-value] # packings are none of these


def _contradicts(reader: Reader, magic: Magic | None, head: bytes) -> bool:
    """Whether the first bytes say that a file is something else than its ending says."""
    if reader == "pdf":  # what stands before it is borne with, as viewers do
        return b"%PDF-" not in head[:1024]
    if reader in ("warc", "parquet", "zip"):
        return magic is None or magic.reader != reader
    if reader in TEXTUAL:
        return magic is not None and magic.binary
    return magic is not None and magic.binary and magic.reader != reader


def _mislabelled(task: Task, magic: Magic | None, expected: str) -> Item:
    found = magic.says if magic else "something else"
    return task.bad(1, task.size, "mislabelled", f"{found}, not {expected}, as its name says")


def _caption(task: Task) -> Iterator[Item]:
    """The text of a file that goes with an image or a recording beside it."""
    medium = task.media(task.describes or "")
    with task.stream(START) as stream:
        data = stream.read(task.config.max_document_bytes + 1)
    if medium is None:
        yield task.bad(1, task.size, "no-media", f"{task.describes}, which it describes, cannot be read")
    else:
        yield text.caption(task, data, medium)


READERS: Mapping[Reader, Callable[[Task, Mark], Iterator[Item]]] = {
    "text": text.read,
    "html": page.read,
    "pdf": pdf.read,
    "jsonl": jsonl.read,
    "csv": table.read,
    "tsv": table.read,
    "parquet": columns.read_parquet,
    "arrow": columns.read_arrow,
    "warc": warc.read,
    "mediawiki": mediawiki.read,
    "tar": lambda task, start: read_tar(task, start, read),
    "zip": lambda task, start: read_zip(task, start, read),
}
