"""What becomes of bad data: a file that is wrong is an error, a record that is wrong is left out and counted.

Every reason keeps the first place where it was met, so that a person can go and look.
"""

from collections import Counter
from dataclasses import dataclass, field

from underlay.data.gather.readers.decode import clean


def shown(text: str, most: int = 80) -> str:
    """The beginning of what stands in a file, on one line and without signs that steer a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in clean(text[:most]))


class Unusable(Exception):  # noqa: N818 - no error: a record that is left out
    """Why a record is no example."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """`reason` is one of few, under which records are counted; `detail` tells more of this one."""
        super().__init__(reason)
        self.reason, self.detail = reason, shown(detail)


@dataclass
class LeftOut:
    """Records that are no examples, by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """Where each reason was met first, `file:line`, and what stood there."""

    def add(self, place: str, why: Unusable) -> None:
        """Count a record."""
        self.counts[why.reason] += 1
        self.first.setdefault(why.reason, f"{place} ({why.detail})" if why.detail else place)

    def lines(self) -> list[str]:
        """A line for people to each reason, the most frequent first."""
        return [f"{count:,} left out: {why}, first at {self.first[why]}" for why, count in self.counts.most_common()]
