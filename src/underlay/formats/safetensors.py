"""One safetensors file from a stranger: its header is checked in full before a byte of data is read.

Layout (https://github.com/huggingface/safetensors#format): eight bytes little-endian with the header's length, the
header as JSON, then the data. The header names each tensor's dtype, shape and place; the places must cover the data
exactly, without holes and without overlaps. Data are read, never mapped: a mapped file that shrinks kills the process.
"""

import math
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from underlay.errors import MachineError, UserError
from underlay.formats.untrusted import open_plain, parse_json, read_exactly, shown, size_of

LONGEST_HEADER = 1 << 25
"""Bytes. The header of a model with a hundred thousand tensors is about half of it."""
MOST_TENSORS = 1 << 17
"""A file's tensors."""
MOST_DIMENSIONS = 16
"""A tensor's dimensions."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_METADATA = "__metadata__"
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in a file, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    stop: int
    """One past the last byte."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself, checked."""

    metadata: dict[str, str]
    tensors: dict[str, Place]
    """By name, in the order of the data."""


def read_header(path: Path) -> Header:
    """Read and check a file's header.

    Raises UserError with file, tensor and fault where it breaks the format in any way, MachineError where the machine
    cannot read it.
    """
    with open_plain(path) as file:
        size = size_of(file)
        if size < 8:
            raise UserError(f"{path}: {size} bytes are too few for a safetensors file")
        length: int = struct.unpack("<Q", read_exactly(file, 8, path))[0]
        if length > size - 8:
            raise UserError(f"{path}: the header claims {length} bytes, the file has {size}; copy it again")
        if length > LONGEST_HEADER:
            raise UserError(f"{path}: the header claims {length} bytes, more than {LONGEST_HEADER}")
        raw = read_exactly(file, length, path)
    if not raw.startswith(b"{"):
        raise UserError(f"{path}: not a safetensors file: the header does not begin with an object")
    # Per tensor: its name, three keys, two offsets and its dimensions.
    values = parse_json(raw, f"{path}: header", depth=3, values=MOST_TENSORS * 8)
    metadata = _metadata(values.pop(_METADATA, {}), path)
    if len(values) > MOST_TENSORS:
        raise UserError(f"{path}: {len(values)} tensors are more than {MOST_TENSORS}")
    places = {name: _place(name, entry, 8 + length, path) for name, entry in values.items()}
    return Header(metadata, _in_order(places, 8 + length, size, path))


def _metadata(values: Any, path: Path) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise UserError(f"{path}: {_METADATA} must map text to text, is {shown(values)}")
    return values


def _place(name: str, entry: Any, data: int, path: Path) -> Place:
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{where}: needs exactly dtype, shape and data_offsets, is {shown(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(f"{where}: dtype {shown(dtype)} is not known; known are {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise UserError(f"{where}: shape {shown(shape)} must be at most {MOST_DIMENSIONS} whole numbers")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise UserError(f"{where}: data_offsets {shown(offsets)} must be a begin and an end")
    if math.prod(size or 1 for size in shape) * DTYPES[dtype].itemsize > _LARGEST:
        raise UserError(f"{where}: shape {shown(shape)} is larger than any memory")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise UserError(f"{where}: {dtype} {shown(shape)} takes {needed} bytes, has {offsets[1] - offsets[0]}")
    return Place(DTYPES[dtype], tuple(shape), data + offsets[0], data + offsets[1])


def _sizes(values: Any) -> bool:
    # True is an int to Python; here it is none.
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _LARGEST for value in values)


def _in_order(places: dict[str, Place], start: int, size: int, path: Path) -> dict[str, Place]:
    ordered = dict(sorted(places.items(), key=lambda item: (item[1].start, item[1].stop)))
    for name, place in ordered.items():
        if place.stop > size:
            raise UserError(
                f"{path}: tensor {shown(name)} ends at byte {place.stop}, the file at {size}; copy it again"
            )
        if place.start != start:
            fault = "overlaps the one before" if place.start < start else f"leaves {place.start - start} bytes unused"
            raise UserError(f"{path}: tensor {shown(name)} {fault}")
        start = place.stop
    if start != size:
        raise UserError(f"{path}: {size - start} bytes after the last tensor belong to none")
    return ordered


def read_tensors(path: Path, header: Header, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Read tensors one at a time, in the order of the data; all, or those in `names`.

    Each is fresh memory on the CPU, and nothing of the file is held besides. Raises UserError where the file is shorter
    than when its header was read, MachineError where it cannot be read.
    """
    if sys.byteorder != "little":
        raise MachineError(f"{path}: safetensors are little-endian, this machine is not")
    wanted = header.tensors.keys() if names is None else set(names)
    with open_plain(path) as file:
        for name, place in header.tensors.items():
            if name in wanted:
                yield name, _read(file, place, path)


def _read(file: BinaryIO, place: Place, path: Path) -> Tensor:
    if size_of(file) < place.stop:  # before memory is taken
        raise UserError(f"{path}: the file became shorter while it was read")
    data = torch.empty(place.stop - place.start, dtype=torch.uint8)
    view = memoryview(data.numpy().data)
    try:
        file.seek(place.start)
        while view:
            count = file.readinto(view)  # type: ignore[attr-defined]
            if not count:
                raise UserError(f"{path}: the file became shorter while it was read")
            view = view[count:]
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror}") from error
    if place.dtype == torch.bool:
        data = (data != 0).view(torch.uint8)  # a truth of any other value confuses torch
    return data.view(place.dtype).reshape(place.shape)
