"""A lesson: everything that the training loop needs to adapt a model to a task, made ready once.

Each way to adapt (heads, preferences, instructions) makes one from a model and examples; whoever calls the loop hands
it on, and tells the user what was left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from underlay.models import Model
from underlay.train import Objective, Source


@dataclass(frozen=True)
class Lesson:
    """What is learned, by whom, and from what."""

    model: Model
    """What is trained; its trunk may be the very memory of the model it came from."""
    source: Source
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
