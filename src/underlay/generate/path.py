"""Which runner an engine gets, what chooses its tokens, and how much memory for keys and values."""

from collections.abc import Mapping
from typing import Literal

import psutil
import torch

from underlay.errors import UserError
from underlay.generate.graphs import cuda_capture
from underlay.generate.plain import PlainRunner
from underlay.generate.runner import Runner
from underlay.generate.sampler import Best, Draw, Tell, best, draw_by_torch, log_probabilities
from underlay.models import Decoder
from underlay.models.quantised import QuantisedMatrix

Precision = Literal["float32", "bfloat16", "int8", "int4"]
Cache = Literal["float32", "bfloat16", "int8"]
Path = Literal["auto", "native", "plain"]
KV_SHARE = 0.5
"""Of the memory that is free, as much is taken for keys and values at most."""


def choose_runner(
    model: Decoder,
    precision: Precision,
    cache: Cache | None,
    path: Path,
    threads: int | None,
    quantised: Mapping[str, QuantisedMatrix] | None,
) -> Runner:
    """The native runner where there can be one, else the plain one; `path` names one of them.

    Raises UserError where the named one cannot be had, or a weight is not a number.
    """
    for name, parameter in model.named_parameters():
        if type(parameter.data) is not torch.Tensor:
            continue  # it is spread over processes that train it
        # A sum of numbers is one, unless it is too large, and takes no memory: only then each is looked at.
        if not torch.isfinite(parameter.sum()) and not torch.isfinite(parameter).all():
            raise UserError(f"the weights of {name} are not all finite numbers; the model is damaged or has diverged")
    why = "asked for"
    if path != "plain":
        from underlay.generate.native import NativeRunner, NoLibrary, unsupported

        reason = _elsewhere(model) or unsupported(model)
        if reason is None:
            try:
                return NativeRunner(model, precision, cache or as_precise(model, precision), threads, quantised)
            except NoLibrary as error:
                reason = str(error)
        if path == "native":
            raise UserError(f"the native path cannot run this model: {reason}")
        why = f"not native: {reason}"
    if cache is not None and cache != ("float32" if precision == "float32" else "bfloat16"):
        raise UserError(f"cache: {cache} keys and values need the native path ({why})")
    return PlainRunner(model, precision, quantised, why, graphs=cuda_capture(model))


def as_precise(model: Decoder, precision: Precision) -> Cache:
    """What keys and values of the native path are kept in beside weights; under 8 bits would cost more than it saves.

    Keys that have biases stay in bfloat16: those of some models are a hundred times as large in a few channels as in
    the rest, of which nothing would be left in 8 bits.
    """
    if precision in ("float32", "bfloat16"):
        return precision
    return "bfloat16" if any(name.endswith("key.bias") for name, _ in model.named_parameters()) else "int8"


def choosers(runner: Runner) -> tuple[Best, Draw, Tell]:
    """What finds the best tokens, draws some, and tells how likely they are: in C++ where the runner is."""
    from underlay.generate.native import NativeRunner

    if isinstance(runner, NativeRunner):
        return runner.best, runner.draw, runner.tell
    return best, draw_by_torch, log_probabilities


def _elsewhere(model: Decoder) -> str | None:
    """Why the weights are not simply here."""
    weights = [parameter.data for parameter in model.parameters()]
    away = next((weight.device.type for weight in weights if weight.device.type != "cpu"), None)
    if away is not None:
        return f"the model is on {away}"
    return None if all(type(weight) is torch.Tensor for weight in weights) else "its weights are spread over processes"


def room_for(block_bytes: int, least: int, slots: int, memory: int | None) -> int:
    """How many blocks of so many bytes to make: `least` hold one context. Raises UserError where there is not room."""
    if memory is None:
        free = psutil.virtual_memory().available
        return max(least, min(least * slots, int(free * KV_SHARE) // block_bytes))
    if memory // block_bytes < least:
        raise UserError(
            f"memory: {memory:,} bytes hold {memory // block_bytes} blocks of keys and values, "
            f"but one context takes {least} of {block_bytes:,} bytes each"
        )
    return memory // block_bytes
