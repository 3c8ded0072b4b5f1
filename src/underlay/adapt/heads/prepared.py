"""What examples of any form come to, before there is a model with a head for them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from underlay.models.heads import TaskConfig
from underlay.text import Framed

EMPTY = "empty"
"""A reason to leave out what has no words."""


@dataclass(frozen=True)
class Prepared:
    """Rows, and what is to be said of each."""

    framed: Sequence[Framed]
    targets: Sequence[Sequence[int]] | NDArray[np.float32]
    """As `TaskRows` takes them."""
    numbers: Sequence[int]
    """Which example each row is of."""
    task: TaskConfig
    count: int
    """Examples that the rows come from."""
    left_out: Counter[str]
    """How many examples, or parts of them, were left out or cut, by reason."""
