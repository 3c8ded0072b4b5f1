"""Instruction tuning data: one conversation a row, of which only the answer is learned (arXiv:2109.01652).

tokens   <bos> <user> def f(x): ... <end> <assistant> return x ... <end> <pad> <pad>
weights    0     0     0  0  0   0     0                1    1  1    1     0     0
"""

import hashlib
from collections.abc import Sequence

import torch

from underlay.adapt.pairs import Pair
from underlay.data.rows import permute
from underlay.errors import UserError
from underlay.models import Batch
from underlay.text import Message, Special, Tokenizer, render


class Conversations:
    """Pairs rendered into rows of `context` tokens, in shuffled order, pass after pass without end."""

    def __init__(self, pairs: Sequence[Pair], tokenizer: Tokenizer, context: int, seed: int) -> None:
        """Raises UserError where no pair fits into a row."""
        self.context, self.seed = context, seed
        # Never learned from, so where there is no token for it any other will do.
        self.pad = tokenizer.special(Special.PAD) if tokenizer.has(Special.PAD) else 0
        self.rows: list[tuple[list[int], list[float]]] = []
        self.pairs: list[Pair] = []
        """The pairs in the rows, in the same order."""
        self.longer = 0
        """Pairs left out because they are longer than a row."""
        for pair in pairs:
            ids, weights = render(tokenizer, [Message("user", pair.prompt), Message("assistant", pair.answer)])
            if len(ids) <= context + 1:
                self.rows.append((ids, weights))
                self.pairs.append(pair)
            else:
                self.longer += 1
        if not self.rows:
            raise UserError(f"none of {len(pairs)} pairs fits into a row of {context} tokens; raise train.context")

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, sample: int) -> int:
        """Which row is the `sample`-th to be read, counted from the beginning of training."""
        epoch, index = divmod(sample, len(self.rows))
        key = hashlib.sha256(f"{self.seed}:{epoch}".encode()).digest()
        return permute(index, len(self.rows), key)

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ... as one batch of shape (count, context)."""
        tokens = torch.full((count, self.context + 1), self.pad, dtype=torch.int64)
        weights = torch.zeros(count, self.context + 1)
        for row, sample in enumerate(range(first, first + count)):
            ids, learned = self.rows[self.row(sample)]
            tokens[row, : len(ids)] = torch.tensor(ids)
            weights[row, : len(ids)] = torch.tensor(learned)
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), weights[:, 1:].contiguous())
