"""Texts as they may be shown to people, on cards and in answers: their beginnings, without private data."""

from underlay.data.curate.privacy import change, find, placeholder

_AHEAD = 20


def beginning(text: str, characters: int = 700, lines: int = 14) -> str:
    """The first lines of a text, with placeholders for what is private; ` …` says that there is more."""
    # Masked before it is cut: half a key has not the shape of a key. Not all of a long text is looked at for that.
    start = text[: _AHEAD * characters]
    masked = change(start, find(start), placeholder)[0]
    short = "\n".join(masked[:characters].rstrip().split("\n")[:lines])
    whole = len(short) == len(masked.rstrip()) and len(text) <= _AHEAD * characters
    return short if whole else f"{short} …"
