"""Who holds which block of keys and values, and which blocks are worth keeping for the next prompt that begins alike.

Blocks are counted references: sequences that begin with the same tokens share the blocks of their common beginning
(PagedAttention, arXiv:2309.06180). A block that nobody holds any more keeps its contents until the room is needed, the
least recently used first. It is found again by a chained hash of all tokens up to its end, and taken only where the
tokens themselves agree, so that not even a colliding hash can answer one prompt with another's memory.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from underlay.generate.runner import BLOCK


@dataclass(frozen=True)
class Prefix:
    """The tokens of a full block and, by the hash of what it follows, all tokens before it."""

    hash: bytes
    before: bytes
    tokens: tuple[int, ...]


def root(salt: str, adapter: str | None) -> bytes:
    """What a sequence's first block follows: sequences of different salts or adapters have nothing in common."""
    return hashlib.blake2b(repr((salt, adapter)).encode(), digest_size=16).digest()


def prefix(before: bytes, tokens: Sequence[int]) -> Prefix:
    """The next link of a chain; `tokens` fill one block."""
    assert len(tokens) == BLOCK
    kept = tuple(tokens)
    data = b"".join(token.to_bytes(8, "little") for token in kept)
    return Prefix(hashlib.blake2b(before + data, digest_size=16).digest(), before, kept)


class BlockPool:
    """Hands out blocks 0 to count - 1, counts who holds them, and remembers what is in them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._holders = [0] * count
        self._contents: list[Prefix | None] = [None] * count
        self._known: dict[bytes, int] = {}
        # Blocks that nobody holds: those at the front are taken first.
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))

    @property
    def free(self) -> int:
        """How many blocks can be handed out now."""
        return len(self._idle)

    def find(self, chain: Sequence[Prefix]) -> list[int]:
        """The blocks that hold the longest known beginning of a chain. Nobody holds them yet: `hold` them at once."""
        found = []
        for link in chain:
            block = self._known.get(link.hash)
            if block is None or self._contents[block] != link:
                break
            found.append(block)
        return found

    def hold(self, blocks: Iterable[int]) -> None:
        """Count one more holder of each."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._idle[block]
            self._holders[block] += 1

    def take(self) -> int | None:
        """A block to write into, held once; None where all are held. What it held before is forgotten."""
        if not self._idle:
            return None
        block, _ = self._idle.popitem(last=False)
        old = self._contents[block]
        if old is not None:
            del self._known[old.hash]
            self._contents[block] = None
        self._holders[block] = 1
        return block

    def remember(self, block: int, link: Prefix) -> None:
        """Note what a full block holds; where another block holds the same already, that one stays the known one."""
        assert self._holders[block] > 0, "only who holds a block knows what is in it"
        if self._contents[block] is None and link.hash not in self._known:
            self._contents[block] = link
            self._known[link.hash] = block

    def release(self, blocks: Sequence[int]) -> None:
        """Count one holder less of each; a sequence gives back all its blocks in order, last ones are reused first."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            assert self._holders[block] >= 0, "released more often than held"
            if self._holders[block] == 0:
                self._idle[block] = None
                if self._contents[block] is None:
                    self._idle.move_to_end(block, last=False)

    def forget(self) -> None:
        """Drop all memory of contents, as when weights change."""
        self._known.clear()
        self._contents = [None] * self.count

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that the pool agrees with the blocks that sequences say they hold."""
        held = [0] * self.count
        for table in tables:
            assert len(set(table)) == len(table), "a sequence holds a block twice"
            for block in table:
                held[block] += 1
        assert held == self._holders, "holders are miscounted"
        assert {block for block in range(self.count) if not held[block]} == set(self._idle), "a block is lost"
        for digest, block in self._known.items():
            content = self._contents[block]
            assert content is not None, "a known block has no content"
            assert content.hash == digest, "a block is known by another's hash"
        assert sum(content is not None for content in self._contents) == len(self._known), "contents nobody can find"
