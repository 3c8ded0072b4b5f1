"""Adaptation: from one base model to a task, by further training on examples.

`examples` reads what people have and keeps it, `doctor` shows what a model would learn of it. Each objective makes a
`Lesson` of examples, which the one training loop takes. What changes is all of a model, or little additions (`lora`).
"""

from underlay.adapt.conversations import Conversations
from underlay.adapt.lesson import Lesson
from underlay.adapt.pairs import Pair, find_pairs, functions_in

__all__ = ["Conversations", "Lesson", "Pair", "find_pairs", "functions_in"]
