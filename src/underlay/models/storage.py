"""Models on disk: `config.json` beside `model.safetensors`. Nothing is ever unpickled, no code is imported."""

import errno
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from underlay.config import parse
from underlay.errors import UserError
from underlay.models.llama import Llama, LlamaConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_model(model: Llama, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` into an existing folder."""
    (folder / CONFIG).write_text(json.dumps(model.config.model_dump(), indent=2) + "\n", "utf-8")
    write_tensors(model.state_dict(), folder / WEIGHTS)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name as safetensors. Raises OSError where the disk does not take them."""
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # the library hides the system's own error in its text
        full = "os error 28" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error


def load_model(folder: Path) -> Llama:
    """Read a model that `save_model` wrote.

    Raises UserError where a file is missing or damaged, or the tensors are not those the config calls for.
    """
    try:
        values = json.loads((folder / CONFIG).read_text("utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or folder}: no such file; is this a model folder?") from error
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged model file: {str(error).splitlines()[0]}") from error
    model = parse(LlamaConfig, values, str(folder / CONFIG)).build()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        name = min(set(expected.items()) ^ set(found.items()))[0]
        have, want = found.get(name, "missing"), expected.get(name, "none")
        raise UserError(f"{folder / WEIGHTS}: tensor {name} is {have}, the config says {want}")
    model.load_state_dict(tensors)
    return model


def parameter_count(model: nn.Module) -> int:
    """Number of trainable numbers; tied tensors count once."""
    return sum(parameter.numel() for parameter in model.parameters())
