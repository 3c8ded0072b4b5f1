"""Sources: which files a recipe means, what they are called, and what they are under.

A source is a folder, a file, a pattern of paths, a URL that fsspec knows, or `python-stdlib`. Nothing asks a network
unless a source names its protocol.
"""

import fnmatch
import glob
import hashlib
import os
import posixpath
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from underlay.data.document import NO_LICENCE
from underlay.data.gather.config import STDLIB, GatherConfig
from underlay.data.gather.kinds import RECORDS, Kind, is_hidden, is_skipped, kind_of
from underlay.data.gather.licences import LICENCE_BYTES, licence_of_files, states_licence
from underlay.data.gather.opening import open_file
from underlay.errors import UserError

_CARDS = {"dataset_info.json", "dataset_dict.json"}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:::|://)")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class File:
    """A file of a source."""

    name: str
    """How documents name it: the source as the user wrote it, and the path within it."""
    inside: str
    """Its path within the source, with slashes."""
    size: int
    open: Callable[[], BinaryIO]

    def hashed(self) -> str:
        """The SHA-256 of its bytes. Raises OSError where it cannot be read."""
        total = hashlib.sha256()
        with self.open() as file:
            while data := file.read(_CHUNK):
                total.update(data)
        return total.hexdigest()


@dataclass(frozen=True)
class Found:
    """A file to be read."""

    file: File
    kind: Kind
    licence: str
    """What it is under, where it does not say itself."""
    medium: File | None
    """The image or recording beside it that its text describes."""
    media: "dict[str, File]"
    """All images and recordings of its source, by their paths within it: records may name them."""

    def beside(self, path: str) -> File | None:
        """The image or recording that a record of this file calls so, from its own folder on."""
        return self.media.get(posixpath.normpath(posixpath.join(posixpath.dirname(self.file.inside), path)))


def fingerprint(config: GatherConfig) -> str:
    """SHA-256 over the names, licences and bytes of all files that `gather` would read.

    Of a source with records, which may name them, all images and recordings belong to it. Raises UserError as
    `gather` does.
    """
    total = hashlib.sha256()
    seen: set[int] = set()
    for found in find(config):
        used = [found.medium] if found.medium else []
        if found.kind.reader in RECORDS and id(found.media) not in seen:
            seen.add(id(found.media))
            used += found.media.values()
        for file in (found.file, *used):
            total.update(f"{file.name}\0{found.licence}\0".encode())
            try:
                total.update(bytes.fromhex(file.hashed()))
            except OSError:
                total.update(b"unreadable")  # the ledger will say so
    return total.hexdigest()


def find(config: GatherConfig) -> list[Found]:
    """All files to read, in their order. Raises UserError where a source is missing or has none."""
    return [found for label in config.source for found in _find(label, config.exclude)]


def _find(label: str, exclude: Sequence[str]) -> list[Found]:
    named = False
    if label == STDLIB:
        root = sysconfig.get_paths()["stdlib"]
        listed = [file for file in _walk(label, root) if file.inside.endswith(".py")]
        licence: Callable[[str], str] = _of_python
    else:
        listed, licence, named = files_of(label)
    kept = [file for file in listed if named or not _excluded(file.inside, exclude)]
    cards = {posixpath.dirname(file.inside) for file in kept if posixpath.basename(file.inside) in _CARDS}
    kinds = {file.inside: kind_of(file.inside) for file in kept}
    media = {file.inside: file for file in kept if kinds[file.inside].reader == "media" and not named}
    described = {posixpath.splitext(inside)[0]: file for inside, file in sorted(media.items(), reverse=True)}
    found = []
    for file in sorted(kept, key=lambda file: file.inside.split("/")):
        kind = kinds[file.inside]
        if named or _is_readable(file.inside, kind, cards):
            stem, ending = posixpath.splitext(file.inside)
            medium = described.get(stem) if ending.lower() == ".txt" else None
            found.append(Found(file, kind, licence(posixpath.dirname(file.inside)), medium, media))
    if not found:
        raise UserError(f"source {label}: no readable files in it (text, code, web pages, records, dumps, archives)")
    return found


def files_of(label: str) -> "Listed":
    """All files that a source means, whatever they hold. Raises UserError where it is missing."""
    if _URL.match(label) and not label.startswith("file://"):
        return _remote(label)
    return _local(label)


def _of_python(_: str) -> str:
    return "PSF-2.0"


def _is_readable(inside: str, kind: Kind, cards: set[str]) -> bool:
    if kind.reader in (None, "media"):
        return False
    if cards and any(folder in cards for folder in _folders(inside)):  # a data set: what stands beside its rows is none
        return kind.reader in RECORDS and not posixpath.basename(inside).startswith("cache-")
    return True


def _folders(inside: str) -> Iterator[str]:
    """The folders that a file is in, the innermost first; the source itself is the last."""
    while inside.strip("/"):
        inside = posixpath.dirname(inside)
        yield inside


def _excluded(inside: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(inside, pattern) for pattern in patterns)


def _before_magic(pattern: str) -> str:
    """The folders of a pattern before the first that has a sign in it; the whole where none has."""
    match = re.search(r"[^/]*[*?\[]", pattern)
    return pattern[: match.start()] if match else pattern


def _name(label: str, inside: str) -> str:
    """How documents call a file. File names may be any bytes; what is not UTF-8 is spelled out."""
    whole = f"{label.rstrip('/')}/{inside}" if inside else label
    return os.fsencode(whole).decode("utf-8", "backslashreplace")


class _Licences:
    """What each folder of a source is under: by its own files, or those of the nearest folder around it."""

    def __init__(self, files: Callable[[str], Iterable[tuple[str, bytes]]]) -> None:
        self._files = files
        self._known: dict[str, str] = {}

    def __call__(self, folder: str) -> str:
        path = []
        while folder not in self._known:
            path.append(folder)
            stated = licence_of_files(self._files(folder))
            if stated or not folder:
                self._known[folder] = stated or NO_LICENCE
            else:
                folder = posixpath.dirname(folder)
        for inner in path:
            self._known[inner] = self._known[folder]
        return self._known[folder]


Listed = tuple[list[File], Callable[[str], str], bool]
"""Files, what their folders are under, and whether it is one file that was named itself."""


def _local(label: str) -> Listed:
    root = os.path.expanduser(label.removeprefix("file://"))  # noqa: PTH111 - a Path would change how names are spelled
    path = Path(root)
    if path.is_file():
        file = File(_name(label, ""), path.name, path.stat().st_size, partial(open_file, root))
        return [file], _Licences(partial(_statements, os.fspath(path.parent))), True
    if path.exists():
        return list(_walk(label, root)), _Licences(partial(_statements, root)), False
    if glob.has_magic(root):
        top = _before_magic(root)
        # A Path would not give back names as they were spelled.
        paths = sorted(path for path in glob.glob(root, recursive=True) if Path(path).is_file())  # noqa: PTH207
        files = [
            File(_name(one, ""), one[len(top) :], Path(one).stat().st_size, partial(open_file, one)) for one in paths
        ]
        return files, _Licences(partial(_statements, top or ".")), False
    raise UserError(f"source {label}: no such file or folder")


def _walk(label: str, root: str) -> Iterator[File]:
    """Files below `root`; not what is hidden, nor what tools install, nor a library of ours."""
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name for name in folders if not is_skipped(name) and not Path(folder, name, "library.json").exists()
        ]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():  # no pipes, no sockets
                inside = path.relative_to(root).as_posix()
                yield File(_name(label, inside), inside, path.stat().st_size, partial(open_file, os.fspath(path)))


def _statements(root: str, folder: str) -> Iterator[tuple[str, bytes]]:
    """The beginnings of the files in a folder that may state a licence."""
    with os.scandir(Path(root, folder)) as entries:
        for entry in entries:
            if states_licence(entry.name) and entry.is_file():
                yield entry.name, _start_of(partial(open_file, entry.path))


def _start_of(opener: Callable[[], BinaryIO]) -> bytes:
    try:
        with opener() as file:
            return file.read(LICENCE_BYTES)
    except OSError:
        return b""  # a licence nobody can read states nothing


def _remote(label: str) -> Listed:
    """The files that a URL means. The protocol's library may ask a network: the user named it."""
    try:
        system, root = fsspec.core.url_to_fs(label)
        if glob.has_magic(root):
            found, top, named = system.glob(root, detail=True), _before_magic(root), False
        elif system.isdir(root):
            found, top, named = system.find(root, detail=True), root.rstrip("/") + "/", False
        else:
            found, top, named = {root: system.info(root)}, root.rpartition("/")[0] + "/", True
    except FileNotFoundError as error:
        raise UserError(f"source {label}: no such file or folder") from error
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"source {label}: {str(error).splitlines()[0] if str(error) else error!r}") from error
    entries = {path: entry for path, entry in found.items() if entry.get("type") == "file"}
    hidden = {path.rpartition("/")[0] for path in entries if path.endswith("/library.json")}
    files, openers = [], {}
    for path, entry in entries.items():
        inside = path.removeprefix(top)
        openers[inside] = partial(_open_remote, system, path)
        if not named and (is_hidden(inside) or any(top + one in hidden for one in _folders(inside))):
            continue
        name = label if named else _name(_before_magic(label), inside)
        files.append(File(name, inside, int(entry.get("size") or 0), openers[inside]))

    def statements(folder: str) -> Iterator[tuple[str, bytes]]:
        for inside, opener in openers.items():
            if posixpath.dirname(inside) == folder and states_licence(posixpath.basename(inside)):
                yield posixpath.basename(inside), _start_of(opener)

    return files, _Licences(statements), named


def _open_remote(system: Any, path: str) -> BinaryIO:
    file: BinaryIO = system.open(path, "rb")
    return file
