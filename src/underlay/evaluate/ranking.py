"""What data cards list by size: languages, licences, kinds of text, places. The first names, and the rest together."""

from collections.abc import Callable
from typing import TypeVar

Row = TypeVar("Row")

RANKED = {
    "languages": ("Languages", "As the tagger language takes them to be."),
    "licences": ("Licences", "What the documents, or the files beside them, state."),
    "kinds": ("Kinds of text", "What the documents are written in, by the endings of their files."),
    "places": ("Where from", "The folders and hosts that most of the text comes from."),
}
"""Title and caption by the field of `Summary` that has the shares."""
MOST = 12
"""Names of one kind that are shown."""
_LONGEST_NAME = 90


def fold(rows: list[Row], together: Callable[[str, list[Row]], Row], most: int = MOST) -> list[Row]:
    """The first rows, and all others as one, which `together` makes of a name and them; one row is no others."""
    rest = rows[most:]
    return rows if len(rest) < 2 else [*rows[:most], together(f"{len(rest):,} others", rest)]


def short(name: str) -> str:
    """The end of a long name, for paths differ there."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[-_LONGEST_NAME:]}"
