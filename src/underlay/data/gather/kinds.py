"""What kind of file a file is: by its ending, and by the magic numbers at its beginning.

The ending decides how a file is read. Where the first bytes say that it is something else, it is named as that.
"""

import posixpath
import re
from dataclasses import dataclass
from typing import Literal

Reader = Literal[
    "text", "html", "pdf", "jsonl", "csv", "tsv", "parquet", "arrow", "warc", "mediawiki", "tar", "zip", "media"
]

# File endings that hold text, and what the text is written in.
_LANGUAGES = {
    "text": "txt text rst tex log org adoc",
    "markdown": "md markdown",
    "python": "py pyi",
    "javascript": "js mjs cjs jsx",
    "typescript": "ts tsx",
    "c": "c h",
    "cpp": "cc cpp cxx hpp hh",
    "java": "java",
    "csharp": "cs",
    "go": "go",
    "rust": "rs",
    "ruby": "rb",
    "php": "php",
    "perl": "pl pm",
    "shell": "sh bash zsh",
    "sql": "sql",
    "css": "css",
    "r": "r",
    "lua": "lua",
    "haskell": "hs",
    "scala": "scala",
    "kotlin": "kt",
    "swift": "swift",
    "julia": "jl",
    "yaml": "yaml yml",
    "toml": "toml ini cfg",
    "xml": "xml",
}
_READERS: dict[Reader, str] = {
    "html": "html htm xhtml",
    "pdf": "pdf",
    "jsonl": "jsonl ndjson",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "arrow": "arrow",
    "warc": "warc wet",
    "tar": "tar",
    "zip": "zip",
    "media": "png jpg jpeg gif webp bmp tif tiff wav mp3 flac ogg opus m4a",
}
_LANGUAGE_OF = {ending: language for language, endings in _LANGUAGES.items() for ending in endings.split()}
_READER_OF = {ending: reader for reader, endings in _READERS.items() for ending in endings.split()}
Packing = Literal["gzip", "bzip2", "xz", "zstd"]
_PACKINGS: dict[str, Packing] = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}
_SHORT = {"tgz": "tar.gz", "tbz2": "tar.bz2", "txz": "tar.xz"}

RECORDS: frozenset[Reader] = frozenset({"jsonl", "csv", "tsv", "parquet", "arrow"})
TEXTUAL: frozenset[Reader] = frozenset({"text", "html", "jsonl", "csv", "tsv", "warc", "mediawiki"})


@dataclass(frozen=True, slots=True)
class Kind:
    """How a file is read."""

    reader: Reader | None
    """None where its ending says nothing."""
    language: str
    """What its documents are said to be written in."""
    packing: Packing | None
    """How it is compressed."""


def kind_of(path: str) -> Kind:
    """The kind that a file's ending says: `dump.xml.bz2` is XML, compressed by bzip2."""
    endings = posixpath.basename(path).lower().split(".")[1:]
    if endings and endings[-1] in _SHORT:
        endings[-1:] = _SHORT[endings[-1]].split(".")
    packing = _PACKINGS.get(endings[-1]) if endings else None
    last = (endings[:-1] if packing else endings)[-1:] or [""]
    ending = last[0].partition("-")[0] if last[0].startswith("xml-") else last[0]  # dumps: xml-p1p41242.bz2
    reader: Reader | None = _READER_OF.get(ending) or ("text" if ending in _LANGUAGE_OF else None)
    return Kind(reader, _LANGUAGE_OF.get(ending) or (reader if reader in ("html", "pdf") else "text"), packing)


# What begins a file, and what it is then. Those that a reader is for carry its name.
_MAGIC: tuple[tuple[bytes, str, Reader | Packing | None], ...] = (
    (b"\x1f\x8b", "gzip", "gzip"),
    (b"BZh", "bzip2", "bzip2"),
    (b"\xfd7zXZ\0", "xz", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd"),
    (b"PK\x03\x04", "a zip archive", "zip"),
    (b"PK\x05\x06", "a zip archive", "zip"),
    (b"%PDF-", "PDF", "pdf"),
    (b"PAR1", "Parquet", "parquet"),
    (b"ARROW1\0\0", "an Arrow file", "arrow"),
    (b"WARC/", "WARC", "warc"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", "media"),
    (b"\xff\xd8\xff", "a JPEG image", "media"),
    (b"GIF8", "a GIF image", "media"),
    (b"fLaC", "a FLAC recording", "media"),
    (b"ID3", "an MP3 recording", "media"),
    (b"OggS", "an Ogg recording", "media"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", None),
    (b"\x7fELF", "a program (ELF)", None),
    (b"MZ\x90\0", "a program (PE)", None),
    (b"SQLite format 3\0", "an SQLite database", None),
    (b"\x80\x04\x95", "a Python pickle", None),
    (b"\xd0\xcf\x11\xe0", "an old Office file", None),
)
_HTML = re.compile(rb"\s*(?:<!--.{0,500}?-->\s*)?<(?:!doctype\s+html|html[\s>])", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Magic:
    """What the first bytes of a file say."""

    reader: Reader | Packing | None
    says: str
    """In words."""
    binary: bool
    """Whether it is certainly no text."""


def magic_of(head: bytes) -> Magic | None:
    """What a file is by its first bytes, some hundreds of them; None where they say nothing."""
    for beginning, says, reader in _MAGIC:
        if head.startswith(beginning):
            return Magic(reader, says, reader != "warc")
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"WEBP"):
        return Magic("media", "a WAV recording" if head[8:12] == b"WAVE" else "a WebP image", binary=True)
    if head[257:262] == b"ustar":
        return Magic("tar", "a tar archive", binary=True)
    if b"<mediawiki" in head[:4096]:
        return Magic("mediawiki", "a MediaWiki dump", binary=False)
    if _HTML.match(head):
        return Magic("html", "HTML", binary=False)
    return None


_SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", "dist-packages", "venv"}


def is_skipped(folder: str) -> bool:
    """Whether a folder of this name holds what tools put there, not people."""
    return folder in _SKIPPED_FOLDERS or folder.startswith(".")


def is_hidden(path: str) -> bool:
    """Whether a file within a source is hidden, or in a folder that is passed over."""
    *folders, name = path.split("/")
    return name.startswith(".") or any(is_skipped(folder) for folder in folders if folder != ".")
