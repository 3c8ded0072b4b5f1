"""A judge: a model that was never taught to reward is asked what an answer is worth (arXiv:2306.05685).

It is asked by a task with labels, such as 1 to 5, about the prompt and the answer together. The reward is what the
labels are worth on average, by the probabilities that the judge gives them (G-Eval, arXiv:2303.16634): finer than its
likeliest label, and the same each time. What it cannot be asked about, since it is too long for its context or holds
the mark that ends the task's input, has no reward: an answer must not be able to speak to the judge in the task's name.

    instruction: How well does the answer do what the prompt asks for? 1 is not at all, 5 could not be better.
    output: {labels: ["1", "2", "3", "4", "5"]}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, model_validator

from underlay.adapt.examples import Example, Problem
from underlay.adapt.prompting import Task, answer, task_values, unaskable
from underlay.adapt.reinforce.rewards import ByModel
from underlay.config.base import parse
from underlay.generate import Engine
from underlay.models import Decoder
from underlay.text import Message, Tokenizer

_SLOTS = 32
"""Answers that are judged at once."""


class Rubric(Task):
    """A task that judges answers."""

    worth: dict[str, float] = Field(default={})
    """What each label is worth; by default labels are numbers, and worth those."""

    @model_validator(mode="after")
    def _worth_something(self) -> Self:
        labels = self.output.labels
        if not labels:
            raise ValueError("output: a judge chooses among labels, such as {labels: ['1', '2', '3', '4', '5']}")
        if self.worth and set(self.worth) != set(labels):
            raise ValueError(f"worth: say it of each label, and of no other: {', '.join(labels)}")
        if not self.worth and (odd := [label for label in labels if not _is_number(label)]):
            raise ValueError(f"worth: the label {odd[0]!r} is no number; say what each is worth, as {{{odd[0]}: 1}}")
        return self

    @property
    def values(self) -> dict[str, float]:
        """What each label is worth."""
        return self.worth or {label: float(label) for label in self.output.labels}


def read_rubric(name: str | Path) -> Rubric:
    """A rubric from its YAML file, or a ready task by its name. Raises UserError where it is not there, or not one."""
    return parse(Rubric, task_values(name), str(name))


@dataclass(frozen=True)
class JudgeReward(ByModel):
    """What a judge holds an answer for."""

    judge: Decoder
    tokenizer: Tokenizer
    rubric: Rubric
    dtype: torch.dtype = torch.float32

    @property
    def model(self) -> Decoder:
        """The judge."""
        return self.judge

    @property
    def terms(self) -> bytes:
        """The rubric."""
        return self.rubric.model_dump_json().encode()

    def many(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[float | None]:
        """The expected worth of each answer; None where the judge cannot be asked."""
        asked = [
            Example(Problem((Message("user", _shown(problem, said)),)), "answer", number, "")
            for number, (problem, said) in enumerate(zip(problems, answers, strict=True), 1)
        ]
        can = [unaskable(self._engine, self.rubric, example) is None for example in asked]
        fitting = [example for example, fits in zip(asked, can, strict=True) if fits]
        found = iter(answer(self._engine, self.rubric, fitting).predictions if fitting else ())
        values = self.rubric.values
        return [
            sum(share * values[label] for label, share in next(found).probabilities.items()) if fits else None
            for fits in can
        ]

    @cached_property
    def _engine(self) -> Engine:
        precise = self.dtype is torch.float32
        return Engine(self.judge, self.tokenizer, _SLOTS, "float32" if precise else "bfloat16")


def _shown(problem: Problem, said: str) -> str:
    """Prompt and answer as one text."""
    turns = [f"{message.role.capitalize()}: {message.content}" for message in problem.prompt]
    return "\n\n".join([*turns, f"Answer: {said}"])


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True
