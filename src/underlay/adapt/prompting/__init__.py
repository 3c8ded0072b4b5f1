"""Adaptation without touching weights: tasks as data, prompts and demonstrations; and soft prompts, which are learned.

`answer` puts a `Task` to an engine, `measure` tells how right the answers are.
"""

from underlay.adapt.prompting.answer import Answers, Prediction, answer
from underlay.adapt.prompting.cases import Case
from underlay.adapt.prompting.measure import Figure, measure
from underlay.adapt.prompting.selecting import embedder
from underlay.adapt.prompting.settings import PromptSettings
from underlay.adapt.prompting.task import Demonstration, Output, Task, read_task, ready_tasks

__all__ = [
    "Answers",
    "Case",
    "Demonstration",
    "Figure",
    "Output",
    "Prediction",
    "PromptSettings",
    "Task",
    "answer",
    "embedder",
    "measure",
    "read_task",
    "ready_tasks",
]
