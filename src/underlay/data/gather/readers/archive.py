"""Archives: tars as WebDataset keeps its samples, and tars and zips of any files.

Members whose names agree up to the first dot of the last part belong together, as in WebDataset: `0001.jpg` and
`0001.txt` are one document, the text with the image. Every other member is read as a file of its name would be.
Archives within archives are not opened. A licence file counts for the members beside and below it, wherever it stands:
it is looked for first. Reading can begin again at any member.
"""

import io
import json
import posixpath
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import BinaryIO

from underlay.data.document import Document
from underlay.data.gather.items import START, BadRecord, Item, Mark
from underlay.data.gather.kinds import Kind, is_hidden, kind_of
from underlay.data.gather.licences import LICENCE_BYTES, ArchiveLicences, states_licence
from underlay.data.gather.opening import Limits, Stream, open_file
from underlay.data.gather.readers.decode import clean, clean_name
from underlay.data.gather.readers.members import ZIP_ERRORS, Member, tar_members, zip_members
from underlay.data.gather.readers.records import from_record
from underlay.data.gather.readers.text import caption
from underlay.data.gather.task import Task

_CAPTIONS = ("txt", "caption", "transcript", "text")
_LOOKED_THROUGH = 256 << 20
"""So much of a tar, unpacked, is looked through for licence files before its members are read."""
_LICENCE_FILES = 1000
"""So many licence files of a zip are read."""
_TOGETHER = 100
"""Members of one sample at most; what comes then begins another."""

ReadMember = Callable[[Task], Iterator[Item]]
"""Reads a member by its kind."""


@dataclass
class _Sample:
    """Members that belong together."""

    key: str | None
    """None before the first."""
    media: list[tuple[str, str]] = field(default_factory=list)
    """(name, SHA-256)"""
    texts: list[tuple[Member, bytes]] = field(default_factory=list)
    held: int = 0

    def is_full(self, most: int) -> bool:
        return self.held > most or len(self.media) + len(self.texts) >= _TOGETHER


def _members(
    task: Task, members: Iterator[Member | BadRecord], read: ReadMember, licences: ArchiveLicences
) -> Iterator[Item]:
    """The documents of an archive."""
    archive = task
    sample = _Sample(None)
    anything = False
    for member in members:
        anything = True
        if isinstance(member, BadRecord):
            yield member
            continue
        folder, name = posixpath.split(member.name)
        key = posixpath.join(folder, name.partition(".")[0])
        if key != sample.key or sample.is_full(task.config.max_document_bytes):
            yield from _sample(sample, task, read)
            sample = _Sample(key)
            task = replace(archive, licence=licences.of(member.name))
            yield member.mark
        kind = kind_of(name)
        if is_hidden(member.name):
            continue
        if kind.reader == "media" and not kind.packing:
            digest = member.digest()
            if member.left:
                yield _damaged(task, member)
            else:
                sample.media.append((member.name, digest))
        elif kind.reader in ("tar", "zip"):
            yield _bad(task, member, "archive", "an archive within an archive")
        elif kind.reader or _ending(name) in (*_CAPTIONS, "json"):
            if member.size > task.config.max_document_bytes:
                yield from _large(task, member, kind, read)
                continue
            data = member.read(member.size)
            if member.left:
                yield _damaged(task, member)
            else:
                sample.texts.append((member, data))
                sample.held += len(data)
    yield from _sample(sample, task, read)
    if not anything:
        yield task.bad(1, task.size, "empty", "an archive without files")


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _bad(task: Task, member: Member, reason: str, detail: str) -> BadRecord:
    return replace(task, name=f"{task.name}/{member.name}").bad(1, member.size, reason, detail, member.offset)


def _damaged(task: Task, member: Member) -> BadRecord:
    return _bad(task, member, "truncated", f"damaged: {member.left} of its {member.size} bytes cannot be read")


def _sample(sample: _Sample, task: Task, read: ReadMember) -> Iterator[Item]:
    """The documents of members that belong together."""
    if not sample.media:
        for member, data in sample.texts:
            kind = kind_of(member.name)
            inside = _inside(task, member, kind, lambda data=data: io.BytesIO(data))  # type: ignore[misc]
            if kind.reader:
                yield from _unmarked(read(inside), member.offset)
            elif _ending(member.name) == "json":
                yield _from_json(inside, data, member.offset, "")
        return
    name, digest = sample.media[0]
    medium = f"{digest}:{clean(name)}"
    for ending in (*_CAPTIONS, "json"):
        for member, data in sample.texts:
            if _ending(member.name) == ending:
                inside = _inside(task, member, Kind("text", "text", None), lambda: io.BytesIO(b""))
                if ending == "json":
                    yield _from_json(inside, data, member.offset, medium)
                else:
                    made = caption(inside, data, medium)
                    yield replace(made, offset=member.offset) if isinstance(made, Document | BadRecord) else made
                return
    yield replace(task, name=f"{task.name}/{name}").bad(1, 0, "no-caption", "no text beside it")


def _from_json(task: Task, data: bytes, offset: int, medium: str) -> Item:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        return task.bad(1, len(data), "bad-json", f"not JSON: {error}", offset)
    made = from_record(record, replace(task, media=lambda _: medium), 1, offset, len(data))
    return replace(made, media=medium) if isinstance(made, Document) else made


def _large(task: Task, member: Member, kind: Kind, read: ReadMember) -> Iterator[Item]:
    """The documents of a member that is too large to be held: it waits in a temporary file."""
    with tempfile.NamedTemporaryFile() as file:
        while data := member.read(1 << 20):
            file.write(data)
        file.flush()
        if member.left:
            yield _damaged(task, member)
        else:
            inside = _inside(task, member, kind, partial(open_file, file.name))
            yield from _unmarked(read(inside), member.offset)


def _inside(task: Task, member: Member, kind: Kind, opened: Callable[[], BinaryIO]) -> Task:
    """The task to read a member."""
    limits = Limits(task.config.max_unpacked_bytes, task.config.max_ratio)

    def stream(start: Mark) -> Stream:
        return Stream(opened(), kind.packing, limits, start)

    return replace(
        task,
        name=f"{task.name}/{member.name}",
        kind=kind,
        size=member.size,
        stream=stream,
        file=opened,
        media=lambda _: None,
    )


def _unmarked(items: Iterator[Item], offset: int) -> Iterator[Item]:
    """What comes of a member, which can only be begun again as a whole, with the offset of the member in the
    archive."""
    return (replace(item, offset=offset + item.offset) for item in items if not isinstance(item, Mark))


def read_tar(task: Task, start: Mark, read: ReadMember) -> Iterator[Item]:
    """The documents of a tar."""
    licences = ArchiveLicences(task.licence)
    with task.stream(START) as stream:
        for member in tar_members(task, stream):
            if isinstance(member, Member) and states_licence(posixpath.basename(member.name)):
                licences.add(member.name, member.read(LICENCE_BYTES))
            if stream.offset > _LOOKED_THROUGH:
                break
    with task.stream(start) as stream:
        yield from _members(task, tar_members(task, stream), read, licences)


def read_zip(task: Task, start: Mark, read: ReadMember) -> Iterator[Item]:
    """The documents of a zip archive."""
    try:
        with task.file() as file, zipfile.ZipFile(file) as archive:
            licences = _zip_licences(task, archive)
            yield from _members(task, zip_members(task, archive, file, start), read, licences)
    except ZIP_ERRORS as error:
        yield task.bad(1, task.size, "bad-zip", f"not a zip archive: {error}")


def _zip_licences(task: Task, archive: zipfile.ZipFile) -> ArchiveLicences:
    licences = ArchiveLicences(task.licence)
    stating = (info for info in archive.infolist() if states_licence(posixpath.basename(info.filename)))
    for info in islice(stating, _LICENCE_FILES):
        try:
            with archive.open(info) as content:
                licences.add(clean_name(info.filename), content.read(LICENCE_BYTES))
        except ZIP_ERRORS:
            continue  # a licence nobody can read states nothing; as a member it is told
    return licences
