"""Answers of a teacher as examples for others: what a model says is kept, chosen from, and learned by another one.

Learning from what a teacher says (sequence-level distillation, Kim & Rush, arXiv:1606.07947) asks for nothing but its
text, so student and teacher may have different sizes and different tokens. `talking` answers prompts as they stand,
`tasks` by a task: texts are written, or labelled with a probability. `choosing` keeps what a reward finds right, or the
best of several (rejection sampling, as in STaR, arXiv:2203.14465). `answered` does all of it, a stretch at a time.
"""

from underlay.adapt.answers.config import AnswerConfig
from underlay.adapt.answers.label_studio import write_tasks
from underlay.adapt.answers.run import Answered, Labelled, answered

__all__ = ["AnswerConfig", "Answered", "Labelled", "answered", "write_tasks"]
