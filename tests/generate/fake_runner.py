"""A runner without a model: its blocks keep the tokens themselves, and its logits are a hash of all it finds in them.

So whatever goes wrong with blocks (one shared that should not be, one overwritten, one read before it was written)
changes the logits, or trips an assertion.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from underlay.generate.runner import BLOCK, Work
from underlay.models.adapter import Adapter


class FakeRunner:
    """Deterministic, row-invariant and strict."""

    invariant = True
    block_bytes = 100

    def __init__(self, vocabulary: int, sharpness: float = 4.0) -> None:
        self.vocabulary, self.sharpness = vocabulary, sharpness
        self.memory = np.zeros((0, BLOCK, 3), np.int64)
        self.steps = self.tokens = 0
        self.adapters: set[str] = set()

    def describe(self) -> str:
        return "a fake"

    def reserve(self, blocks: int) -> None:
        self.memory = np.full((blocks, BLOCK, 3), -1)

    def run(self, works: Sequence[Work]) -> Tensor:
        self.steps += 1
        self.tokens += sum(len(work.tokens) for work in works)
        for work in works:
            assert work.tokens
            assert work.adapter is None or work.adapter in self.adapters
            for place, token in enumerate(work.tokens, work.start):
                self.memory[work.blocks[place // BLOCK], place % BLOCK] = _hash(repr(work.adapter)), place, token
        rows = []
        for work in works:
            end = work.start + len(work.tokens)
            wanted = range(end - work.wanted + 1, end + 1)
            rows += [self.logits(self._recall(work, upto), work.adapter) for upto in wanted]
        return torch.stack(rows) if rows else torch.empty(0, self.vocabulary)

    def _recall(self, work: Work, upto: int) -> list[int]:
        found = self.memory[list(work.blocks)].reshape(-1, 3)[:upto]
        assert (found[:, 0] == _hash(repr(work.adapter))).all(), "another's memory, or none"
        assert (found[:, 1] == np.arange(upto)).all(), "memory of another place"
        return list(found[:, 2].tolist())

    def logits(self, tokens: Sequence[int], adapter: str | None = None) -> Tensor:
        # The last tokens matter most, so that texts repeat themselves now and then and guesses come true; the whole
        # text favours one token a little.
        logits = self.sharpness * _noise(repr((adapter, list(tokens[-2:]))), self.vocabulary)
        logits[_hash(repr((adapter, list(tokens)))) % self.vocabulary] += 1.5 * self.sharpness
        return logits

    def likelihoods(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        return [
            torch.stack([self.logits(s[: i + 1]).log_softmax(-1)[s[i + 1]] for i in range(len(s) - 1)])
            for s in sequences
        ]

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        self.adapters.add(name)

    def drop_adapter(self, name: str) -> None:
        self.adapters.remove(name)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")


@lru_cache(100_000)
def _noise(text: str, size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(_hash(text)))
