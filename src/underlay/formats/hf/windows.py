"""Which layers slide a window, in configs of `transformers`."""

from collections.abc import Callable

from underlay.errors import UserError
from underlay.formats.hf.layout import Values
from underlay.formats.hf.rotary import FULL, SLIDING
from underlay.models.decoder import WindowedConfig


def read_windows(values: Values, depth: int, where: str, window: int | None, full: Callable[[int], bool]) -> Values:
    """Our fields; takes their keys out of `values`.

    window: where the config names none; full: whether a layer sees everything, where the config has no list.
    """
    window = values.pop("sliding_window", window)
    used = values.pop("use_sliding_window", True)
    values.pop("max_window_layers", None)  # families that look at it have done so
    kinds = values.pop("layer_types", None)
    if kinds is None:
        kinds = [FULL if full(layer) else SLIDING for layer in range(depth)]
    if not isinstance(kinds, list) or len(kinds) != depth or any(kind not in (FULL, SLIDING) for kind in kinds):
        raise UserError(f"{where}: layer_types must say {FULL} or {SLIDING} for each of the {depth} layers")
    whole = [layer for layer, kind in enumerate(kinds) if kind == FULL]
    if window is None or not used or len(whole) == depth:
        return {"sliding_window": None, "full_layers": ()}
    return {"sliding_window": window, "full_layers": tuple(whole)}


def write_windows(config: WindowedConfig) -> Values:
    """Their keys for our fields."""
    window = config.sliding_window
    kinds = [FULL if window is None or layer in config.full_layers else SLIDING for layer in range(config.depth)]
    # Some of their models ask for a number, though no layer looks at it.
    return {"sliding_window": window or config.context, "layer_types": kinds}
