"""Adaptation: from one base model to a task, by further training.

`pairs` takes instructions and answers from a corpus, `examples` reads them from files of people, `doctor` shows what a
model would learn of them. `conversations` renders pairs into rows whose answers alone are learned; the training loop is
the same as for pretraining.
"""

from underlay.adapt.conversations import Conversations
from underlay.adapt.pairs import Pair, find_pairs, functions_in

__all__ = ["Conversations", "Pair", "find_pairs", "functions_in"]
