"""Chance that follows from a key: the same draws on every machine, in every version of Python, however often asked."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """A stream of draws; its n-th is the SHA-256 of the key and n."""

    def __init__(self, *key: object) -> None:
        """key: whatever the draws depend on, such as the seed and the number of a sample."""
        self._key = ":".join(map(str, key)).encode()
        self._drawn = 0

    def below(self, most: int) -> int:
        """A number from 0 to most - 1."""
        self._drawn += 1
        digest = hashlib.sha256(self._key + self._drawn.to_bytes(8, "little")).digest()
        return int.from_bytes(digest[:8], "little") % most

    def one(self, of: Sequence[T]) -> T:
        """One of them."""
        return of[self.below(len(of))]

    def some(self, of: Sequence[T], count: int) -> list[T]:
        """`count` different ones, or as many as there are, in an order that is drawn, too."""
        left = list(of)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]
