"""A task: one file to read, or one member of an archive, with all that a reader has to know."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from underlay.data.document import Document
from underlay.data.gather.config import GatherConfig
from underlay.data.gather.items import BadRecord, Mark
from underlay.data.gather.kinds import Kind
from underlay.data.gather.opening import Stream

_MOST = 1 << 50
"""The ledger notes nothing larger, whatever a file says of itself: its figures, and their sums, have 64 bits."""


@dataclass(frozen=True)
class Task:
    """One file to read."""

    name: str
    """How documents call their source."""
    kind: Kind
    licence: str
    """What its documents are under where they do not say themselves."""
    size: int
    """In bytes, as it is; 0 where nobody knows."""
    config: GatherConfig
    stream: Callable[[Mark], Stream]
    """Opens it, unpacked."""
    file: Callable[[], BinaryIO]
    """Opens it as it is; can be sought in."""
    media: Callable[[str], str | None]
    """The image or recording that a record calls so, as documents refer to it; None where there is none."""
    describes: str | None = None
    """The image or recording, from its own folder on, that its text goes with."""
    head: bytes = b""
    """The first bytes of it, unpacked."""

    def document(
        self, text: str, first: int, last: int, offset: int, licence: str = "", date: str = "", media: str = ""
    ) -> Document:
        """A document of this file, in its own language."""
        return Document(text, self.name, first, last, licence or self.licence, self.kind.language, offset, date, media)

    def bad(self, line: int, size: int, reason: str, detail: str, offset: int = 0) -> BadRecord:
        """A record of this file that could not be read."""
        return BadRecord(self.name, min(line, _MOST), min(size, _MOST), reason, detail[:300], min(offset, _MOST))
