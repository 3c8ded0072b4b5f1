"""What can be set of a teacher's answers."""

from typing import Self

from pydantic import Field, model_validator

from underlay.config import Config

SEVERAL = 0.7
"""Temperature of several answers, where nothing else is asked for: at 0 all would be alike."""


class AnswerConfig(Config):
    """How a teacher answers, and which of its answers are kept."""

    task: str | None = None
    """What to do with each text: the YAML file of a task, or a ready one by its name. With labels, texts are labelled.
    By default prompts are answered as they stand."""
    samples: int = Field(default=1, gt=0)
    """Answers to a prompt. By a task they vote, unless a reward chooses."""
    temperature: float | None = Field(default=None, ge=0)
    """By default the task's or 0, which takes the likeliest token each time; of several answers 0.7."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest answer, in tokens; by default the task's, or 256. What is longer is left out, for its end is missing."""
    keep: str | None = None
    """A reward that says which answers are right, as of `grpo`: `matches`, `parses`, `path/to/file.py:name` ..."""
    rubric: str | None = None
    """The task by which a model judges answers, in the place of `keep`."""
    best: bool = False
    """Keep of a prompt's answers only the one that earns most."""
    worth: float | None = None
    """Keep only what earns at least so much; by default 1, with `best` anything. Where a model says it, no default."""
    least: float = Field(default=0.0, ge=0, le=1)
    """By a task: leave out what is less sure, by the probability of the label, or the share of votes that agree."""

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples: at temperature 0 all would be alike; raise temperature")
        if self.keep is not None and self.rubric is not None:
            raise ValueError("keep: either a reward, or a rubric by which a model judges; give one of them")
        if self.least and self.task is None:
            raise ValueError("least: an answer without a task has no confidence; give a task, or a reward as keep")
        return self

    def sampled_at(self, own: float = 0.0) -> float:
        """The temperature; own: that of a task."""
        if self.temperature is not None:
            return self.temperature
        return SEVERAL if self.samples > 1 and own == 0 else own
