"""Quantised matrices on disk: `NAME.values` and `NAME.scales` in the place of `NAME.weight`.

    NAME.values  int8 (outputs, inputs) of 8 bits; uint8 (outputs, inputs / 2) of 4: the value of an even input plus 8
                 in the lower half of a byte, that of the input after it in the upper half
    NAME.scales  float32 (outputs, groups)

All other tensors stand there as they are. `quantisation.json` beside them says how the values were found.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from underlay.config import Config, parse
from underlay.errors import UserError
from underlay.models.decoder import Decoder, DecoderConfig
from underlay.models.quantised import HIGHEST, LOWEST, Bits, QuantisedMatrix, fitting, groups_of, matrix

NOTES = "quantisation.json"
_LONGEST_NOTES = 1 << 20


class Quantisation(Config):
    """How a model was quantised, and what that cost."""

    bits: Bits
    """Of a value; matrices whose inputs 32 does not divide have 8 all the same."""
    group: int | None = Field(gt=0)
    """Inputs that share a scale; null: all of a row."""
    method: str
    """How values were chosen."""
    calibrated_on: str | None = None
    """What was read for it."""
    perplexity_before: float = Field(gt=0)
    """Of the model as it was, on held-out text."""
    perplexity_after: float = Field(gt=0)
    """The same, of the quantised model."""


def write_notes(notes: Quantisation, folder: Path) -> None:
    """Write `quantisation.json` into an existing folder."""
    (folder / NOTES).write_text(json.dumps(notes.model_dump(), indent=2) + "\n", "utf-8")


def read_notes(folder: Path) -> Quantisation | None:
    """How the model in a folder was quantised; None: it was not. Raises UserError where the file is damaged."""
    path = folder / NOTES
    if not path.exists():
        return None
    if path.stat().st_size > _LONGEST_NOTES:
        raise UserError(f"{path}: {path.stat().st_size} bytes are more than it can have")
    try:
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
        raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}") from error
    return parse(Quantisation, values, str(path))


def packed(name: str, quantised: QuantisedMatrix) -> Iterator[tuple[str, Tensor]]:
    """The two tensors that hold a matrix, by their names."""
    values = quantised.values
    if quantised.bits == 4:
        halves = (values + 8).to(torch.uint8)
        values = halves[:, 0::2] | halves[:, 1::2] << 4
    yield f"{name}.values", values
    yield f"{name}.scales", quantised.scales


def expected(model: Decoder, name: str, bits: Bits) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype, in the words of safetensors, and shape of the two tensors that hold a matrix."""
    outputs, inputs = matrix(model, name).shape
    bits = fitting(inputs, bits)
    values = ("I8", (outputs, inputs)) if bits == 8 else ("U8", (outputs, inputs // 2))
    return {f"{name}.values": values, f"{name}.scales": ("F32", (outputs, groups_of(inputs, bits)))}


def unpacked(name: str, file: Any, where: str) -> QuantisedMatrix:
    """The matrix that two tensors of an open file hold, whose dtypes and shapes are known to be right.

    Raises UserError where a value is out of range or a scale is not finite.
    """
    values, scales = file.get_tensor(f"{name}.values"), file.get_tensor(f"{name}.scales")
    bits: Bits = 8
    if values.dtype == torch.uint8:
        bits = 4
        values = torch.stack([values & 15, values >> 4], 2).flatten(1).to(torch.int8) - 8
    if not scales.isfinite().all():
        raise UserError(f"{where}: tensor {name}.scales holds NaN or infinity; copy the model again")
    if values.numel() and (int(values.min()) < LOWEST[bits] or int(values.max()) > HIGHEST[bits]):
        raise UserError(f"{where}: tensor {name}.values goes beyond {LOWEST[bits]} to {HIGHEST[bits]}")
    return QuantisedMatrix(bits, values, scales)


def untied(config: DecoderConfig) -> DecoderConfig:
    """The config of a model once its head is quantised: the head is its own then, for the embedding is not."""
    return type(config)(**{**config.model_dump(), "tied": False})


def dequantised(model: Decoder, matrices: Mapping[str, QuantisedMatrix]) -> Decoder:
    """A copy of a model that computes in float32 with what quantised matrices, its head among them, stand for."""
    copy = Decoder(untied(model.config))
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            quantised = matrices.get(name.removesuffix(".weight"))
            parameter.copy_(model.get_parameter(name) if quantised is None else quantised.dequantise())
    return copy
