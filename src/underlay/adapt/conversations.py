"""Instruction tuning: conversations of which only what the assistant says is learned (arXiv:2109.01652).

tokens   <bos> <user> def f(x): ... <end> <assistant> return x ... <end>
weights    0     0     0  0  0   0     0                1    1  1    1

Conversations are short and of all lengths, so most of a row that held one would be padding. They are packed instead,
several to a row, so tightly that hardly a position is left over; none sees another, and each begins at position 0, so
what is learned is what would be learned from rows of their own.

row      <bos> <user> ... <end> <bos> <user> ... <end> <bos> <user> ... <end> pad
segments   0      0        0      1      1        1      2      2        2    -1
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from underlay.adapt.examples import Conversation, Example
from underlay.data.order import Passes
from underlay.errors import UserError
from underlay.kernels.packing import best_fit
from underlay.models import Batch
from underlay.progress import Progress, silent
from underlay.text import Tokenizer, render


class Conversations:
    """Conversations in rows of `context` tokens, in shuffled order, pass after pass without end."""

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        context: int,
        seed: int,
        packing: bool = True,
        progress: Progress = silent,
    ) -> None:
        """Render all of them; without `packing` each gets a row of its own.

        Raises UserError where none fits into a row and has something to learn.
        """
        self.context, self.packing = context, packing
        self.left_out: Counter[str] = Counter()
        """How many are not learned from, by reason."""
        kept: list[int] = []
        tokens: list[NDArray[np.int32]] = []
        weights: list[NDArray[np.float32]] = []
        for number, example in enumerate(examples):
            assert isinstance(example.body, Conversation)
            ids, learned = render(tokenizer, example.body.messages)
            if number % 256 == 0:
                progress(number, len(examples))
            if len(ids) > context + 1:
                self.left_out["longer than a row"] += 1
            elif not any(learned[1:]):
                self.left_out["nothing that the assistant says"] += 1
            else:
                kept.append(number)
                tokens.append(np.array(ids, np.int32))
                weights.append(np.array(learned, np.float32))
        if not kept:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
            raise UserError(
                f"nothing to learn from: of {len(examples):,} conversations {reasons or 'there are none'}; "
                f"a row holds {context} tokens (train.context)"
            )
        self.numbers = np.array(kept)
        """Which of the examples are learned from."""
        self._tokens, self._weights = tokens, weights
        lengths = np.array([len(ids) - 1 for ids in tokens])
        row_of = best_fit(lengths, context) if packing else np.arange(len(kept))
        order = np.argsort(row_of, kind="stable")
        self._rows = np.split(order, np.cumsum(np.bincount(row_of))[:-1])
        self._order = Passes(len(self._rows), str(seed))
        self.padding = 1 - float(lengths.sum()) / (len(self._rows) * context)
        """Share of positions that hold no token."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def examples(self, sample: int) -> list[int]:
        """Which examples stand in the `sample`-th row to be read, counted from the beginning of training."""
        numbers: list[int] = self.numbers[self._rows[self._order.row(sample)]].tolist()
        return numbers

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ... as one batch of shape (count, context).

        Positions that hold no token have the token 0, the segment -1 and the weight 0.
        """
        shape = (count, self.context)
        tokens, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        weights, segments = np.zeros(shape, np.float32), np.full(shape, -1, np.int64)
        for row, sample in enumerate(range(first, first + count)):
            start = 0
            for segment, piece in enumerate(self._rows[self._order.row(sample)]):
                ids, learned = self._tokens[piece], self._weights[piece]
                here = slice(start, start + len(ids) - 1)
                tokens[row, here], targets[row, here] = ids[:-1], ids[1:]
                weights[row, here], segments[row, here] = learned[1:], segment
                start = here.stop
        apart = torch.from_numpy(segments) if self.packing else None
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(weights), segments=apart)
