"""What readers hand on: documents, what they could not read, pages whose text is still to be drawn out, and marks."""

from dataclasses import dataclass

from underlay.data.document import Document


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A file or record that could not be read, or is no document."""

    source: str
    line: int
    bytes: int
    reason: str
    """A short name, the same for all alike."""
    detail: str
    offset: int = 0
    """Byte of the source, once unpacked, at which it begins."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file before which everything was handed on: reading may begin here again.

    Nothing can seek in a compressed file. So a mark also knows the last place at which decompressing can begin.
    """

    offset: int = 0
    """Byte of the unpacked file; of files in columns, the number of the row group."""
    record: int = 1
    """The line or record that begins here, counted from 1."""
    packed: int = 0
    """Byte of the file itself at which a member of the compressed file begins."""
    unpacked: int = 0
    """Byte of the unpacked file that this member begins with."""


START = Mark()


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page, decoded."""

    html: str
    source: str
    line: int
    offset: int
    bytes: int
    licence: str
    """What it is under where it does not say itself."""
    date: str = ""


@dataclass(frozen=True, slots=True)
class Pdf:
    """A PDF file."""

    data: bytes
    source: str
    line: int
    offset: int
    licence: str


Readable = Document | BadRecord | Mark
"""What is ready to be kept."""
Item = Readable | Page | Pdf
