"""Guessing ahead: several tokens are proposed cheaply, and the model reads them in one step (arXiv:2211.17192).

The engine chooses each token from the model's own distribution, with the random number of its place, and goes on for
as long as the guess was what it chose. So an answer is, bit for bit, what it would have been without, wherever the
runner is row-invariant; only the number of steps differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from underlay.errors import UserError
from underlay.generate.blocks import BlockPool
from underlay.generate.runner import Runner, Work
from underlay.generate.scheduler import blocks_for
from underlay.generate.sequence import Handle


class Guesser(Protocol):
    """Proposes what may come next."""

    def guess(self, handles: Sequence[Handle], counts: Sequence[int]) -> list[list[int]]:
        """Up to so many tokens for each of some answers; an empty list where nothing suggests itself."""

    def forget(self, handle: Handle) -> None:
        """Let go of what is kept about an answer that ended or lost its memory."""


@dataclass
class _Seen:
    """Where each run of tokens was last followed by something, in one sequence."""

    upto: int
    """Runs that end before this place are noted."""
    last: dict[tuple[int, ...], int]


class Lookup:
    """Proposes what followed the same few tokens earlier in the text (prompt look-up; LLMA, arXiv:2304.04487)."""

    def __init__(self, longest: int = 4, shortest: int = 2) -> None:
        """Look for runs of `longest` tokens first, then for shorter ones."""
        if not 1 <= shortest <= longest:
            raise UserError(
                f"lookup: runs of {shortest} to {longest} tokens; the first must be above 0, the second not less"
            )
        self._sizes = range(longest, shortest - 1, -1)
        self._seen: dict[Handle, _Seen] = {}

    def guess(self, handles: Sequence[Handle], counts: Sequence[int]) -> list[list[int]]:
        """See `Guesser`."""
        return [self._guess(handle, count) for handle, count in zip(handles, counts, strict=True)]

    def _guess(self, handle: Handle, count: int) -> list[int]:
        tokens, end = handle.tokens, len(handle.tokens)
        seen = self._seen.setdefault(handle, _Seen(0, {}))
        for place in range(seen.upto, end):  # the newest run, which ends at `end`, is what we look up
            for size in self._sizes:
                if size <= place:
                    seen.last[tuple(tokens[place - size : place])] = place
        seen.upto = end
        for size in self._sizes:
            found = seen.last.get(tuple(tokens[end - size :])) if size <= end else None
            if found is not None:
                return tokens[found : found + count]
        return []

    def forget(self, handle: Handle) -> None:
        """See `Guesser`."""
        self._seen.pop(handle, None)


class Draft:
    """Proposes what a smaller model with the same tokens holds most likely (arXiv:2211.17192)."""

    def __init__(self, runner: Runner, context: int, slots: int) -> None:
        """Take the small model's runner; it keeps memory of its own for `slots` answers."""
        self._runner, self._context = runner, context
        self._pool = BlockPool(slots * blocks_for(context))
        runner.reserve(self._pool.count)
        self._blocks: dict[Handle, list[int]] = {}
        self._sure: dict[Handle, int] = {}
        """How many tokens of each answer are in memory, and known to be its own."""
        self._read: dict[Handle, list[int]] = {}
        """What was read after them, guesses too."""

    def guess(self, handles: Sequence[Handle], counts: Sequence[int]) -> list[list[int]]:
        """See `Guesser`."""
        for gone in self._blocks.keys() - set(handles):
            self.forget(gone)  # it lost its memory to others
        guesses: list[list[int]] = [[] for _ in handles]
        limits = [min(count, self._context - len(h.tokens)) for h, count in zip(handles, counts, strict=True)]
        while live := [i for i in range(len(handles)) if len(guesses[i]) < limits[i]]:
            works = [self._work(handles[i], guesses[i]) for i in live]
            for i, token in zip(live, self._runner.run(works).argmax(-1).tolist(), strict=True):
                guesses[i].append(token)
        for handle, guessed in zip(handles, guesses, strict=True):
            if guessed:
                sure = len(handle.tokens) - 1
                self._read[handle] = self._read[handle][sure - self._sure.get(handle, 0) :]
                self._sure[handle] = sure
        return guesses

    def _work(self, handle: Handle, guesses: list[int]) -> Work:
        """Read on from where what was read agrees with the tokens; guesses that were not taken are read over."""
        blocks, read = self._blocks.setdefault(handle, []), self._read.get(handle, [])
        sure, same = self._sure.get(handle, 0), 0
        tokens = handle.tokens[sure:] + guesses
        while same < min(len(read), len(tokens) - 1) and read[same] == tokens[same]:
            same += 1
        while len(blocks) < blocks_for(sure + len(tokens)):
            block = self._pool.take()
            assert block is not None, "there is room for each slot's whole context"
            blocks.append(block)
        self._read[handle] = tokens
        return Work(tokens[same:], sure + same, blocks)

    def forget(self, handle: Handle) -> None:
        """See `Guesser`."""
        self._read.pop(handle, None)
        self._sure.pop(handle, None)
        self._pool.release(self._blocks.pop(handle, []))


def room(handle: Handle, most: int) -> int:
    """How many guesses are of use to an answer: its last token needs none."""
    return max(0, min(most, handle.request.max_tokens - len(handle.ids) - 1))
