"""Plain text, Markdown and source code: one document a file, or several where it is long.

Long files are cut at empty lines. Without one they are cut where the largest document ends, between lines if there
are any, never within a character. So memory does not depend on how long a file or a line is.
"""

import re
from collections.abc import Iterator

from underlay.data.gather.items import START, BadRecord, Item, Mark
from underlay.data.gather.licences import licence_of_text
from underlay.data.gather.opening import Stream
from underlay.data.gather.readers.decode import decode, plain, wide_encoding
from underlay.data.gather.task import Task

_EMPTY_LINE = re.compile(rb"\n\r?\n|\r\r(?!\n)")
_WIDE_EMPTY_LINE = re.compile(r"\n\r?\n|\r\r(?!\n)")
_STEP = 1 << 18


def read(task: Task, start: Mark) -> Iterator[Item]:
    """The documents of a text file."""
    licence = licence_of_text(task.head.decode("utf-8", "replace")) or ""
    if wide := wide_encoding(task.head):
        yield from _wide(task, licence, *wide)
        return
    line, something = start.record, start.offset > 0
    with task.stream(start) as stream:
        for offset, piece in _pieces(stream, task.config.piece_bytes, task.config.max_document_bytes):
            if something:
                yield stream.mark(line, offset)
            if piece.strip():
                text = decode(piece, task, line, offset)
                if isinstance(text, BadRecord):
                    something = True
                    yield text
                elif text.strip():  # there are blanks that bytes do not know
                    something = True
                    yield task.document(text, line, line + text.rstrip("\n").count("\n"), offset, licence)
            line += piece.count(b"\n") + (piece.count(b"\r") - piece.count(b"\r\n") if b"\r" in piece else 0)
        if not something and not stream.broken:
            yield task.bad(1, stream.offset, "empty", "an empty file")


def caption(task: Task, data: bytes, medium: str, offset: int = 0) -> Item:
    """The document that a text and its image or recording make; `medium` is how documents refer to that."""
    if len(data) > task.config.max_document_bytes:
        return task.bad(1, len(data), "too-large", "a caption larger than max_document_bytes", offset)
    text = decode(data, task, 1, offset)
    if isinstance(text, BadRecord):
        return text
    if not text.strip():
        return task.bad(1, len(data), "empty", "an empty caption", offset)
    return task.document(text, 1, 1 + text.rstrip("\n").count("\n"), offset, media=medium)


class _Window:
    """Some bytes of a stream, from `at` on."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.data, self.at, self.offset = b"", 0, stream.offset
        self.ended = False

    def fill(self, length: int) -> None:
        """Hold so many bytes from here on, unless the stream ends."""
        missing = length - (len(self.data) - self.at)
        if missing > 0 and not self.ended:
            wanted = max(missing, _STEP)
            read = self._stream.read(wanted)
            self.ended = len(read) < wanted
            self.data, self.at = self.data[self.at :] + read, 0

    def take(self, length: int) -> tuple[int, bytes]:
        """The next bytes, and the offset of their first."""
        piece, offset = self.data[self.at : self.at + length], self.offset
        self.offset += len(piece)
        self.at += len(piece)
        return offset, piece


def _pieces(stream: Stream, size: int, most: int) -> Iterator[tuple[int, bytes]]:
    """Cut a stream at the first empty line after every `size` bytes; yields (offset, piece)."""
    size = min(size, most // 2)
    window = _Window(stream)
    while True:
        cut = None
        for reach in (2 * size, most):  # most often the near end is enough
            window.fill(reach + 1)
            match = _EMPTY_LINE.search(window.data, window.at + size)
            if match and match.end() - window.at <= most:
                cut = match.end() - window.at
            if cut or window.ended:
                break
        window.fill((cut or 0) + size // 4)
        held = len(window.data) - window.at
        if window.ended and held <= most and (cut is None or held - cut < size // 4):
            cut = held  # a short rest is no document of its own
        if cut == 0:
            return
        yield window.take(cut or _last_resort(window.data, window.at, window.at + most) - window.at)


def _last_resort(data: bytes, start: int, end: int) -> int:
    """Where to cut a text without empty lines: behind its last line before `end`, or else between two characters."""
    if (newline := data.rfind(b"\n", start, end)) >= 0:
        return newline + 1
    cut = end
    while cut > end - 4 and data[cut] & 0xC0 == 0x80:
        cut -= 1
    if data[cut - 1 : cut + 1] == b"\r\n":
        cut -= 1
    return cut


def _wide(task: Task, licence: str, encoding: str, mark: int) -> Iterator[Item]:
    """A text in UTF-16 or UTF-32, which has to fit into memory."""
    with task.stream(START) as stream:
        data = stream.read(task.config.max_document_bytes + 1)
    if len(data) > task.config.max_document_bytes:
        yield task.bad(1, len(data), "too-large", f"{encoding.upper()}, and larger than max_document_bytes")
        return
    try:
        text = data[mark:].decode(encoding)
    except UnicodeDecodeError as error:
        yield task.bad(
            1, len(data), "not-text", f"not {encoding.upper()}, which its byte order mark says: {error.reason}"
        )
        return
    start, line, offset, something = 0, 1, mark, False
    longest = task.config.max_document_bytes // 4  # in UTF-8 no character is longer
    while start < len(text):
        match = _WIDE_EMPTY_LINE.search(text, start + task.config.piece_bytes)
        end = match.end() if match and len(text) - match.end() >= task.config.piece_bytes // 4 else len(text)
        end = min(end, start + longest)
        end -= text[end - 1 : end + 1] == "\r\n"
        piece = plain(text[start:end])
        something |= bool(piece.strip())
        if "\0" in piece:
            yield task.bad(line, end - start, "binary", "binary: a zero character", offset)
        elif piece.strip():
            yield task.document(piece, line, line + piece.rstrip("\n").count("\n"), offset, licence)
        offset += len(text[start:end].encode(encoding))
        line += piece.count("\n")
        start = end
    if not something:
        yield task.bad(1, len(data), "empty", "an empty file")
