"""Opening: files as streams of unpacked bytes, with limits, that end early rather than fail.

A stream whose file is damaged, truncated, or too good at packing simply ends where it can be read no further, and
says so in `broken`. So readers keep all that came before, and need to know nothing of compression.
"""

import bz2
import io
import lzma
import sys
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from underlay.data.gather.items import START, Mark
from underlay.data.gather.kinds import Packing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK = 1 << 16
_FREE = 64 << 20
"""Unpacked bytes below which no ratio is too good."""
_BETWEEN_PLACES = 1 << 20
_XZ_MEMORY = 256 << 20


@dataclass(frozen=True, slots=True)
class Broken:
    """Where an unpacked stream ended too early, and why."""

    offset: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a compressed file may hold."""

    unpacked: int
    ratio: float


def open_file(path: str) -> BinaryIO:
    """A file of this machine as it is; what reads it buffers it."""
    return open(path, "rb", buffering=0)  # noqa: PTH123 - closed by who reads it


class _Member(Protocol):
    """Unpacks one member of a compressed file, as `bz2.BZ2Decompressor` does."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """At most `max_length` bytes of what is inside."""


class _Gzip:
    """zlib's object, behaving like the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self._more = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not (self._inner.unconsumed_tail or self._more or self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        made = self._inner.decompress(self._inner.unconsumed_tail + data, max(0, max_length))
        self._more = len(made) == max_length  # then some may be left inside
        return made


_MEMBERS: dict[Packing, Callable[[], _Member]] = {
    "gzip": _Gzip,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY),
    "zstd": zstd.ZstdDecompressor,
}
_ERRORS = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError, ValueError)


class _Raw(io.RawIOBase):
    """Unpacked bytes. Knows where members begin, so that reading can begin there too."""

    def __init__(self, file: BinaryIO, packing: Packing | None, limits: Limits, start: Mark) -> None:
        super().__init__()
        self._file, self._packing, self._limits = file, packing, limits
        self._member: _Member | None = None
        self._rest = b""
        self._begun = False
        self.packed, self.unpacked = start.packed, start.unpacked
        self.places: deque[tuple[int, int]] = deque([(start.packed, start.unpacked)])
        self.broken: Broken | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self.broken:
            return 0
        try:
            data = self._unpack(min(len(buffer), self._room() + 1)) if self._packing else self._file.read(len(buffer))
        except OSError as error:
            self._break("unreadable", f"cannot be read: {error.strerror or error}")
            return 0
        excess = self._packing and len(data) > self._room()
        if excess:
            data = data[: self._room()]
        self.unpacked += len(data)
        if excess:
            self._break(*self._excess())
        if not self._packing:
            self.packed += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _unpack(self, wanted: int) -> bytes:
        """Some bytes; none at the end."""
        while True:
            if self._member is None and not self._begin():
                return b""
            assert self._member
            chunk = self._rest
            if self._member.needs_input and not chunk:
                chunk = self._file.read(_CHUNK - self.packed % _CHUNK)
                if not chunk:
                    self._break("truncated", f"the file ends in the midst of its {self._packing} data")
                    return b""
                self.packed += len(chunk)
            self._rest = b""
            try:
                data = self._member.decompress(chunk, wanted)
            except _ERRORS as error:
                self._break(f"bad-{self._packing}", f"damaged {self._packing} data: {error}")
                return b""
            if self._member.eof:
                self._rest, self._member = self._member.unused_data, None
            if data:
                return data

    def _begin(self) -> bool:
        """Begin the next member; false where there is none."""
        while not (rest := self._rest.lstrip(b"\0") if self._begun else self._rest):
            self._rest = self._file.read(_CHUNK - self.packed % _CHUNK)
            self.packed += len(self._rest)
            if not self._rest:
                return False
        self._rest, self._begun = rest, True
        assert self._packing
        self._member = _MEMBERS[self._packing]()
        if self.unpacked - self.places[-1][1] >= _BETWEEN_PLACES:
            self.places.append((self.packed - len(rest), self.unpacked))
        return True

    def _room(self) -> int:
        """Bytes that may still come out, by what was read so far."""
        allowed = max(_FREE, int(self._limits.ratio * self.packed))
        return min(allowed, self._limits.unpacked) - self.unpacked

    def _excess(self) -> tuple[str, str]:
        if self.unpacked == self._limits.unpacked:
            return "too-large", f"holds more than {self._limits.unpacked} bytes (max_unpacked_bytes)"
        return "bomb", f"holds more than {self._limits.ratio:g} times its size (max_ratio)"

    def _break(self, reason: str, detail: str) -> None:
        self.broken = Broken(self.unpacked, reason, detail)

    def place(self, offset: int) -> tuple[int, int]:
        """The last place at or before an offset at which a member begins; those before it are forgotten."""
        while len(self.places) > 1 and self.places[1][1] <= offset:
            self.places.popleft()
        return self.places[0]

    def close(self) -> None:
        self._file.close()
        super().close()


class Stream:
    """Unpacked bytes of a file, from a mark on."""

    def __init__(self, file: BinaryIO, packing: Packing | None, limits: Limits, start: Mark = START) -> None:
        """Take a file that is open at its beginning, and go to where `start` says."""
        if not packing and start.offset:
            start = Mark(start.offset, start.record, start.offset, start.offset)
        if start.packed:
            file.seek(start.packed)
        self._raw = _Raw(file, packing, limits, start)
        self._buffered = io.BufferedReader(self._raw, _CHUNK)
        self._packing = packing
        self.offset = start.unpacked
        """Byte that is read next."""
        self.skip(start.offset - self.offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._buffered.close()

    @property
    def broken(self) -> Broken | None:
        """Why there is nothing more to read, unless the file was read to its end."""
        return self._raw.broken

    @property
    def packed(self) -> int:
        """Bytes of the file itself that were read."""
        return self._raw.packed

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        data = self._buffered.read(size)
        self.offset += len(data)
        return data

    def line(self, limit: int) -> bytes:
        """Up to and with the next newline, but at most `limit` bytes; nothing at the end."""
        data = self._buffered.readline(limit)
        self.offset += len(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over so many bytes; how many there were."""
        left = size
        while left > 0 and (data := self.read(min(left, 1 << 20))):
            left -= len(data)
        return size - left

    def skip_line(self) -> int:
        """Pass over the rest of a line, however long; its bytes."""
        size = 0
        while data := self.line(1 << 20):
            size += len(data)
            if data.endswith(b"\n"):
                break
        return size

    def mark(self, record: int, offset: int | None = None) -> Mark:
        """A mark where the stream stands, or at an earlier offset."""
        at = self.offset if offset is None else offset
        return Mark(at, record, *self._raw.place(at)) if self._packing else Mark(at, record)
