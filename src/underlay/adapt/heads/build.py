"""A model with a head for a task: the trunk as it was, and a new head, drawn small (BERT, arXiv:1810.04805).

What a base needs for its old work goes: an encoder's guesses of masked tokens, a decoder's own matrix for the next.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from underlay.models import Encoder, Model
from underlay.models.families import blank
from underlay.models.heads import TaskConfig

STD = 0.02
"""Of new matrices; their biases are zero."""


def with_head(base: Model, task: TaskConfig, seed: int, pooler: bool = True) -> Model:
    """The base with a head for a task; what was not in the base is drawn anew, by the seed.

    The trunk is the base's own memory, so whatever trains the one trains the other. A head that the base has for the
    very same task stays. `pooler`: whether an encoder's head for texts has one; where the base brings its own, that is
    taken.
    """
    changes: dict[str, Any] = {"task": task, "tied": True}
    if isinstance(base, Encoder):
        changes |= {"masked_head": False, "pooler": pooler and task.kind == "text"}
    return remade(base, changes, seed)


def remade(base: Model, changes: Mapping[str, Any], seed: int) -> Model:
    """The base with another config, on its own memory; what it did not have is drawn, what is not asked for goes."""
    config = type(base.config).model_validate({**base.config.model_dump(), **changes})
    with torch.device("meta"):
        model = blank(config)
    old = dict(base.named_parameters())
    if base.config.task != config.task:
        old = {name: one for name, one in old.items() if not name.startswith("task.")}
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, parameter in model.named_parameters():
        if name in old:
            state[name] = old[name].detach()
        elif name.endswith("bias"):
            state[name] = torch.zeros(parameter.shape)
        else:
            state[name] = torch.empty(parameter.shape).normal_(std=STD, generator=generator)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


def fresh(base: Model, model: Model) -> frozenset[str]:
    """Names of the parameters of `model` that are not the base's own memory."""
    held = {parameter.data_ptr() for parameter in base.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if parameter.data_ptr() not in held)


def freeze_trunk(model: Model, learns: Collection[str] = ()) -> None:
    """Let the head alone learn, and what else `learns` names, such as a pooler that the base did not have."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("task.") or name in learns)
