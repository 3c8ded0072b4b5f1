"""Gather: read sources of any kind into a corpus of documents, each with its place in its source and its licence.

A broken file or record never stops the run: it goes to the ledger with its place and the reason. Sources are folders
and files of text, code, HTML, JSONL and Parquet, and `python-stdlib`, the running interpreter's own standard library.
"""

import fnmatch
import hashlib
import os
import sysconfig
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from underlay.config import Config
from underlay.data.corpus import Corpus, Entry
from underlay.data.document import Document
from underlay.data.licences import licence_of_folder
from underlay.data.readers import BadRecord, language_of, read_file
from underlay.data.writer import write_corpus
from underlay.errors import UserError
from underlay.progress import Progress, silent

STDLIB = "python-stdlib"
_SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", "dist-packages", "venv"}


class GatherConfig(Config):
    """Where documents come from."""

    source: tuple[str, ...] = Field(default=(STDLIB,), min_length=1)
    """Files, folders, or `python-stdlib`."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths, relative to their source, to leave out (`test/*`, `*.min.js`)."""
    piece_bytes: int = Field(default=1 << 18, ge=1 << 10)
    """Longer text files are cut into documents of about this size, at empty lines."""


@dataclass(frozen=True)
class _Source:
    label: str
    """How documents name it: what the user wrote."""
    root: Path
    files: tuple[Path, ...]
    licences: Mapping[Path, str]
    """What the files of each folder are under, where they do not say themselves."""

    def name(self, path: Path) -> str:
        inside = "" if path == self.root else f"/{path.relative_to(self.root).as_posix()}"
        # File names may be any bytes; what is not UTF-8 is spelled out.
        return os.fsencode(self.label.rstrip("/") + inside).decode("utf-8", "backslashreplace")


def fingerprint(config: GatherConfig) -> str:
    """SHA-256 over the names, licences and bytes of all files that `gather` would read.

    Raises UserError as `gather` does.
    """
    total = hashlib.sha256()
    for source in _find(config):
        for path in source.files:
            total.update(f"{source.name(path)}\0{source.licences[path.parent]}\0".encode())
            try:
                with path.open("rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
            except OSError:
                total.update(b"unreadable")  # the ledger will say so
    return total.hexdigest()


def gather(
    config: GatherConfig, folder: Path, progress: Progress = silent, excluded: Collection[str] = frozenset()
) -> Corpus:
    """Read every source into a new corpus in `folder`, but for documents with an `excluded` id.

    Raises UserError where a source is missing or empty, or nothing in it could be read.
    """
    documents: list[Document] = []
    ledger: list[Entry] = []
    sources = _find(config)
    total = sum(len(source.files) for source in sources)
    done = characters = 0
    for source in sources:
        for path in source.files:
            for item in read_file(path, source.name(path), source.licences[path.parent], config.piece_bytes):
                if isinstance(item, BadRecord):
                    ledger.append(_failed(item))
                else:
                    documents.append(item)
                    characters += len(item.text)
            done += 1
            if done % 50 == 0 or done == total:
                progress(done, total, read=f"{characters / 1e6:.1f} MB")
    if not documents:
        first = ledger[0]
        raise UserError(f"{first.source}: {first.detail}; none of {total} files could be read as text")
    return write_corpus(folder, documents, ledger, excluded)


def _failed(item: BadRecord) -> Entry:
    return Entry("", item.source, item.line, item.bytes, "gather", "drop", item.reason, item.detail)


def _find(config: GatherConfig) -> list[_Source]:
    sources = []
    for label in config.source:
        if label == STDLIB:
            root, licence = Path(sysconfig.get_paths()["stdlib"]), "PSF-2.0"
            paths = [path for path in _walk(root) if path.suffix == ".py"]
        else:
            root, licence = Path(label).expanduser(), None
            if not root.exists():
                raise UserError(f"source {label}: no such file or folder")
            paths = [root] if root.is_file() else [path for path in _walk(root) if language_of(path)]
        kept = tuple(sorted(path for path in paths if not _excluded(path, root, config.exclude)))
        if not kept:
            raise UserError(f"source {label}: no readable files in it (text, code, HTML, JSONL, Parquet)")
        top = root if root.is_dir() else root.parent
        folders = {path.parent for path in kept}
        licences = {folder: licence or licence_of_folder(folder, top) for folder in folders}
        sources.append(_Source(label, root, kept, licences))
    return sources


def _walk(root: Path) -> Iterator[Path]:
    """Files below `root`; not what is hidden, nor what tools install, nor a library of ours."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED_FOLDERS
            and not name.startswith(".")
            and not Path(folder, name, "library.json").exists()
        )
        paths = (Path(folder, name) for name in files if not name.startswith("."))
        yield from (path for path in paths if path.is_file())  # no pipes, no sockets


def _excluded(path: Path, root: Path, patterns: Sequence[str]) -> bool:
    name = path.relative_to(root).as_posix()
    return path != root and any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
