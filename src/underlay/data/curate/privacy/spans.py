"""What is found of private things: a stretch of a text, and what stands there."""

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

Group = Literal["email", "phone", "ip", "card", "bank", "id", "secret"]
"""Kinds of private things, as people name them in settings."""

_GROUPS: Final[Mapping[str, Group]] = {
    "EMAIL": "email",
    "PHONE": "phone",
    "IP": "ip",
    "CARD": "card",
    "IBAN": "bank",
    "BANK_ACCOUNT": "bank",
}
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z0-9_]*>")


class Span(NamedTuple):
    """Something private in a text, text[start:end] in code points."""

    start: int
    end: int
    kind: str
    """`EMAIL`, `US_SSN`, `GITHUB_TOKEN` and so on."""


def group_of(kind: str) -> Group:
    """What a kind belongs to: national ids have names like `US_SSN`, and whatever is left is a secret."""
    if kind in _GROUPS:
        return _GROUPS[kind]
    return "id" if re.match(r"[A-Z]{2}_", kind) else "secret"


_ORDER: Final[tuple[Group, ...]] = ("secret", "email", "bank", "card", "id", "phone", "ip")


def apart(spans: Iterable[Span]) -> list[Span]:
    """The spans in their order, none overlapping another.

    Those that overlap become one that covers all of them, so that nothing private is left over; what kind it is, is
    that of the first of secrets, addresses, bank numbers, cards, ids, telephone and internet numbers.
    """
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start < found[-1].end:
            last = found[-1]
            kind = min(last.kind, span.kind, key=lambda kind: _ORDER.index(group_of(kind)))
            found[-1] = Span(last.start, max(last.end, span.end), kind)
        else:
            found.append(span)
    return found


def before(text: str, start: int, length: int = 48) -> str:
    """What stands before a place, without placeholders: where telling words are looked for.

    That is the rest of its line, or the line above where nothing stands before it.
    """
    above, _, line = text[max(0, start - length) : start].rpartition("\n")
    return _PLACEHOLDER.sub(" ", line if line.strip(" \t(+") else above.rpartition("\n")[2] + line)


def behind(text: str, end: int, length: int = 24) -> str:
    """What stands behind a place on its line."""
    return _PLACEHOLDER.sub(" ", text[end : end + length].partition("\n")[0])
