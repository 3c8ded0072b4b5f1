"""Distillation: a model learns all that a teacher holds for likely next, not the right token alone (arXiv:1503.02531).

    loss = (1 - share) cross-entropy(target) + share T^2 KL(teacher / T || student / T)

over the tokens that conversations teach. T^2 keeps the gradients of the soft part as large as they are at T = 1. The
teacher may be of any size, but its tokens must be the student's. To learn from what a teacher says instead (sequence
level, arXiv:1606.07947), let it answer, and learn from the answers as conversations.
"""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from underlay.adapt.instruct import InstructConfig
from underlay.errors import UserError
from underlay.models import Batch, Decoder
from underlay.models.parts import masks
from underlay.text import Tokenizer
from underlay.train import Loss
from underlay.train.objectives import where_counted

_CHUNK_BYTES = 1 << 25
"""The most logits of one model that exist at the same time, in float32."""


class DistilConfig(InstructConfig):
    """Learn to answer as another model would."""

    temperature: float = Field(default=2.0, gt=0)
    """What logits are divided by: higher shows more of what the teacher holds for unlikely."""
    share: float = Field(default=0.5, ge=0, le=1)
    """Of the loss that is the teacher's; the rest is the answers' own."""


@dataclass(frozen=True)
class Distil:
    """Learn from a teacher's distributions, where targets count."""

    teacher: Decoder
    temperature: float
    share: float
    dtype: torch.dtype = torch.float32

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """`divergence` of the metrics is KL(teacher || student) in nats a token, at the temperature."""
        assert isinstance(model, Decoder)
        weights = torch.ones_like(batch.tokens, dtype=torch.float32) if batch.weights is None else batch.weights
        counted, each = where_counted(weights)
        targets = batch.targets.flatten()[counted]
        mine = self._hidden(model, batch).flatten(0, 1)[counted]
        with torch.no_grad():
            told = self._hidden(self.teacher, batch).flatten(0, 1)[counted]
        total = divergence = torch.zeros((), device=mine.device)
        rows = max(1, _CHUNK_BYTES // (4 * model.config.vocabulary))
        parts = (torch.split(tensor, rows) for tensor in (mine, told, targets, each))
        for own, taught, target, weight in zip(*parts, strict=True):
            hard, soft = checkpoint(self._losses, model, own, taught, target, weight, use_reentrant=False)
            total = total + (1 - self.share) * hard + self.share * self.temperature**2 * soft
            divergence = divergence + soft.detach()
        return Loss(total, each.sum(), {"divergence": divergence})

    def _hidden(self, model: Decoder, batch: Batch) -> Tensor:
        if batch.segments is None:
            return model.hidden(batch.tokens, dtype=self.dtype)
        mask, positions = masks.isolated(batch.segments)
        return model.hidden(batch.tokens, positions, mask, dtype=self.dtype)

    def _losses(
        self, model: Decoder, own: Tensor, taught: Tensor, target: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = model.logits(own).float()
        with torch.no_grad():
            wanted = (self.teacher.logits(taught).float() / self.temperature).log_softmax(-1)
        hard = (nn.functional.cross_entropy(logits, target, reduction="none") * weight).sum()
        found = (logits / self.temperature).log_softmax(-1)
        soft = (nn.functional.kl_div(found, wanted, log_target=True, reduction="none").sum(-1) * weight).sum()
        return hard, soft


def check_teacher(teacher: Decoder, own: Tokenizer, theirs: Tokenizer, student: Decoder, context: int) -> None:
    """Raise UserError where a teacher cannot teach a student: other tokens, or a shorter context."""
    if not own.same_tokens(theirs) or teacher.config.vocabulary != student.config.vocabulary:
        raise UserError("teacher: its tokens are not the student's; take one with the same tokenizer")
    if teacher.config.context < context:
        raise UserError(f"teacher: it reads {teacher.config.context} tokens, train.context is {context}")
