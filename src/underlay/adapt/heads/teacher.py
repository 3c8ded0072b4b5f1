"""What a larger model with a head holds each text for, for a smaller one to learn from (arXiv:1503.02531).

The teacher reads texts once, by its own tokenizer, before the student learns: it may be of another family. Of each text
its scores of all labels are kept, for what it holds for unlikely tells which labels are alike.
"""

from collections.abc import Sequence

from torch import Tensor

from underlay.adapt.heads.predict import text_label_scores
from underlay.adapt.heads.texts import Text
from underlay.errors import UserError
from underlay.models import Model
from underlay.models.heads import TaskConfig
from underlay.text import Tokenizer

Teacher = tuple[Model, Tokenizer]
"""A model with a head, and what it reads texts by."""


def teacher_scores(teacher: Teacher, texts: Sequence[Text], task: TaskConfig) -> Tensor:
    """Its scores (texts, labels) float32, the labels in the student's order.

    Raises UserError where the student does not learn one label of a text, or the teacher knows others.
    """
    model, tokenizer = teacher
    if task.kind != "text" or task.several or task.number:
        raise UserError("teacher: teaches one label of a text, and these examples have something else")
    known = model.config.task
    if known is None or known.kind != "text" or known.several or set(known.labels) != set(task.labels):
        has = f"a head for {len(known.labels)} labels" if known and known.labels else "no head for labels"
        raise UserError(f"teacher: it has {has}; adapt it to the same {len(task.labels)} labels first")
    order = [known.labels.index(label) for label in task.labels]
    return text_label_scores(model, tokenizer, texts)[:, order]
