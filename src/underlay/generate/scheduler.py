"""Who reads how much in the next step (continuous batching: Orca, OSDI 2022; chunked prefill: arXiv:2308.16369).

Answers that are being written come first, one token each; what room a step has left goes to prompts, oldest first, in
chunks, and to what is guessed ahead, which gets half of it at most while a prompt is being read. A request is admitted
when there is a slot and memory for its whole prompt, beside what those before it are still to fill. Where memory runs
out nevertheless, the youngest gives its own back and waits at the head of the queue; its tokens are kept, and read
again later. A request whose beginning is just being read by another waits for it and shares it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from underlay.generate.blocks import BlockPool
from underlay.generate.runner import BLOCK, Work
from underlay.generate.sequence import Handle

AHEAD = 4
"""So many times the slots are looked at of those that wait; a queue may be long."""

Guess = Callable[[Sequence[Handle]], list[list[int]]]
"""Tokens that may come next, for each of some handles; see `underlay.generate.speculate`."""


def blocks_for(tokens: int) -> int:
    """How many blocks so many tokens take."""
    return -(-tokens // BLOCK)


@dataclass(slots=True)  # frozen ones take several times as long to make
class Share:
    """A sequence's part of a step."""

    handle: Handle
    count: int
    """Known tokens to be read."""
    guessed: list[int]
    """Tokens guessed to follow them, to be read as well."""

    complete: bool
    """Whether all known tokens are read, so that the next one can be chosen."""
    wanted: int
    """Of how many of the last tokens logits are needed."""

    def work(self) -> Work:
        """The same for the runner."""
        handle = self.handle
        tokens = handle.tokens[handle.read : handle.read + self.count] + self.guessed
        return Work(tokens, handle.read, handle.blocks, self.wanted, handle.request.adapter)


class Scheduler:
    """The queue, the running, and the memory that they share."""

    def __init__(self, pool: BlockPool, slots: int, budget: int) -> None:
        """Run at most `slots` sequences at once, and read about `budget` tokens in a step."""
        self.pool, self.slots, self.budget = pool, slots, max(budget, slots)
        self.waiting: deque[Handle] = deque()
        self.running: dict[Handle, None] = {}
        """In the order in which they were admitted."""
        self.preemptions = 0
        """How often memory ran out."""

    def add(self, handle: Handle) -> None:
        """Queue a request."""
        self.waiting.append(handle)

    def remove(self, handle: Handle) -> None:
        """Let go of a request, wherever it is, and of its memory."""
        if handle in self.running:
            del self.running[handle]
        else:
            self.waiting.remove(handle)
        self._give_back(handle)

    def plan(self, guess: Guess | None = None) -> list[Share]:
        """The shares of the next step, with memory for each; empty when there is nothing to do."""
        self._admit()
        writing = [handle for handle in self.running if handle.pending == 1]
        reading = [handle for handle in self.running if handle.pending > 1]
        guesses = guess(writing) if guess is not None and writing else [[] for _ in writing]
        room = self.budget - len(writing)
        ahead = room // 2 if reading else room
        shares = []
        for handle, guessed in zip(writing, guesses, strict=True):
            if handle not in self.running:
                continue  # it had to give back its memory
            guessed = guessed[:ahead]
            if guessed and not self._reserve(handle, handle.read + 1 + len(guessed), spare=len(self.running)):
                guessed = []
            if self._make_room(handle, handle.read + 1):
                shares.append(_share(handle, 1, guessed))
                ahead, room = ahead - len(guessed), room - len(guessed)
        for handle in reading:
            count = min(handle.pending, room)
            if count and handle in self.running and self._make_room(handle, handle.read + count):
                shares.append(_share(handle, count, []))
                room -= count
        return [share for share in shares if share.handle in self.running]

    def done(self, handle: Handle, read: int) -> None:
        """Note that so many more of a handle's tokens are in memory."""
        before = handle.read // BLOCK
        handle.read += read
        if handle.read // BLOCK > before:
            for index, link in enumerate(handle.chain(handle.read, before), before):
                self.pool.remember(handle.blocks[index], link)

    def check(self) -> None:
        """Assert what always holds between two steps."""
        everyone = [*self.running, *self.waiting]
        assert len(set(everyone)) == len(everyone), "a request is in two places"
        assert len(self.running) <= self.slots, "more run than there are slots"
        assert not any(handle.blocks or handle.read for handle in self.waiting), "one that waits holds memory"
        for handle in everyone:
            handle.check()
        self.pool.check(handle.blocks for handle in self.running)

    def _admit(self) -> None:
        if not self.waiting or len(self.running) == self.slots:
            return
        coming = {link.hash for handle in self.running for link in handle.chain(_shared(handle), handle.read // BLOCK)}
        owed = sum(max(blocks_for(len(handle.tokens)) - len(handle.blocks), 0) for handle in self.running)
        for handle in list(islice(self.waiting, AHEAD * self.slots)):
            if len(self.running) == self.slots:
                return
            # A prompt's own likelihoods need it to be read, whatever is remembered of it.
            anew = handle.request.prompt_logprobs is not None
            chain = [] if anew else handle.chain(_shared(handle))
            found = self.pool.find(chain)
            if len(found) < len(chain) and chain[len(found)].hash in coming:
                continue  # another is reading it just now
            self.pool.hold(found)
            needed = blocks_for(len(handle.tokens)) - len(found)
            if self.running and needed + owed + len(self.running) > self.pool.free:
                self.pool.release(found)
                return
            owed += needed
            self.waiting.remove(handle)
            self.running[handle] = None
            handle.blocks, handle.read = found, len(found) * BLOCK
            if not handle.admitted:
                handle.admitted, handle.cached = True, handle.read
            coming.update(link.hash for link in chain)

    def _reserve(self, handle: Handle, tokens: int, spare: int = 0) -> bool:
        """Get blocks for so many tokens; False, and none of them, where fewer than `spare` would stay free."""
        needed = blocks_for(tokens) - len(handle.blocks)
        if needed > 0 and needed + spare > self.pool.free:
            return False
        for _ in range(needed):
            block = self.pool.take()
            assert block is not None, "as many are free"
            handle.blocks.append(block)
        return True

    def _make_room(self, handle: Handle, tokens: int) -> bool:
        """The same, at the cost of the youngest; False where that is the handle itself."""
        while not self._reserve(handle, tokens):
            youngest = next(reversed(self.running))
            assert len(self.running) > 1, "memory holds less than one context"
            self._preempt(youngest)
            if youngest is handle:
                return False
        return True

    def _preempt(self, handle: Handle) -> None:
        self.preemptions += 1
        del self.running[handle]
        self._give_back(handle)
        self.waiting.appendleft(handle)

    def _give_back(self, handle: Handle) -> None:
        self.pool.release(handle.blocks)
        handle.blocks, handle.read = [], 0


def _share(handle: Handle, count: int, guessed: list[int]) -> Share:
    complete = count == handle.pending
    if handle.request.prompt_logprobs is not None and len(handle.prompt_logprobs) < handle.prompt_length - 1:
        return Share(handle, count, guessed, complete, count + len(guessed))
    return Share(handle, count, guessed, complete, 1 + len(guessed) if complete else 0)


def _shared(handle: Handle) -> int:
    """How many tokens may be found in memory: all but the last, which has to be read for its logits."""
    return len(handle.tokens) - 1


def rows(shares: Sequence[Share]) -> Iterator[tuple[Share, int]]:
    """Each share with the number of its first row of logits."""
    row = 0
    for share in shares:
        yield share, row
        row += share.wanted
