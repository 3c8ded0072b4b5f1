"""How long work reports itself: the worker calls, whoever started it decides what to show.

Lower floors know no terminal. They call `progress(done, total, **facts)` now and then; a terminal display, a log or
nothing at all stands behind it.
"""

from typing import Protocol


class Progress(Protocol):
    """Called with how far a stage has come; `facts` are short figures worth showing, such as `loss=1.23`."""

    def __call__(self, done: float, total: float | None, **facts: float | str) -> None:
        """Report `done` of `total` (None: unknown) in whatever unit the stage counts in."""


def silent(done: float, total: float | None, **facts: float | str) -> None:
    """Show nothing."""
