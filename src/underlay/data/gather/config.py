"""What can be set of gathering."""

from typing import Literal

from pydantic import Field

from underlay.config import Config

STDLIB = "python-stdlib"


class GatherConfig(Config):
    """Where documents come from, and how they are read."""

    source: tuple[str, ...] = Field(default=(STDLIB,), min_length=1)
    """Files, folders, patterns of paths (`books/**/*.txt`), URLs that fsspec knows (`s3://bucket/folder`), or
    `python-stdlib`."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths, relative to their source, to leave out (`test/*`, `*.min.js`)."""
    piece_bytes: int = Field(default=1 << 18, ge=1 << 10)
    """Longer text files are cut into documents of about this size, at empty lines; PDF between pages."""
    max_document_bytes: int = Field(default=16 << 20, ge=1 << 10)
    """No document is larger: text files are cut here at the latest, records and pages that are larger are left out."""
    max_file_bytes: int = Field(default=256 << 20, ge=1 << 10)
    """Larger PDF files are left out: they have to be in memory whole."""
    max_unpacked_bytes: int = Field(default=1 << 38, ge=1 << 10)
    """A compressed file is read up to so many bytes of what it holds."""
    max_ratio: float = Field(default=200.0, ge=1)
    """A compressed file that holds more than so many times its size is no text but a bomb; its first 64 MiB are
    free."""
    text_fields: tuple[str, ...] = Field(
        default=("text", "content", "body", "caption", "transcript", "transcription", "sentence"), min_length=1
    )
    """Where the text of a record stands: in the first of these fields that holds any."""
    html: Literal["fast", "quality"] = "fast"
    """How text is drawn out of pages: `fast` by resiliparse; `quality` by trafilatura, slower, with less that is no
    text."""
    deadline: float = Field(default=20.0, gt=0)
    """Seconds that a page may take in the mode `quality`, or a PDF in either."""
    late: Literal["drop", "fast"] = "drop"
    """What becomes of a page that takes longer: it is left out, or read in the mode `fast`."""
