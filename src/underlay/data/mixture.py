"""Mixtures: how much of each part of a dataset is read, stage after stage (a curriculum), and which row when.

Rows are read in blocks. How many rows of each part a block has is the difference of two counts that are formulas of the
block's place, so the shares are exact and what is left over is carried from block to block. Within a block the parts
are shuffled, and a part's rows come in its own passes, however often they are interrupted by other parts or by the end
of a stage. So the n-th row of a run is found from n alone, without looking at the rows before its block.

    slot       0  1  2  3 | 4  5  6  7 | ...      weights {code: 3, prose: 1}, blocks of 4
    part       c  p  c  c | c  c  c  p |
    rank in it 0  0  1  2 | 3  4  5  1 |          rank -> pass and row of the part, as in `Passes`
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from underlay.config import Config
from underlay.data.order import Passes, permute
from underlay.errors import UserError

_BLOCK = 64
"""A block has at least so many rows."""
_FINEST = 10_000
"""No share is less than one row in so many; a block has to hold at least one row of each part."""


class MixtureStage(Config):
    """What a stretch of a run reads."""

    tokens: int | None = Field(default=None, gt=0)
    """Length, in tokens read, to the next whole row; the last stage has none and lasts to the end."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    """Shares of the rows that are read of each part, by the names of `pack.corpora`; they need not add up to 1, and a
    part that is left out has 0."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        total = sum(self.weights.values())
        if not total:
            raise ValueError("weights: give at least one part more than 0")
        for name, weight in self.weights.items():
            if 0 < weight * _FINEST < total:
                raise ValueError(f"weights: {name} has less than one row in {_FINEST:,}; raise it, or leave it out")
        return self


def _lasting(stages: tuple[MixtureStage, ...]) -> tuple[MixtureStage, ...]:
    for number, stage in enumerate(stages, 1):
        if (stage.tokens is None) != (number == len(stages)):
            wanted = "needs its length in tokens" if stage.tokens is None else "lasts to the end, so it has no tokens"
            raise ValueError(f"stage {number} of {len(stages)} {wanted}")
    return stages


Stages = Annotated[tuple[MixtureStage, ...], AfterValidator(_lasting)]
"""One after another; all but the last have a length. None at all: rows are read as they come."""


def check_parts(stages: Sequence[MixtureStage], parts: Iterable[str]) -> None:
    """Raise UserError where weights name a part that is not there, or a part has weight nowhere."""
    there = sorted(parts)
    weighed = {name for stage in stages for name in stage.weights}
    used = {name for stage in stages for name, weight in stage.weights.items() if weight}
    if not there:
        raise UserError("pretrain.mixture: the dataset has no parts to mix; pack it from several `corpora`")
    if unknown := sorted(weighed - set(there)):
        raise UserError(f"pretrain.mixture: no part {unknown[0]!r} in the dataset; there are {', '.join(there)}")
    if unread := [name for name in there if name not in used]:
        raise UserError(
            f"pretrain.mixture: part {unread[0]!r} has no weight in any stage; give it one, or do not pack it"
        )


class Mixture:
    """The order of rows of several parts that are mixed by weights."""

    def __init__(self, stages: Sequence[MixtureStage], rows: Mapping[str, int], context: int, seed: int) -> None:
        """`rows`: how many rows of `context` tokens each part has; they are numbered through all parts in this order.

        Raises UserError where a part has no row.
        """
        for name, count in rows.items():
            if not count:
                raise UserError(
                    f"part {name!r} of the dataset has not even one row of {context:,} tokens to learn from; "
                    "lower train.context, or pack without this part"
                )
        names, counts = list(rows), list(rows.values())
        self._names, self._seed = names, seed
        self._first = [0, *accumulate(counts)]
        self._passes = [Passes(count, f"{seed}:{name}") for name, count in rows.items()]
        self._stages = [_Stretch.of(stage, names, context) for stage in stages]
        lengths = [stage.rows for stage in self._stages if stage.rows is not None]
        self._starts = [0, *accumulate(lengths)]
        whole = [stage.counts(length) for stage, length in zip(self._stages, lengths, strict=False)]
        self._before = np.cumsum([np.zeros(len(names), dtype=np.int64), *whole], axis=0)

    def row(self, number: int) -> int:
        """The row that is the `number`-th to be read, counted from 0."""
        before, parts, ranks, slot = self._block(number)
        part = int(parts[slot])
        return self._first[part] + self._passes[part].row(int(before[part] + ranks[slot]))

    def read(self, rows: int) -> dict[str, tuple[int, float]]:
        """Of each part, how many rows are among the first `rows`, and how many passes over it that makes."""
        before, parts, _, slot = self._block(rows)
        counts = before + np.bincount(parts[:slot], minlength=len(self._names))
        return {
            name: (int(count), int(count) / passes.count)
            for name, count, passes in zip(self._names, counts, self._passes, strict=True)
        }

    def _block(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
        """Of the block that a row is in: each part's rows before it, its slots' parts and ranks, and the row's slot."""
        at = bisect_right(self._starts, number) - 1
        stage, index = self._stages[at], number - self._starts[at]
        start, end = stage.block(index)
        before, after = stage.counts(start), stage.counts(end)
        key = hashlib.sha256(f"{self._seed}:{at}:{start}".encode()).digest()
        parts, ranks = _shuffled(tuple((after - before).tolist()), key)
        return self._before[at] + before, parts, ranks, index - start


@dataclass(frozen=True)
class _Stretch:
    """A stage, counted in rows."""

    edges: tuple[int, ...]
    """Weights as integers, summed up: 0, the first, the first two, ..., all."""
    block_rows: int
    rows: int | None
    """Its length."""

    @classmethod
    def of(cls, stage: MixtureStage, names: Sequence[str], context: int) -> Self:
        # By their decimals: 0.7 and 0.3 are to be 7 in 10, which binary fractions are not.
        exact = [Fraction(str(stage.weights.get(name, 0))) for name in names]
        scale = math.lcm(*(weight.denominator for weight in exact))
        weights = [int(weight * scale) for weight in exact]
        weights = [weight // math.gcd(*weights) for weight in weights]
        total = sum(weights)
        size = max(_BLOCK, -(-total // min(weight for weight in weights if weight)))
        if total <= 16 * _BLOCK:  # then every block can have exactly its shares
            size = -(-size // total) * total
        rows = None if stage.tokens is None else -(-stage.tokens // context)
        return cls((0, *accumulate(weights)), size, rows)

    def counts(self, rows: int) -> NDArray[np.int64]:
        """How many of the first `rows` are of each part, where a block ends there: less than one from the exact share.

        The sums of the first parts' shares are rounded down, so the counts add up. Rounding the shares themselves by
        their largest remainders could take a row away again from a part as `rows` grows (the Alabama paradox); these
        counts never shrink over a block, for a block holds at least one row of each part.
        """
        return np.diff([rows * edge // self.edges[-1] for edge in self.edges])

    def block(self, index: int) -> tuple[int, int]:
        """Where the block of a row starts and ends; a stage's last block takes in what would be less than one."""
        number = index // self.block_rows
        if self.rows is not None:
            last = max(0, self.rows // self.block_rows - 1)
            if number >= last:
                return last * self.block_rows, self.rows
        return number * self.block_rows, (number + 1) * self.block_rows


@lru_cache(maxsize=16)
def _shuffled(counts: tuple[int, ...], key: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each slot of a block its part, in random order, and how many slots before it have the same part."""
    size = sum(counts)
    parts: NDArray[Any] = np.repeat(np.arange(len(counts)), counts)
    parts = parts[[permute(slot, size, key) for slot in range(size)]]
    ranks = np.empty_like(parts)
    for part, count in enumerate(counts):
        ranks[parts == part] = np.arange(count)
    return parts, ranks
