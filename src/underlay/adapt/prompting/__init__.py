"""Adaptation without touching weights: tasks as data, prompts and demonstrations; and soft prompts, which are learned.

`answer` puts a `Task` to an engine, `measure` tells how right the answers are; `lesson` makes ready what the training
loop needs for a soft prompt, which stands in front of a model by `standing`.
"""

from underlay.adapt.prompting.answer import Answers, Prediction, answer, unaskable
from underlay.adapt.prompting.cases import Case
from underlay.adapt.prompting.lesson import lesson
from underlay.adapt.prompting.measure import Figure, measure
from underlay.adapt.prompting.selecting import embedder
from underlay.adapt.prompting.settings import PromptSettings
from underlay.adapt.prompting.soft import SoftConfig, attach_soft, prefix_of, prompt_of, standing
from underlay.adapt.prompting.task import Demonstration, Output, Task, read_task, ready_tasks, task_values

__all__ = [
    "Answers",
    "Case",
    "Demonstration",
    "Figure",
    "Output",
    "Prediction",
    "PromptSettings",
    "SoftConfig",
    "Task",
    "answer",
    "attach_soft",
    "embedder",
    "lesson",
    "measure",
    "prefix_of",
    "prompt_of",
    "read_task",
    "ready_tasks",
    "standing",
    "task_values",
    "unaskable",
]
