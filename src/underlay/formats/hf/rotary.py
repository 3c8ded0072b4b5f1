"""Rotary positions in configs of `transformers`, in the spelling of every version.

Up to version 4: `rope_theta`, and `rope_scaling` with `type` or `rope_type`. Since version 5 all of it is in
`rope_parameters`, in some models once for each kind of layer. Written is the older spelling, which all tools read.
"""

from typing import Any

from underlay.config import parse
from underlay.errors import UserError
from underlay.formats.hf.layout import Values
from underlay.formats.untrusted import shown
from underlay.models.decoder import RotaryConfig
from underlay.models.parts import RopeScaling

_NAMES = {
    "factor": "factor",
    "original_context": "original_max_position_embeddings",
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "sharpen": "attention_factor",
}
_KINDS = {
    "linear": {"factor"},
    "dynamic": {"factor", "original_context"},
    "llama3": {"factor", "original_context", "low", "high"},
    "yarn": {"factor", "original_context", "beta_fast", "beta_slow", "truncate", "sharpen"},
}
FULL, SLIDING = "full_attention", "sliding_attention"


def read_rope(values: Values, where: str, base: float = 10_000.0) -> Values:
    """Our rotary fields; takes their keys out of `values`. `base`: where the config names none."""
    scaling, parameters = values.pop("rope_scaling", None), values.pop("rope_parameters", None)
    theta = values.pop("rope_theta", None)
    merged = {**_mapping(parameters, "rope_parameters", where), **_mapping(scaling, "rope_scaling", where)}
    theta = merged.pop("rope_theta", theta)
    if merged.pop("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{where}: partial_rotary_factor: positions that turn only some channels are not known")
    return {"rope_base": base if theta is None else theta, "rope_scaling": _scaling(merged, where)}


def read_two_ropes(values: Values, where: str, base: float, local_base: float) -> tuple[Values, float]:
    """The same for models whose layers with and without a window differ: fields of the latter, base of the former."""
    local = values.pop("rope_local_base_freq", None)
    parameters = _mapping(values.pop("rope_parameters", None), "rope_parameters", where)
    if FULL in parameters or SLIDING in parameters:
        sliding = _mapping(parameters.pop(SLIDING, None), f"rope_parameters.{SLIDING}", where)
        local = sliding.pop("rope_theta", local)
        if _scaling(sliding, where) is not None:
            raise UserError(f"{where}: rope_parameters.{SLIDING} is stretched; only layers without a window can be")
        parameters = _mapping(parameters.pop(FULL, None), f"rope_parameters.{FULL}", where)
    fields = read_rope({**values, "rope_parameters": parameters}, where, base)
    for key in ("rope_scaling", "rope_theta"):
        values.pop(key, None)
    return fields, local_base if local is None else local


def write_rope(config: RotaryConfig) -> Values:
    """Their keys for our rotary fields."""
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_theta": config.rope_base, "rope_scaling": None}
    named = {_NAMES[name]: getattr(scaling, name) for name in sorted(_KINDS[scaling.kind])}
    given = {key: value for key, value in named.items() if value is not None}
    if scaling.kind in ("llama3", "yarn"):
        given.setdefault("original_max_position_embeddings", config.context)
    return {"rope_theta": config.rope_base, "rope_scaling": {"rope_type": scaling.kind, **given}}


def _scaling(values: Values, where: str) -> Values | None:
    kind = values.pop("rope_type", None) or values.pop("type", None) or "default"
    values.pop("type", None)
    if kind == "default":
        return None
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise UserError(f"{where}: rope_scaling of the kind {shown(kind)} is not known; kinds are {known}")
    known_keys = {_NAMES[name]: name for name in _KINDS[kind]}
    unknown = [key for key, value in values.items() if key not in known_keys and value is not None]
    if unknown:
        raise UserError(f"{where}: rope_scaling: {kind} has no {shown(unknown[0])}")
    fields = {known_keys[key]: value for key, value in values.items() if value is not None}
    if kind == "dynamic":
        fields.pop("original_context", None)  # what the text is measured by is max_position_embeddings
    return parse(RopeScaling, {"kind": kind, **fields}, f"{where}: rope_scaling").model_dump()


def _mapping(value: Any, key: str, where: str) -> Values:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key} must hold keys and values")
    return dict(value)
