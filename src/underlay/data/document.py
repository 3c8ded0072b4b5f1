"""A document: its text, where it stands in its source, and under which licence."""

import hashlib
from dataclasses import dataclass

NO_LICENCE = "NOASSERTION"
"""SPDX's word for a licence that nobody stated."""


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text and its origin. Its identity is its content, never its position."""

    text: str
    source: str
    """Path or URL of the file it came from."""
    first_line: int
    """Line of the source (counted from 1) at which the text starts; for records, the record's number."""
    last_line: int
    """Line at which it ends; the same as `first_line` where the text's lines are not the source's."""
    licence: str
    """SPDX identifier, or NOASSERTION."""
    language: str
    """What kind of text it is: `python`, `html`, `text` and so on."""

    @property
    def id(self) -> str:
        """128 bits of the text's SHA-256, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]
