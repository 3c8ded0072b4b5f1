"""What the engine asks of whatever runs the model: tokens of many sequences in, rows of logits out.

The scheduler decides who reads which tokens in a step; a `Runner` computes them. Keys and values live in blocks of
`BLOCK` places that the scheduler hands out; a sequence names its blocks in order, so that its place p lies in block
`blocks[p // BLOCK]` (PagedAttention, arXiv:2309.06180). There are two runners: `native` (one C++ file, built on first
use) and `plain` (torch, everywhere).

Row invariance, the contract that makes answers repeatable: what a runner computes for a token depends on the tokens
before it in its sequence alone, bit for bit, not on what else is in the step, in which chunks the sequence was read,
or which blocks it lies in. A runner that cannot promise it says so (`invariant`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from underlay.models.adapter import Adapter

BLOCK = 16
"""Places in a block of keys and values."""


@dataclass(slots=True)  # frozen ones take several times as long to make
class Work:
    """What one sequence reads in a step."""

    tokens: Sequence[int]
    """At least one token, to be read at places start, start + 1, ..."""
    start: int
    """How many tokens of the sequence were read before; their keys and values are in its blocks."""
    blocks: Sequence[int]
    """Its blocks, in order; they cover all places up to start + len(tokens)."""
    wanted: int = 1
    """Of how many of the last tokens logits are wanted; 0 while a prompt is being read."""
    adapter: str | None = None
    """The adapter whose changes are added to the model's weights."""


class Runner(Protocol):
    """A model with memory for keys and values."""

    invariant: bool
    """Whether row invariance holds."""
    block_bytes: int
    """Memory of one block, all layers together."""

    def describe(self) -> str:
        """Which path this is and why it was chosen, in one line for people."""

    def reserve(self, blocks: int) -> None:
        """Make room for blocks 0 to blocks - 1. Called once, before anything is read."""

    def run(self, works: Sequence[Work]) -> Tensor:
        """Read the tokens; returns logits (sum of `wanted`, vocabulary) float32, in the order of works and tokens.

        All keys and values of a work are written, whatever is wanted of it. Works are of different sequences; blocks
        that two of them share are only read.
        """

    def likelihoods(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probability, in nats, of tokens 1 to n - 1 of each sequence of n tokens, which fits the context.

        Returns tensors (n - 1,) float32 on the CPU. Needs no blocks, and leaves those in use alone.
        """

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Have a named adapter ready for works. Raises UserError where it does not fit the model."""

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter that no running sequence names."""
