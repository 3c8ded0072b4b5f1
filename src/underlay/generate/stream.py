"""Tokens to text as they come: characters whose bytes span tokens, and stop strings that span tokens.

What is emitted is never taken back. So the bytes of an unfinished character wait for the rest, and text that may turn
out to be the beginning of a stop string waits until it is known. The pieces joined are the same however the bytes
were cut into tokens.
"""

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of one answer into pieces of text that are safe to show."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False
        """Whether a stop string has come; nothing is emitted after it."""

    def push(self, data: bytes, last: bool = False) -> str:
        """Take the next bytes, return what can be shown now; with `last`, all that was held back."""
        text = self._decode(data, last)
        if not self._stop:
            return text
        if self.stopped:
            return ""
        self._held += text
        # The stop that is complete first counts, and of those that end together the longest: as if read by character.
        ends = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            shown, self._held = self._held[: min(ends)[1]], ""
            return shown
        keep = 0 if last else max(_overlap(self._held, stop) for stop in self._stop)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
