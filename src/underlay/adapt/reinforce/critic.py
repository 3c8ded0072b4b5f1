"""The critic of PPO: what an unfinished answer is going to be worth, read at each of its tokens.

It is a head on the policy's own trunk, with a loss beside the policy's (arXiv:1707.06347, equation 9). A second model,
as InstructGPT has it, doubles memory and work, and could not share the frozen weights that low-rank changes stand on.
The price is that the critic's gradient moves the policy's trunk, too; it is kept small (`value_weight`).
"""

import torch
from torch import Tensor, nn

from underlay.models import Decoder
from underlay.models.heads import TaskConfig, TaskHead

VALUE = TaskConfig(kind="token", labels=("value",))


def with_critic(model: Decoder) -> Decoder:
    """The same model, to which a critic was added that says 0 everywhere; another head for a task goes."""
    if model.config.task != VALUE:
        head = TaskHead(VALUE, model.config.width, "last")
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
        model.task = head.to(model.embedding.weight.device)
        model.config = model.config.model_copy(update={"task": VALUE})
    return model


def without_critic(model: Decoder) -> Decoder:
    """The same model, from which the critic was taken."""
    if model.config.task == VALUE:
        model.task = None
        model.config = model.config.model_copy(update={"task": None})
    return model


def values(model: Decoder, hidden: Tensor) -> Tensor:
    """What the critic says, (rows,) float32; hidden: (rows, width)."""
    assert model.task is not None, "the model has no critic"
    found: Tensor = model.task.output(hidden)[..., 0]
    return found.to(torch.promote_types(found.dtype, torch.float32))
