"""Rows for heads: encoded once, and read so that texts of a length stand together.

A row is padded to the longest of its batch. So that this is little, the order goes by windows of samples: those of a
window are sorted by length and cut into steps, and the steps are shuffled again. Which row is the n-th depends on the
seed and on n alone, however batches are cut and however often a run is resumed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from underlay.data.order import Passes, permute
from underlay.models import Batch
from underlay.text import Framed

NO_TARGET = -1
"""In the place of a target where nothing is learned."""
_EVEN = 16
"""Rows are padded to multiples of so many tokens."""
_STEPS = 16
"""Steps in a window, where there are so many rows."""


@dataclass(frozen=True)
class TaskBatch(Batch):
    """Rows that were padded on the right.

    `targets` is (batch, 1) where one thing is said of a text, (batch, labels) where several may be, (batch, 2) where a
    span begins and ends, (batch, time) where each token has a tag, which counts by `weights`.
    """

    present: Tensor | None = None
    """(batch, time) bool, True where a token is real; every row has one."""
    types: Tensor | None = None
    """(batch, time) int64, the kind of segment; None: all 0."""
    values: Tensor | None = None
    """(batch,) float32: the numbers to be said, where those are learned."""
    allowed: Tensor | None = None
    """(queries, candidates) bool: which candidates a query is told apart from, where likeness is learned."""
    vectors: Tensor | None = None
    """(batch, width): what the head reads of each text, where the trunk does not learn and has read them before."""
    taught: Tensor | None = None
    """(batch, labels) float32: the scores that a teacher gives each text, where there is one."""


class Ragged:
    """Lists of integers of many lengths, end to end in one array."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        self.ends = self.lengths.cumsum()
        whole = int(self.lengths.sum())
        self.flat = np.fromiter((value for row in rows for value in row), np.int32, whole)

    def padded(self, rows: NDArray[np.int64], time: int, fill: int) -> Tensor:
        """Some of the lists as one tensor (rows, time) int64, `fill` where there is nothing."""
        found = np.full((len(rows), time), fill, np.int64)
        for place, row in enumerate(rows):
            length, end = self.lengths[row], self.ends[row]
            found[place, :length] = self.flat[end - length : end]
        return torch.from_numpy(found)


class Order:
    """Which row is the n-th to be read: pass after pass, rows of a length together."""

    def __init__(self, lengths: NDArray[np.int64], batch_rows: int, seed: int) -> None:
        self.lengths, self.batch_rows, self.seed = lengths, batch_rows, seed
        self.steps = max(1, min(_STEPS, len(lengths) // batch_rows))
        self._passes = Passes(len(lengths), f"heads:{seed}")
        self._window = lru_cache(maxsize=4)(self._sorted)

    def rows(self, first: int, count: int) -> NDArray[np.int64]:
        """The rows that are read first-th, first + 1-th, ..., count of them."""
        size = self.steps * self.batch_rows
        return np.array([self._window(n // size)[n % size] for n in range(first, first + count)])

    def _sorted(self, number: int) -> NDArray[np.int64]:
        size = self.steps * self.batch_rows
        rows = np.array([self._passes.row(n) for n in range(number * size, (number + 1) * size)])
        if self.steps == 1:
            return rows
        steps = rows[np.argsort(self.lengths[rows], kind="stable")].reshape(self.steps, self.batch_rows)
        key = hashlib.sha256(f"steps:{self.seed}:{number}".encode()).digest()
        shuffled: NDArray[np.int64] = steps[[permute(step, self.steps, key) for step in range(self.steps)]].reshape(-1)
        return shuffled


class Texts:
    """Framed texts by number, as padded tensors."""

    def __init__(self, framed: Sequence[Framed]) -> None:
        self.tokens = Ragged([text.ids for text in framed])
        self.longest = int(self.tokens.lengths.max())
        typed = any(any(text.type_ids) for text in framed)
        self._types = Ragged([text.type_ids for text in framed]) if typed else None

    def padded(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens, which of them are real, and their types; as in `TaskBatch`."""
        lengths = self.tokens.lengths[rows]
        # Few lengths, for libraries keep what they prepare for each.
        time = min(-(-int(lengths.max()) // _EVEN) * _EVEN, self.longest)
        present = torch.arange(time) < torch.from_numpy(lengths)[:, None]
        types = None if self._types is None else self._types.padded(rows, time, 0)
        return self.tokens.padded(rows, time, 0), present, types


class TaskRows:
    """A source of rows with what is to be said of each: integers, one list a row, or a number."""

    def __init__(
        self,
        framed: Sequence[Framed],
        targets: Sequence[Sequence[int]] | NDArray[np.float32],
        numbers: Sequence[int],
        batch_rows: int,
        seed: int,
        by_token: bool = False,
        vectors: Tensor | None = None,
        taught: Tensor | None = None,
    ) -> None:
        """targets: lists of one length, or numbers, (rows,) float32; `by_token`: lists as long as their rows, with
        `NO_TARGET` where nothing is learned. numbers: which example each row is of. `batch_rows`: how many rows make
        a step. vectors: (rows, width), and taught: (rows, labels), as in `TaskBatch`.
        """
        self.texts = Texts(framed)
        self.order = Order(self.texts.tokens.lengths, batch_rows, seed)
        self._numbers = targets if isinstance(targets, np.ndarray) else None
        self._targets = None if isinstance(targets, np.ndarray) else Ragged(targets)
        self._by_token, self._vectors, self._taught, self._examples = by_token, vectors, taught, numbers

    def __len__(self) -> int:
        return len(self.texts.tokens.lengths)

    def examples(self, sample: int) -> list[int]:
        """The example of the `sample`-th row to be read."""
        return [self._examples[self.order.rows(sample, 1)[0]]]

    def batch(self, first: int, count: int) -> TaskBatch:
        """The samples first, first + 1, ...: (count, time), padded to the longest of them."""
        rows = self.order.rows(first, count)
        tokens, present, types = self.texts.padded(rows)
        vectors, taught = (one if one is None else one[torch.from_numpy(rows)] for one in (self._vectors, self._taught))
        values = weights = None
        if self._targets is None:
            assert self._numbers is not None
            values, targets = torch.from_numpy(self._numbers[rows]), torch.zeros(count, 1, dtype=torch.int64)
        else:
            time = tokens.shape[1] if self._by_token else int(self._targets.lengths[rows[0]])
            targets = self._targets.padded(rows, time, NO_TARGET)
            weights = (targets != NO_TARGET).float() if self._by_token else None
        return TaskBatch(
            tokens,
            targets.clamp(min=0),
            weights,
            present=present,
            types=types,
            values=values,
            vectors=vectors,
            taught=taught,
        )


class Groups:
    """A source of pairs that are told apart from each other: its n-th sample is a whole group of pairs.

    So what a pair is compared with does not depend on how many groups go through the model at once.
    """

    def __init__(
        self,
        framed: Sequence[Framed],
        pairs: Sequence[tuple[int, int, Sequence[int]]],
        numbers: Sequence[int],
        group: int,
        seed: int,
    ) -> None:
        """framed: all texts, each different one once; pairs: the number of a text, of one that means the same, and
        of those that do not; numbers: which example each pair is."""
        self.texts, self.pairs, self.group = Texts(framed), pairs, min(group, len(pairs))
        self._passes, self._examples = Passes(len(pairs), f"groups:{seed}"), numbers

    def __len__(self) -> int:
        return max(1, len(self.pairs) // self.group)

    def examples(self, sample: int) -> list[int]:
        """The examples in the `sample`-th group to be read."""
        numbers = range(sample * self.group, (sample + 1) * self.group)
        return [self._examples[self._passes.row(number)] for number in numbers]

    def batch(self, first: int, count: int) -> TaskBatch:
        """The groups first, first + 1, ...: rows are all first texts, then their positives, then all negatives.

        `targets`: (pairs, 1), which candidate is the right one; candidates are all rows behind the first texts.
        """
        numbers = range(first * self.group, (first + count) * self.group)
        chosen = [self.pairs[self._passes.row(number)] for number in numbers]
        own = np.arange(len(chosen)) // self.group
        texts = np.array([pair[0] for pair in chosen])
        positives = np.array([pair[1] for pair in chosen])
        negatives = [(group, text) for group, pair in zip(own, chosen, strict=True) for text in pair[2]]
        candidates = np.concatenate([positives, np.array([text for _, text in negatives], np.int64)])
        groups = np.concatenate([own, np.array([group for group, _ in negatives], np.int64)])
        # What is the same as the text or as its positive is no negative, wherever it comes from.
        same = (candidates == positives[:, None]) | (candidates == texts[:, None])
        allowed = (groups == own[:, None]) & ~same
        allowed[np.arange(len(chosen)), np.arange(len(chosen))] = True
        tokens, present, types = self.texts.padded(np.concatenate([texts, candidates]))
        targets = torch.arange(len(chosen))[:, None]
        return TaskBatch(tokens, targets, None, (), None, present, types, allowed=torch.from_numpy(allowed))
