"""What a model is adapted by, ready for the training loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from underlay.train import Objective, Source


class ExampleSource(Source, Protocol):
    """Examples in rows, pass after pass without end."""

    def __len__(self) -> int:
        """Rows of a pass."""

    def examples(self, sample: int) -> Sequence[int]:
        """Which examples, by their numbers, stand in the `sample`-th row to be read."""


@dataclass(frozen=True)
class Lesson:
    """A model, what it reads, and what it is to make of it."""

    model: nn.Module
    """What is trained."""
    source: ExampleSource
    objective: Objective
    count: int
    """Examples that are learned from."""
    left_out: Mapping[str, int]
    """How many are not, by reason."""
