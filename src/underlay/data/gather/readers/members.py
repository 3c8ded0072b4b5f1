"""The files of tars and zips, one after the other. (POSIX.1-1988 ustar with the long names of GNU and pax; APPNOTE of
PKWARE)

Nothing is written to where a member's name says. What is damaged is passed over; a tar goes on with the next header
that is one.
"""

import hashlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO

from underlay.data.gather.items import BadRecord, Mark
from underlay.data.gather.opening import Stream
from underlay.data.gather.readers.decode import clean, clean_name
from underlay.data.gather.task import Task

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_NAME_BYTES = 1 << 16
_FREE = 64 << 20
_FILES = (b"0", b"\0", b"7")
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    IndexError,
    RuntimeError,
    MemoryError,
)
"""What `zipfile` raises for damaged archives."""


@dataclass
class Member:
    """A file in an archive; its bytes have to be read before the next one is asked for."""

    name: str
    size: int
    offset: int
    """Where it begins, with its header."""
    mark: Mark
    _read: Callable[[int], bytes]
    left: int = 0
    """Bytes that were not read yet; of a damaged member some cannot be."""

    def __post_init__(self) -> None:
        self.left = self.size

    def read(self, size: int) -> bytes:
        """So many bytes, fewer at the end."""
        data = self._read(min(size, self.left)) if self.left else b""
        self.left -= len(data)
        return data

    def digest(self) -> str:
        """The SHA-256 of all of it."""
        total = hashlib.sha256()
        while data := self.read(1 << 20):
            total.update(data)
        return total.hexdigest()


def tar_members(task: Task, stream: Stream) -> Iterator[Member | BadRecord]:
    """The files of a tar, from where the stream stands."""
    long_name, long_size, begin = "", -1, stream.offset
    lost = 0
    while True:
        if not long_name and long_size < 0:
            begin = stream.offset
        block = stream.read(_BLOCK)
        size = _size_in(block)
        if size is None and block and block != _ZEROS:
            if not lost:
                yield task.bad(
                    1, 0, "bad-tar", "damaged: no header of a tar where one should be", stream.offset - len(block)
                )
            lost += len(block)
            long_name, long_size = "", -1
        if len(block) < _BLOCK:
            return
        if size is None:
            continue
        lost = 0
        kind = block[156:157]
        if kind in (b"L", b"x"):
            data = stream.read(min(size, _NAME_BYTES))
            stream.skip(_padded(size) - len(data))
            if kind == b"L":
                long_name = data.rstrip(b"\0").decode("utf-8", "backslashreplace")
            else:
                long_name, long_size = _pax(data, long_name)
            continue
        size = long_size if long_size >= 0 else size
        if kind in _FILES:
            name = clean_name(long_name or _name_in(block))
            member = Member(name, size, begin, stream.mark(1, begin), stream.read)
            yield member
            stream.skip(_padded(size) - (size - member.left))
        else:
            stream.skip(_padded(size) if kind not in b"123456" else 0)
        long_name, long_size = "", -1


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _size_in(block: bytes) -> int | None:
    """What a header says that follows; None where it is no header."""
    if len(block) < _BLOCK:
        return None
    checksum = _octal(block[148:156])
    if checksum is None or checksum != sum(block) - sum(block[148:156]) + 8 * 32:
        return None
    size = block[124:136]
    if size[0] & 0x80:  # GNU: larger than eleven octal digits
        found: int | None = int.from_bytes(size[1:], "big")
    else:
        found = _octal(size)
    return found if found is not None and found < 1 << 60 else None


def _octal(digits: bytes) -> int | None:
    text = digits.strip(b" \0")
    return int(text, 8) if text and not text.strip(b"01234567") else (0 if not text else None)


def _name_in(block: bytes) -> str:
    name, prefix = (part.partition(b"\0")[0] for part in (block[:100], block[345:500]))
    whole = prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name
    return whole.decode("utf-8", "backslashreplace")


def _pax(data: bytes, name: str) -> tuple[str, int]:
    """The path and the size that an extended header states."""
    size, at = -1, 0
    while at < len(data):
        digits, _, _ = data[at : at + 20].partition(b" ")
        if not digits.isdigit() or int(digits) < 5:
            break
        key, _, value = data[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "backslashreplace")
        elif key == b"size" and value.isdigit() and len(value) < 18:
            size = int(value)
        at += int(digits)
    return name, size


def zip_members(task: Task, archive: zipfile.ZipFile, file: BinaryIO, start: Mark) -> Iterator[Member | BadRecord]:
    """The files of a zip archive; a mark's offset is the number of a member."""
    packed = file.seek(0, 2)
    unpacked = 0
    for number, info in enumerate(archive.infolist()):
        unpacked += info.file_size
        if unpacked > max(_FREE, task.config.max_ratio * packed) or unpacked > task.config.max_unpacked_bytes:
            detail = "holds more than its size allows (max_ratio, max_unpacked_bytes)"
            yield task.bad(1, info.file_size, "bomb", f"{detail}, from {clean(info.filename)} on")
            return
        if number < start.offset or info.filename.endswith("/"):
            continue
        name, offset = clean_name(info.filename), min(max(0, info.header_offset), packed)
        try:
            content = archive.open(info)
        except ZIP_ERRORS as error:
            yield task.bad(1, info.file_size, "bad-zip", f"{name}: {error}", offset)
            continue
        with content:
            yield Member(name, info.file_size, offset, Mark(number, 1), _careful(content))


def _careful(content: IO[bytes]) -> Callable[[int], bytes]:
    """Reads nothing more where a member is damaged."""

    def read(size: int) -> bytes:
        try:
            return content.read(size)
        except ZIP_ERRORS:
            return b""

    return read
