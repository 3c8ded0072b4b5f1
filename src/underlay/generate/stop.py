"""Tokens to text as they come: characters whose bytes span tokens, and stop strings that span tokens.

What is emitted is never taken back. So the bytes of an unfinished character wait for the rest, and text that may turn
out to be the beginning of a stop string waits until it is known. The pieces joined are the same however the bytes
were cut into tokens. All stop strings are sought at once by one automaton (Aho and Corasick, CACM 1975), at a few steps
a character whatever the strings are.
"""

import codecs
from collections.abc import Sequence


class _Automaton:
    """A tree of all beginnings of the stop strings; a node is the longest of them that the text so far ends in."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]
        """The node of the longest other beginning that a node's text ends in."""
        self.depth = [0]
        """Characters of a node's text: so many may yet become a stop string."""
        self.ends = [0]
        """Characters of the longest stop string that a node's text ends in; 0 where there is none."""
        for stop in stops:
            node = 0
            for char in stop:
                if char not in self._next[node]:
                    self._next[node][char] = len(self._next)
                    self._next.append({})
                    self._shorter.append(0)
                    self.depth.append(self.depth[node] + 1)
                    self.ends.append(0)
                node = self._next[node][char]
            self.ends[node] = len(stop)
        level = list(self._next[0].values())
        while level:
            below = []
            for node in level:
                self.ends[node] = self.ends[node] or self.ends[self._shorter[node]]
                for char, child in self._next[node].items():
                    self._shorter[child] = self.step(self._shorter[node], char)
                    below.append(child)
            level = below

    def step(self, node: int, char: str) -> int:
        """The node after one more character."""
        while node and char not in self._next[node]:
            node = self._shorter[node]
        return self._next[node].get(char, 0)


class TextStream:
    """Turns the bytes of one answer into pieces of text that are safe to show."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._automaton = _Automaton(stop) if stop else None
        self._node = 0
        self._held = ""
        self.stopped = False
        """Whether a stop string has come; nothing is emitted after it."""

    def push(self, data: bytes, last: bool = False) -> str:
        """Take the next bytes, return what can be shown now; with `last`, all that was held back."""
        text = self._decode(data, last)
        if self._automaton is None:
            return text
        if self.stopped:
            return ""
        automaton, node = self._automaton, self._node
        for place, char in enumerate(text, 1):
            node = automaton.step(node, char)
            # The stop that is complete first counts, and of those that end together the longest.
            if size := automaton.ends[node]:
                self.stopped = True
                shown, self._held, self._node = (self._held + text[:place])[:-size], "", 0
                return shown
        self._node = 0 if last else node
        text = self._held + text
        cut = len(text) - automaton.depth[self._node]
        self._held = text[cut:]
        return text[:cut]

    def check(self) -> None:
        """Assert what always holds: held back is exactly what may yet become a stop string."""
        if self._automaton is None:
            assert not self._held
            assert not self.stopped
            return
        node = 0
        for char in self._held:
            node = self._automaton.step(node, char)
            assert not self._automaton.ends[node], "a whole stop string is held back"
        assert node == self._node
        assert self._automaton.depth[node] == len(self._held)
        assert not (self.stopped and self._held)
