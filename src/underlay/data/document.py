"""A document: its text, where it stands in its source, and under which licence."""

import hashlib
from dataclasses import dataclass

NO_LICENCE = "NOASSERTION"
"""SPDX's word for a licence that nobody stated."""
ID_DIGITS = 32
"""Length of a document's id, in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text and its origin. Its identity is its content, never its position."""

    text: str
    source: str
    """Path or URL of the file it came from; of a record with an address or a title of its own, that behind a `#`."""
    first_line: int
    """Line of the source (counted from 1) at which the text starts; for records, the record's number."""
    last_line: int
    """Line at which it ends; the same as `first_line` where the text's lines are not the source's."""
    licence: str
    """SPDX identifier, or NOASSERTION."""
    language: str
    """What kind of text it is: `python`, `html`, `text` and so on."""
    offset: int = 0
    """Byte of the source, once unpacked, at which the record or piece begins."""
    date: str = ""
    """When it was written or fetched, as ISO 8601 (`2023-04-01`, `2021`), where the source says so."""
    media: str = ""
    """The image or recording that the text goes with: SHA-256, a colon, and where it is; empty where there is none."""

    @property
    def id(self) -> str:
        """128 bits of the SHA-256 of the content, the text and the medium if there is one, in hexadecimal."""
        content = self.text.encode()
        if self.media:
            content += b"\0" + self.media.partition(":")[0].encode()
        return hashlib.sha256(content).hexdigest()[:ID_DIGITS]
