"""Models on disk: `config.json` beside `model.safetensors`. Nothing is ever unpickled, no code is imported."""

import errno
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import RootModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from underlay.config import parse
from underlay.errors import UserError
from underlay.models.config import TextConfig
from underlay.models.decoder import Decoder
from underlay.models.encoder import Encoder
from underlay.models.families import AnyConfig, Model, blank
from underlay.models.quantised import QuantisedMatrix, matrix, quantised_names
from underlay.models.quantised_storage import (
    NOTES,
    Quantisation,
    expected,
    packed,
    read_notes,
    unpacked,
    untied,
    write_notes,
)

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class _AnyConfig(RootModel[AnyConfig]):
    """The config of whichever family a file names."""


def save_model(model: Model, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write `config.json` and `model.safetensors` into an existing folder.

    `weights`: what to write in the place of the model's own, where those are spread over processes.
    """
    save_config(model.config, folder)
    write_tensors(model.state_dict() if weights is None else weights, folder / WEIGHTS)


def save_config(config: TextConfig, folder: Path) -> None:
    """Write `config.json` into an existing folder."""
    (folder / CONFIG).write_text(json.dumps(config.model_dump(), indent=2) + "\n", "utf-8")


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name as safetensors. Raises OSError where the disk does not take them."""
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:  # the library hides the system's own error in its text
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error


def load_config(folder: Path) -> TextConfig:
    """Read `config.json`. Raises UserError where it is missing, damaged, or says what no model can be."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; is this a model folder?") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{folder}: damaged model file: {str(error).splitlines()[0]}") from error
    config = parse(_AnyConfig, values, str(path)).root
    if not config.vocabulary or not config.context:
        raise UserError(f"{path}: vocabulary and context must be above 0")
    return config


def save_quantised(model: Decoder, matrices: Mapping[str, QuantisedMatrix], notes: Quantisation, folder: Path) -> None:
    """Write a model of whose matrices some are quantised, by `quantised_names`, into an existing folder.

    Its head is its own on disk, also where the model's is tied to the embedding, which is not quantised.
    """
    replaced = {f"{name}.weight" for name in matrices}
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in replaced}
    for name, quantised in matrices.items():
        tensors |= packed(name, quantised)
    save_config(untied(model.config), folder)
    write_tensors(tensors, folder / WEIGHTS)
    write_notes(notes, folder)


def load_model(folder: Path) -> Model:
    """Read a model that was saved here; its weights become float32, whatever they are stored as, or quantised to.

    Raises UserError where a file is missing or damaged, or the tensors are not those the config calls for.
    """
    model, path = blank(load_config(folder)), folder / WEIGHTS
    with _opened(folder) as file, torch.no_grad():
        names = _checked(model, folder, file)
        for name in names:
            matrix(_decoder(model), name).copy_(unpacked(name, file, str(path)).dequantise())
        for name, parameter in model.named_parameters():
            if name.removesuffix(".weight") not in names:
                parameter.copy_(file.get_tensor(name))
    return model


def load_quantised(folder: Path) -> dict[str, QuantisedMatrix] | None:
    """The quantised matrices of a model, by `quantised_names`; None where it has none.

    Raises UserError as `load_model` does, and where a value is out of range or a scale is not finite.
    """
    if read_notes(folder) is None:
        return None
    with torch.device("meta"):
        model = blank(load_config(folder))
    with _opened(folder) as file:
        return {name: unpacked(name, file, str(folder / WEIGHTS)) for name in _checked(model, folder, file)}


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; is this a model folder?") from error
    except SafetensorError as error:
        raise UserError(f"{folder}: damaged model file: {str(error).splitlines()[0]}") from error


def _checked(model: Model, folder: Path, file: Any) -> list[str]:
    """The matrices that are quantised, once all tensors of the file are known to be those of the model."""
    notes, path = read_notes(folder), folder / WEIGHTS
    names = [] if notes is None else quantised_names(_decoder(model))
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    found: dict[str, Any] = {name: tuple(one.get_shape()) for name, one in slices.items()}
    wanted: dict[str, Any] = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name in names:
        assert notes is not None
        del wanted[f"{name}.weight"]
        two = expected(_decoder(model), name, notes.bits)
        wanted |= two
        found |= {part: (slices[part].get_dtype(), found[part]) for part in two if part in found}
    if wanted != found:
        name = min(set(wanted.items()) ^ set(found.items()))[0]
        have, want = found.get(name, "missing"), wanted.get(name, "none")
        raise UserError(f"{path}: tensor {name} is {have}, the config says {want}")
    return names


def _decoder(model: Model) -> Decoder:
    if not isinstance(model, Decoder) or model.head is None:
        raise UserError(
            f"{NOTES} is beside a model that cannot be quantised; only decoders with a head of their own can"
        )
    return model


def load_decoder(folder: Path) -> Decoder:
    """`load_model`, for what can only be done with a decoder. Raises UserError where it is none."""
    model = load_model(folder)
    if not isinstance(model, Decoder):
        raise UserError(
            f"a {model.config.family} fills in and embeds; this needs a model that writes on, such as a llama"
        )
    return model


def load_encoder(folder: Path) -> Encoder:
    """`load_model`, for what can only be done with an encoder. Raises UserError where it is none."""
    model = load_model(folder)
    if not isinstance(model, Encoder):
        raise UserError(f"a {model.config.family} only writes on; this needs an encoder, such as a bert")
    return model


def parameter_count(model: nn.Module) -> int:
    """Number of trainable numbers; tied tensors count once."""
    return sum(parameter.numel() for parameter in model.parameters())
