"""The order of the data: which tokens stand in which step, computed from the step's number alone.

Rows are consecutive windows of the token stream. Each pass over them is shuffled by a keyed permutation (a Feistel
network, as format-preserving ciphers use it), so that any position is found in O(1): resuming is exact, and a step's
documents can be named at any time.
"""

import hashlib

import numpy as np
import torch

from underlay.data.dataset import Dataset
from underlay.errors import UserError
from underlay.models import Batch

_ROUNDS = 4


def permute(index: int, size: int, key: bytes) -> int:
    """Where `index` goes in the permutation of range(size) that `key` selects.

    A balanced Feistel network over the next power of four, walked until it falls into the range (cycle walking, Black
    and Rogaway 2002); round function BLAKE2b.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_ in range(_ROUNDS):
            message = round_.to_bytes(1, "little") + right.to_bytes(8, "little")
            mixed = int.from_bytes(hashlib.blake2b(message, digest_size=8, key=key).digest(), "little")
            left, right = right, left ^ (mixed & mask)
        index = (left << half) | right
        if index < size:
            return index


class Rows:
    """Rows of `context` tokens with what follows each token, in shuffled order, pass after pass without end."""

    def __init__(self, dataset: Dataset, context: int, seed: int, isolate: bool = False) -> None:
        """Read `dataset`; with `isolate` batches say which document each token is of.

        Raises UserError where the dataset is too small to train on. Of a held-out split there may be few rows, and
        where it has not even one, they are shorter.
        """
        if dataset.split == "heldout":
            context = min(context, len(dataset) - 1)
        self.dataset, self.context, self.seed, self.isolate = dataset, context, seed, isolate
        self.count = (len(dataset) - 1) // context
        if self.count < LEAST_ROWS and dataset.split == "train":
            raise UserError(
                f"the corpus is too small to train on: {len(dataset):,} tokens, at least "
                f"{LEAST_ROWS * context + 1:,} are needed (about {LEAST_ROWS * context * 3 // 1000:,} kB of text)"
            )

    def start(self, sample: int) -> int:
        """Position in the tokens of the `sample`-th row to be read, counted from the beginning of training."""
        epoch, index = divmod(sample, self.count)
        key = hashlib.sha256(f"{self.seed}:{epoch}".encode()).digest()
        return permute(index, self.count, key) * self.context

    def documents(self, sample: int) -> list[tuple[int, int]]:
        """The documents in the `sample`-th row, by number, each with how many tokens of it stand there."""
        start = self.start(sample)
        numbers, tokens = np.unique(self.dataset.numbers_at(np.arange(start, start + self.context)), return_counts=True)
        return list(zip(numbers.tolist(), tokens.tolist(), strict=True))

    def batch(self, first: int, count: int) -> Batch:
        """The samples first, first + 1, ... as one batch of shape (count, context)."""
        starts = [self.start(sample) for sample in range(first, first + count)]
        window = np.stack([self.dataset.tokens[s : s + self.context + 1] for s in starts]).astype(np.int64)
        tokens = torch.from_numpy(window)
        spans = [(self.dataset.number_at(s), self.dataset.number_at(s + self.context)) for s in starts]
        documents = tuple(tuple(range(low, high + 1)) for low, high in spans)
        segments = None
        if self.isolate:
            places = np.asarray(starts)[:, None] + np.arange(self.context)
            segments = torch.from_numpy(self.dataset.numbers_at(places))
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), None, documents, segments)


LEAST_ROWS = 64
"""Fewer rows than this are too few to learn anything from."""
