"""Web archives: WARC 1.0 and 1.1 (ISO 28500), and WET, which holds the text of pages that somebody has drawn out
already.

Records are found by their lengths. Where a length is wrong, something else than a record follows: then that record
goes to the ledger, and the next line that begins one is looked for, behind it or within it. FastWARC takes their HTTP
parts apart.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fastwarc.warc import WarcRecord

from underlay.data.document import Document
from underlay.data.gather.items import Item, Mark, Page, Pdf
from underlay.data.gather.kinds import magic_of
from underlay.data.gather.opening import Stream
from underlay.data.gather.readers.dates import iso_date
from underlay.data.gather.readers.decode import decode_page, plain
from underlay.data.gather.readers.records import named
from underlay.data.gather.task import Task

_VERSION = b"WARC/"
_BLANK = (b"\r\n", b"\n")
_HEADER_BYTES = 1 << 16
_DOCUMENTS = ("response", "resource", "conversion")
"""Types of record that can be documents; the others are about these."""
_PAGES = ("text/html", "application/xhtml+xml")


def read(task: Task, start: Mark) -> Iterator[Item]:
    """The documents of a web archive."""
    number = start.record
    with task.stream(start) as stream:
        source = _Source(stream)
        while True:
            garbage, passed = source.offset, source.pass_garbage()
            if passed:
                yield task.bad(number, passed, "bad-warc", f"{passed} bytes that belong to no record", garbage)
            if source.ended:
                break
            offset = source.offset
            yield stream.mark(number, offset)
            head = source.header()
            length = _length(head)
            if length is None:
                yield task.bad(number, 0, "bad-warc", "a record without a header that says its length", offset)
            elif length > task.config.max_document_bytes + _HEADER_BYTES:
                there = source.skip(length)
                if there < length:
                    yield _cut_off(task, number, there, length, offset)
                elif head.get("warc-type") in _DOCUMENTS:
                    yield task.bad(number, length, "too-large", f"a record of {length} bytes", offset)
            else:
                block = source.read(length)
                if len(block) == length and source.at_record():
                    yield from _documents(task, head, block, number, offset)
                elif not source.put_back(block):
                    yield _cut_off(task, number, len(block), length, offset)
                else:
                    yield task.bad(number, length, "bad-length", f"not {length} bytes long, as it says", offset)
            number += 1
        if number == 1 and not stream.broken:
            yield task.bad(1, stream.offset, "empty", "no records")


def _cut_off(task: Task, number: int, there: int, length: int, offset: int) -> Item:
    return task.bad(number, there, "truncated", f"a record of {length} bytes, of which {there} are there", offset)


class _Source:
    """A stream in which what was read can be put back, to look for records within it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._held, self._at = b"", 0
        self._put_back = 0

    @property
    def offset(self) -> int:
        """Byte of the unpacked file that is read next."""
        return self._stream.offset - (len(self._held) - self._at)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left."""
        self._hold(1)
        return self._at == len(self._held)

    def _hold(self, size: int) -> None:
        if len(self._held) - self._at < size:
            read = self._stream.read(max(size - (len(self._held) - self._at), 1 << 16))
            if read:
                self._held, self._at = self._held[self._at :] + read, 0

    def read(self, size: int) -> bytes:
        self._hold(size)
        data = self._held[self._at : self._at + size]
        self._at += len(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over so many bytes; how many there were."""
        held = min(size, len(self._held) - self._at)
        self._at += held
        return held + (self._stream.skip(size - held) if held < size else 0)

    def line(self) -> bytes:
        """The next line, or as much of it as a header may be long."""
        self._hold(_HEADER_BYTES)
        end = self._held.find(b"\n", self._at, self._at + _HEADER_BYTES)
        return self.read(end + 1 - self._at if end >= 0 else _HEADER_BYTES)

    def at_record(self) -> bool:
        """Whether a record or the end comes next, behind empty lines."""
        self._hold(1 << 10)
        rest = self._held[self._at : self._at + (1 << 10)].lstrip(b"\r\n")
        return not rest or rest.startswith(_VERSION)

    def pass_garbage(self) -> int:
        """Go to where the next record begins; the bytes of all that was no empty line before it."""
        passed, whole = 0, True
        while True:
            self._hold(_HEADER_BYTES)
            if self._at == len(self._held) or (whole and self._held.startswith(_VERSION, self._at)):
                return passed
            line = self.line()
            if line not in _BLANK:
                passed += len(line)
            whole = line.endswith(b"\n")

    def header(self) -> dict[str, str]:
        """The named fields at the beginning of a record; empty where it has no such beginning."""
        fields: dict[str, str] = {}
        size, last = 0, ""
        for line in self._head():
            size += len(line)
            if size > _HEADER_BYTES:
                return {}
            text = line.decode("utf-8", "replace")
            if text[0] in " \t" and last:
                fields[last] += " " + text.strip()
            else:
                name, _, value = text.partition(":")
                last = name.strip().lower()
                fields[last] = value.strip()
        return fields

    def _head(self) -> Iterator[bytes]:
        """The lines behind the next one, up to an empty one, which is passed over too."""
        self._hold(_HEADER_BYTES)
        end = self._held.find(b"\n\r\n", self._at, self._at + _HEADER_BYTES)
        if end >= 0 and self._held.find(b"\n\n", self._at, end + 1) < 0:  # as nearly all are: taken at once
            yield from self.read(end + 3 - self._at).split(b"\n")[1:-2]
            return
        self.line()
        while (line := self.line()) and line not in _BLANK:
            yield line

    def put_back(self, block: bytes) -> bool:
        """Put a block back from where a record begins within it; whether one does, or the whole block is there.

        What is put back is read twice, so only so much of it is, in proportion to the file.
        """
        complete = not self.ended
        inner = block.find(b"\n" + _VERSION)
        if inner < 0:
            return complete
        back = len(block) - inner - 1
        self._put_back += back
        if self._put_back > 4 * self._stream.offset + (64 << 20):
            return complete
        self._held, self._at = block[inner + 1 :] + self._held[self._at :], 0
        return True


def _length(head: Mapping[str, str]) -> int | None:
    stated = head.get("content-length", "")
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 16 else None


@dataclass(frozen=True)
class _Content:
    """What a record holds, without what it was sent in."""

    data: bytes
    type: str
    charset: str | None


def _documents(task: Task, head: Mapping[str, str], block: bytes, number: int, offset: int) -> Iterator[Item]:
    kind = head.get("warc-type", "")
    if not kind:
        yield task.bad(number, len(block), "bad-warc", "a record that does not say its type", offset)
    if kind not in _DOCUMENTS:
        return
    address = head.get("warc-target-uri", "").strip("<>")
    content_type = head.get("content-type", "").lower()
    if content_type.startswith("text/dns"):
        return
    most = task.config.max_document_bytes
    if content_type.startswith("application/http"):
        found = _http(block, most)
        if isinstance(found, str):
            reason, _, detail = found.partition(": ")
            yield task.bad(number, len(block), reason, f"{detail} ({address})", offset)
            return
        content = found
    else:
        type_, _, parameters = content_type.partition(";")
        content = _Content(block, type_.strip(), _charset(parameters))
    if len(content.data) > most:
        yield task.bad(number, len(content.data), "too-large", f"larger than max_document_bytes ({address})", offset)
        return
    name, date = named(task.name, address), iso_date(head.get("warc-date"))
    type_ = content.type or _guess(content.data)
    if not content.data.strip():
        yield task.bad(number, len(block), "empty", f"a record without content ({address})", offset)
    elif type_ in _PAGES:
        html = decode_page(content.data, content.charset)
        yield Page(html, name, number, offset, len(content.data), task.licence, date)
    elif type_ == "text/plain":
        text = plain(decode_page(content.data, content.charset))
        if "\0" in text:
            yield task.bad(number, len(block), "binary", f"binary: a zero byte ({address})", offset)
        elif len(text.encode()) > most:
            yield task.bad(number, len(block), "too-large", f"larger than max_document_bytes ({address})", offset)
        else:
            yield Document(text, name, number, number, task.licence, "text", offset, date)
    elif type_ == "application/pdf":
        yield Pdf(content.data, name, number, offset, task.licence)
    else:
        yield task.bad(number, len(block), "not-text", f"{type_[:80] or 'of no type'} ({address})", offset)


def _guess(data: bytes) -> str:
    magic = magic_of(data[:4096])
    return {"html": "text/html", "pdf": "application/pdf"}.get(str(magic.reader), "") if magic else ""


def _charset(parameters: str) -> str | None:
    value = parameters.partition("charset=")[2]
    return value.split(";")[0].strip(" \"'") or None


def _http(block: bytes, most: int) -> _Content | str:
    """The content of an HTTP response, unpacked, up to a byte more than `most`; or what is wrong: `reason: detail`."""
    record = WarcRecord.from_bytes(
        b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
        + b"Content-Length: %d\r\n\r\n" % len(block)
        + block
    )
    record.parse_http(auto_decode="all", strict_mode=False)
    status = record.http_headers.status_code
    if status != 200:
        return f"http-status: answered with status {status}"
    data = record.reader.read(most + 1)
    return _Content(data, (record.http_content_type or "").lower(), record.http_charset)
