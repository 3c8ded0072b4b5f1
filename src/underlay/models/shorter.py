"""A model with fewer blocks, to begin a small student from what a large one knows (DistilBERT, arXiv:1910.01108).

The blocks that stay are spread evenly over the old ones, the first and the last among them; embeddings, norms and heads
stay as they are. What comes out says little that makes sense before it has learned.
"""

import re

import torch

from underlay.errors import UserError
from underlay.models.families import Model, blank


def shortened(model: Model, depth: int) -> Model:
    """The same model with `depth` of its blocks, on its own memory.

    Raises UserError where it has not more, or where its blocks are not alike in what they look back on.
    """
    old = model.config
    if not 0 < depth < old.depth:
        raise UserError(f"blocks {depth}: the model has {old.depth}; keep fewer, and at least one")
    step = (old.depth - 1) / max(depth - 1, 1)
    kept = [round(place * step) for place in range(depth)]
    try:
        config = type(old).model_validate({**old.model_dump(), "depth": depth})
    except ValueError as error:
        raise UserError(f"blocks {depth}: {old.family} cannot have so few here: {error}") from error
    for place, layer in enumerate(kept):
        same = config.window(place) == old.window(layer) and config.rope(place) == old.rope(layer)
        if not same or getattr(old, "scale_by_layer", False):
            raise UserError(f"blocks {depth}: block {layer} of this {old.family} would not be itself in place {place}")
    parts = dict(model.named_parameters())
    with torch.device("meta"):
        small = blank(config)
    state = {}
    for name, _ in small.named_parameters():
        before = re.sub(r"^blocks\.(\d+)", lambda found: f"blocks.{kept[int(found[1])]}", name)
        state[name] = parts[before].detach()
    small.load_state_dict(state, assign=True)
    return small.requires_grad_(True)
