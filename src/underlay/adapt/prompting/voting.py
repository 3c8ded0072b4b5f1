"""One answer out of many: the most frequent wins, and the share that agrees is the confidence (arXiv:2203.11171)."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Vote(NamedTuple):
    """What was agreed on."""

    answer: str | None
    """None: none of the texts held an answer."""
    agreement: float | None
    """The share of votes for it; of texts without an answer none is counted."""
    dropped: int
    """Texts without an answer."""


def vote(answers: Sequence[str | None], same: Callable[[str], str]) -> Vote:
    """Answers are alike where `same` makes them equal; of equally frequent ones the first wins, as it was written."""
    given = [answer for answer in answers if answer is not None]
    if not given:
        return Vote(None, None, len(answers))
    counts = Counter(map(same, given))
    most = max(counts.values())
    winner = next(answer for answer in given if counts[same(answer)] == most)
    return Vote(winner, most / len(given), len(answers) - len(given))
