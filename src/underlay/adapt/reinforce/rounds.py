"""A round: the answers that some steps learn from, with all that is known of them, in memory and on disk.

    tokens    <bos> <user> why ? <end> <assistant> because <end>
    targets                            because     <end>
    active      0     0    0   0   0       1         0             one row an answer, padded on the right

What the model said of an answer when it was made has to stay as it was then. So a round is kept in a file: a run that
was killed within a round goes on with these answers, not with others, which later weights would give.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from underlay.errors import UserError
from underlay.models import Batch
from underlay.models.storage import write_tensors

_FACTS = "facts"
_EVEN = 32
"""Rows are padded to multiples of so many tokens: libraries keep what they prepare for each length."""


@dataclass(frozen=True, kw_only=True)
class RolloutBatch(Batch):
    """Answers that were sampled, a row each. `weights` are how much each token counts in the loss (see `shares`)."""

    even: Tensor
    """(batch, time) float32: the same, with every token weighing as much as any other; for figures."""
    old: Tensor
    """(batch, time) float32: log-probability of each target when the answer was made, at its temperature, in nats."""
    advantages: Tensor
    """(batch, time) float32: by how much each token turned out better than was to be expected."""
    reference: Tensor | None = None
    """(batch, time) float32: as `old`, by the model that training started from."""
    values: Tensor | None = None
    """(batch, time) float32: what the critic said when the answer was made."""
    returns: Tensor | None = None
    """(batch, time) float32: what the critic should have said."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Figures of the whole round."""

    def cut(self, pieces: int) -> Batch:
        """The same. Raises UserError where it is to be cut."""
        if pieces > 1:
            raise UserError("short_rows: answers are learned whole, their rows cannot be cut; leave it out")
        return self


def evenly(time: int, longest: int) -> int:
    """So many tokens, or a few more, that few lengths come; `longest` at most."""
    return min(time + -time % _EVEN, longest)


def part(whole: RolloutBatch, first: int, count: int) -> RolloutBatch:
    """Some rows, without the columns that only pad them or are not learned from."""
    rows = slice(first, first + count)
    used = (whole.even[rows] > 0).any(0).nonzero()
    time = evenly(int(used[-1]) + 1 if len(used) else 1, whole.tokens.shape[1])
    return replace(whole, **{name: one[rows, :time] for name, one in _tensors(whole)})  # type: ignore[arg-type]


class Rounds:
    """The rounds of a run on disk."""

    def __init__(self, folder: Path, identity: str) -> None:
        """`identity`: the hash of all that the rounds follow from, so that those of another run are never taken."""
        self._folder, self._identity = folder, identity

    def path(self, number: int) -> Path:
        """Where a round lies."""
        return self._folder / f"round-{self._identity[:16]}-{number:08d}.safetensors"

    def load(self, number: int) -> RolloutBatch | None:
        """A round, if it is there and whole."""
        try:
            with safe_open(self.path(number), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = json.loads(file.metadata()[_FACTS])
        except (FileNotFoundError, SafetensorError):
            return None
        return RolloutBatch(**tensors, facts=facts)

    def save(self, number: int, made: RolloutBatch) -> None:
        """Write a round, whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self.path(number)
        unfinished = path.with_suffix(f".{os.getpid()}")
        write_tensors(dict(_tensors(made)), unfinished, {_FACTS: json.dumps(dict(made.facts))})
        unfinished.replace(path)

    def forget(self, before: int) -> None:
        """Remove rounds that no checkpoint needs any more, and those of other runs."""
        for path in self._folder.glob("round-*.safetensors"):
            own = path.name.startswith(f"round-{self._identity[:16]}-")
            if not own or int(path.stem.rpartition("-")[2]) < before:
                path.unlink(missing_ok=True)


def _tensors(batch: RolloutBatch) -> Iterator[tuple[str, Tensor]]:
    found = ((one.name, getattr(batch, one.name)) for one in fields(batch))
    return ((name, one) for name, one in found if isinstance(one, Tensor))
