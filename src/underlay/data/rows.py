"""Rows of a dataset as batches: which tokens stand in which step, computed from the step's number alone.

A `Layout` says which pieces of the tokens stand in a row, an order which row is the n-th to be read: `Passes` over
all rows, or a `Mixture` of parts. Both answer in constant time, so resuming is exact, and a step's documents can be
named at any time.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from underlay.data.dataset import Dataset
from underlay.data.layout import BestFit, Layout, Windows
from underlay.data.mixture import Mixture, MixtureStage, check_parts
from underlay.data.order import Passes, permute
from underlay.errors import UserError
from underlay.models import Batch

__all__ = ["LEAST_ROWS", "Packing", "Rows", "permute"]

Packing = Literal["windows", "best_fit"]
LEAST_ROWS = 64
"""Fewer rows than this are too few to learn anything from."""


class Rows:
    """Rows of `context` tokens with what follows each token, in shuffled order, pass after pass without end."""

    def __init__(
        self,
        dataset: Dataset,
        context: int,
        seed: int,
        isolate: bool = False,
        packing: Packing = "windows",
        mixture: Sequence[MixtureStage] = (),
        part: str | None = None,
    ) -> None:
        """Read `dataset`, or one `part` of it; with `isolate` batches say which document each token is of.

        Raises UserError where the dataset is too small to train on, or has not the parts of the mixture. Of a held-out
        split there may be few rows, and where it has not even one, they are shorter.
        """
        whole = range(len(dataset)) if part is None else dataset.parts[part]
        if dataset.split == "heldout":
            context = min(context, len(whole) - 1)
        self.dataset, self.context, self.seed, self.isolate = dataset, context, seed, isolate
        if mixture:
            check_parts(mixture, dataset.parts)
        apart = dataset.parts if part is None and (mixture or packing == "best_fit") else {}
        parts = apart or {"": whole}
        tokens = list(parts.values())
        self.layout: Layout = BestFit(dataset, tokens, context) if packing == "best_fit" else Windows(tokens, context)
        self.count = sum(self.layout.counts)
        if self.count < LEAST_ROWS and dataset.split == "train":
            raise UserError(
                f"the corpus is too small to train on: {len(dataset):,} tokens, at least "
                f"{LEAST_ROWS * context + 1:,} are needed (about {LEAST_ROWS * context * 3 // 1000:,} kB of text)"
            )
        self.order: Passes | Mixture = Passes(self.count, str(seed))
        if mixture:
            rows = dict(zip(parts, self.layout.counts, strict=True))
            self.order = Mixture(mixture, rows, context, seed)

    def pieces(self, sample: int) -> list[tuple[int, int]]:
        """The tokens [start, end) in the `sample`-th row to be read, counted from the beginning of training."""
        return self.layout.pieces(self.order.row(sample))

    def start(self, sample: int) -> int:
        """Position in the tokens of the first token of the `sample`-th row."""
        return self.pieces(sample)[0][0]

    def documents(self, sample: int) -> list[tuple[int, int]]:
        """The documents in the `sample`-th row, by number, each with how many tokens of it stand there."""
        places = np.concatenate([np.arange(start, end) for start, end in self.pieces(sample)])
        numbers, tokens = np.unique(self.dataset.numbers_at(places), return_counts=True)
        return list(zip(numbers.tolist(), tokens.tolist(), strict=True))

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ... as one batch of shape (count, context).

        Positions that hold no token have the token 0, the segment -1 and the weight 0.
        """
        data = self.dataset
        tokens, targets = np.zeros((2, count, self.context), dtype=np.int64)
        weights = np.zeros((count, self.context), dtype=np.float32)
        segments = np.full((count, self.context), -1)
        documents: list[tuple[int, ...]] = []
        for row, sample in enumerate(range(first, first + count)):
            at, present = 0, list[int]()
            for start, end in self.pieces(sample):
                whole = not self.layout.crossing and end == data.ends[data.number_at(end - 1)]
                last = end - whole  # the last target; behind a document's end there is none
                tokens[row, at : at + end - start] = data.tokens[start:end]
                targets[row, at : at + last - start] = data.tokens[start + 1 : last + 1]
                weights[row, at : at + last - start] = 1
                if self.isolate:
                    segments[row, at : at + end - start] = data.numbers_at(np.arange(start, end))
                present += range(data.number_at(start), data.number_at(last) + 1)
                at += end - start
            documents.append(tuple(present))
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(targets),
            None if self.layout.crossing else torch.from_numpy(weights),
            tuple(documents),
            torch.from_numpy(segments) if self.isolate else None,
        )
