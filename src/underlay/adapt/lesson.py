"""What a model is adapted by, ready for the training loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from underlay.models import Model
from underlay.train import Objective, Source


class ExampleSource(Source, Protocol):
    """Examples in rows, pass after pass without end."""

    def __len__(self) -> int:
        """Rows of a pass."""

    def examples(self, sample: int) -> Sequence[int]:
        """Which examples, by their numbers, stand in the `sample`-th row to be read."""


@dataclass(frozen=True)
class Lesson:
    """What is learned, by whom, and from what."""

    model: Model
    """What is trained; its trunk may be the very memory of the model it came from."""
    source: ExampleSource
    """Batches of examples, by number."""
    objective: Objective
    """What of them is learned."""
    count: int
    """Examples learned from."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many were left out or cut, by reason."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures of the examples, such as the number of labels."""
    fresh: frozenset[str] = frozenset()
    """Parameters that the base did not have; they have to learn, whatever else is frozen."""
