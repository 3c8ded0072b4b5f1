"""Heads for tasks: labels and numbers of texts, tags of words, answers in texts, and vectors of texts that are alike.

`lesson` makes ready what the training loop needs, `predict_labels` and its like say what a model found, and `examine`,
by `measures`, how right it was.
"""

from underlay.adapt.heads.build import freeze_trunk, fresh, with_head
from underlay.adapt.heads.config import HeadConfig
from underlay.adapt.heads.examine import examine
from underlay.adapt.heads.lesson import lesson, objective_of
from underlay.adapt.heads.predict import (
    Found,
    Guess,
    Word,
    predict_answers,
    predict_labels,
    predict_tags,
    predict_values,
)

__all__ = [
    "Found",
    "Guess",
    "HeadConfig",
    "Word",
    "examine",
    "freeze_trunk",
    "fresh",
    "lesson",
    "objective_of",
    "predict_answers",
    "predict_labels",
    "predict_tags",
    "predict_values",
    "with_head",
]
