"""Models on disk: `config.json` beside `model.safetensors`. Nothing is ever unpickled, no code is imported."""

import errno
import json
import re
from collections.abc import Mapping
from pathlib import Path

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


def load_model(folder: Path) -> Model:
    """Read a model that `save_model` wrote; its weights become float32, whatever they are stored as.

    Raises UserError where a file is missing or damaged, or the tensors are not those the config calls for.
    """
    model, path = blank(load_config(folder)), folder / WEIGHTS
    parameters = dict(model.named_parameters())
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
            if expected != found:
                name = min(set(expected.items()) ^ set(found.items()))[0]
                have, want = found.get(name, "missing"), expected.get(name, "none")
                raise UserError(f"{path}: tensor {name} is {have}, the config says {want}")
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(file.get_tensor(name))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; is this a model folder?") from error
    except SafetensorError as error:
        raise UserError(f"{folder}: damaged model file: {str(error).splitlines()[0]}") from error
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
