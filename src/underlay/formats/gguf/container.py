"""GGUF version 3, little-endian: typed metadata, a table of tensors, then their data (ggml/docs/gguf.md).

The table stands before the data, so names, shapes and types must be known first. The data may then come in any order,
one tensor at a time: each has its place.
"""

import contextlib
import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from underlay.errors import MachineError, UserError
from underlay.formats.gguf.quantize import Kind, encoded_size

ALIGNMENT = 32
_LONGEST_NAME = 63  # ggml keeps 64 bytes, the last one zero
_MOST_DIMENSIONS = 4

Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
"""Written as string, bool, uint32 (uint64 above), float32; lists as arrays of string, int32 or float32."""


@dataclass(frozen=True)
class TensorInfo:
    """One row of the table."""

    name: str
    shape: tuple[int, ...]
    """As in torch: rows first. The file has it reversed."""
    kind: Kind


class Writer:
    """Writes one file: `with Writer(...) as writer`, then `write` for each tensor of the table.

    The file appears under its name only when it is whole and on the disk; after an error nothing is left of it.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Value], tensors: Iterable[TensorInfo]) -> None:
        """Nothing is written yet. Raises UserError for a name or shape that GGUF cannot hold, or a name given twice."""
        self.path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        infos = list(tensors)
        self._places: dict[str, tuple[int, int]] = {}
        end = 0
        for info in infos:
            if len(info.name.encode()) > _LONGEST_NAME or not 1 <= len(info.shape) <= _MOST_DIMENSIONS:
                raise UserError(f"{path}: GGUF cannot hold a tensor {info.name} of shape {info.shape}")
            if info.name in self._places:
                raise UserError(f"{path}: two tensors would both be {info.name}")
            size = encoded_size(info.shape, info.kind)
            self._places[info.name] = (end, size)
            end += _padded(size)
        self._head = _head(metadata, infos, {name: place[0] for name, place in self._places.items()})
        self._size = len(self._head) + end
        self._missing = set(self._places)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Raises MachineError where the folder does not take a file of this size."""
        try:
            self._file = self._partial.open("wb")
            self._file.write(self._head)
            self._file.truncate(self._size)  # the gaps between tensors are zero
        except OSError as error:
            self._discard()
            raise MachineError(f"{self.path}: cannot be written: {error.strerror}") from error
        return self

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write one tensor's encoded data, in pieces of any size.

        Raises MachineError where the disk does not take it.
        """
        assert self._file is not None, "entered first"
        assert name in self._missing, f"{name} is in the table, and written once"
        start, size = self._places[name]
        written = 0
        try:
            self._file.seek(len(self._head) + start)
            for chunk in chunks:
                written += len(chunk)
                assert written <= size, f"{name} fits its place"
                self._file.write(chunk)
        except OSError as error:
            raise MachineError(f"{self.path}: cannot be written: {error.strerror}") from error
        assert written == size, f"{name} fills its place"
        self._missing.remove(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish the file. Raises UserError where tensors of the table never came."""
        if error is not None or self._missing:
            self._discard()
            if error is None:
                raise UserError(f"{self.path}: tensors never came: {', '.join(sorted(self._missing)[:3])}")
            return
        assert self._file is not None, "entered first"
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
            _sync(self.path.parent)
        except OSError as failure:
            self._discard()
            raise MachineError(f"{self.path}: cannot be written: {failure.strerror}") from failure

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._size

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
            self._partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some systems do not open folders
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _padded(size: int) -> int:
    return math.ceil(size / ALIGNMENT) * ALIGNMENT


def _head(metadata: Mapping[str, Value], infos: Sequence[TensorInfo], starts: Mapping[str, int]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(infos), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(key, value)]
    for info in infos:
        dimensions = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *reversed(info.shape))
        parts += [_string(info.name), dimensions, struct.pack("<IQ", info.kind.number, starts[info.name])]
    head = b"".join(parts)
    return head.ljust(_padded(len(head)), b"\0")


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(key: str, value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int() if 0 <= value < 1 << 32:
            return struct.pack("<II", 4, value)
        case int() if 0 <= value < 1 << 64:
            return struct.pack("<IQ", 10, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case [*items] if items:
            return _array(key, items)
    raise ValueError(f"{key}: {value!r} has no type in GGUF")


def _array(key: str, items: list[str] | list[int] | list[float]) -> bytes:
    count = len(items)
    if all(isinstance(item, str) for item in items):
        return struct.pack("<IIQ", 9, 8, count) + b"".join(_string(str(item)) for item in items)
    if all(type(item) is int for item in items):
        return struct.pack(f"<IIQ{count}i", 9, 5, count, *items)
    if all(isinstance(item, float) for item in items):
        return struct.pack(f"<IIQ{count}f", 9, 6, count, *items)
    raise ValueError(f"{key}: an array holds one type")
