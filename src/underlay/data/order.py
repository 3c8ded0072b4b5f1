"""The order of rows: pass after pass, each shuffled by a formula, so that any place in it is found in constant time."""

import hashlib

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


class Passes:
    """All of `count` rows in shuffled order, then all again in another, without end."""

    def __init__(self, count: int, label: str) -> None:
        """`label` selects the orders, such as the seed."""
        self.count, self.label = count, label

    def row(self, number: int) -> int:
        """The row that is the `number`-th to be read, counted from 0."""
        turn, index = divmod(number, self.count)
        return permute(index, self.count, hashlib.sha256(f"{self.label}:{turn}".encode()).digest())
