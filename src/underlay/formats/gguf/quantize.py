"""How numbers are stored in GGUF: as they are, in 16 bits, or in blocks of 32 that share a scale.

Q8_0 and Q4_0 keep a block's scale as float16, then 32 signed bytes, or 16 bytes of two 4-bit numbers (the low halves
are the first 16). Rounding is that of ggml's reference (ggml-quants.c, `quantize_row_q8_0_ref` and
`quantize_row_q4_0_ref`), bit for bit. Work goes in pieces, so memory beyond the tensor itself stays at some megabytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from underlay.errors import UserError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_PIECE = 1 << 20  # numbers; a multiple of every block


@dataclass(frozen=True)
class Kind:
    """One way to store numbers."""

    name: str
    number: int
    """ggml's number of the type."""
    block: int
    """Numbers in a block."""
    size: int
    """Bytes of a block."""
    file_type: int
    """`general.file_type` of a file that is mostly of this kind."""


F32 = Kind("F32", 0, 1, 4, 0)
F16 = Kind("F16", 1, 1, 2, 1)
BF16 = Kind("BF16", 30, 1, 2, 32)
Q8_0 = Kind("Q8_0", 8, 32, 34, 7)
Q4_0 = Kind("Q4_0", 2, 32, 18, 2)
KINDS = {kind.name: kind for kind in (F32, F16, BF16, Q8_0, Q4_0)}


def fitting(shape: tuple[int, ...], kind: Kind) -> Kind:
    """The kind that a tensor of this shape gets where `kind` was asked for.

    Vectors (norms, biases) stay F32. Rows that are no multiple of the kind's block fall back to F16.
    """
    if len(shape) < 2:
        return F32
    return kind if shape[-1] % kind.block == 0 else F16


def encoded_size(shape: tuple[int, ...], kind: Kind) -> int:
    """Bytes of a tensor of this shape."""
    assert not shape or shape[-1] % kind.block == 0, "blocks do not cross rows"
    return math.prod(shape) // kind.block * kind.size


def encode(tensor: Tensor, kind: Kind, where: str) -> Iterator[bytes]:
    """Encode a tensor's numbers, row by row, in pieces.

    `where` names it in errors. Raises UserError where it is not of floats, holds NaN or infinity, or holds numbers too
    large for the kind.
    """
    if not tensor.is_floating_point():
        raise UserError(f"{where}: {tensor.dtype} cannot be stored as {kind.name}; only floats can")
    assert not tensor.ndim or tensor.shape[-1] % kind.block == 0, "blocks do not cross rows"
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), _PIECE):
        numbers = flat[start : start + _PIECE].to("cpu", torch.float32).numpy()
        if not np.isfinite(numbers).all():
            raise UserError(f"{where}: holds NaN or infinity (or is beyond float32); this model is broken")
        try:
            yield _ENCODERS[kind.name](numbers).tobytes()
        except OverflowError as error:
            raise UserError(f"{where}: numbers beyond what {kind.name} can hold; use BF16 or F32") from error


def decode(raw: bytes, kind: Kind, shape: tuple[int, ...]) -> Floats:
    """The numbers that a reader gets: float32 of the given shape."""
    data = np.frombuffer(raw, np.uint8).reshape(-1, kind.size)
    match kind.name:
        case "F32":
            numbers = data.view("<f4")
        case "F16":
            numbers = data.view("<f2").astype(np.float32)
        case "BF16":
            numbers = (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        case "Q8_0":
            numbers = _scales(data) * data[:, 2:].view(np.int8).astype(np.float32)
        case _:
            halves = np.concatenate([data[:, 2:] & 15, data[:, 2:] >> 4], axis=1)
            numbers = _scales(data) * (halves.astype(np.float32) - 8)
    return np.ascontiguousarray(numbers).reshape(shape)


def _scales(data: Bytes) -> Floats:
    return np.ascontiguousarray(data[:, :2]).view("<f2").astype(np.float32)


def _to_f16(numbers: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        halves = numbers.astype("<f2")
    if not np.isfinite(halves).all():
        raise OverflowError
    return halves.view(np.uint8)


def _to_bf16(numbers: Floats) -> Bytes:
    # To the nearest, ties to even: add half of what is cut off, one less where the last kept bit is even.
    bits = numbers.astype("<f4").view("<u4").astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    if (rounded & 0x7FFF == 0x7F80).any():
        raise OverflowError
    return rounded.view(np.uint8)


def _inverse(scale: Floats) -> Floats:
    # A scale of zero, or so small that its inverse is infinite, is stored as zero: so is its block.
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _to_q8_0(numbers: Floats) -> Bytes:
    blocks = numbers.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(scale)
    # C's roundf: halves go away from zero, where numpy's own goes to even.
    size = np.floor(np.abs(scaled))
    size += np.abs(scaled) - size >= 0.5
    levels = np.copysign(size, scaled).astype(np.int8)
    return np.concatenate([_to_f16(scale), levels.view(np.uint8)], axis=1)


def _to_q4_0(numbers: Floats) -> Bytes:
    blocks = numbers.reshape(-1, 32)
    # The number of the largest size becomes -8, so its sign decides the scale's.
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scale = largest / np.float32(-8)
    levels = np.minimum(blocks * _inverse(scale) + np.float32(8.5), np.float32(15)).astype(np.uint8)
    return np.concatenate([_to_f16(scale), levels[:, :16] | levels[:, 16:] << 4], axis=1)


_ENCODERS: dict[str, Any] = {
    "F32": lambda numbers: numbers.astype("<f4", copy=False),
    "F16": _to_f16,
    "BF16": _to_bf16,
    "Q8_0": _to_q8_0,
    "Q4_0": _to_q4_0,
}
