"""The verb: read all files of all sources, in their order, into a corpus; go on where a killed run was."""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from underlay.data.corpus import Corpus
from underlay.data.document import Document
from underlay.data.gather.config import GatherConfig
from underlay.data.gather.items import START, BadRecord, Item, Mark, Page, Pdf
from underlay.data.gather.opening import Limits, Stream
from underlay.data.gather.pages import drawn
from underlay.data.gather.parts import PART_BYTES, Parts, Place
from underlay.data.gather.readers import read
from underlay.data.gather.readers.decode import clean
from underlay.data.gather.sources import Found, find
from underlay.data.gather.task import Task
from underlay.data.gather.workers import Workers
from underlay.data.writer import CorpusWriter
from underlay.errors import UserError
from underlay.plan.machine import cores
from underlay.progress import Progress, silent


def gather(
    config: GatherConfig,
    folder: Path,
    progress: Progress = silent,
    scratch: Path | None = None,
    part_bytes: int = PART_BYTES,
    processes: int | None = None,
    excluded: Collection[str] = frozenset(),
) -> Corpus:
    """Read every source into a new corpus in `folder`, but for documents with an `excluded` id.

    Parts of about `part_bytes` are kept in `scratch` meanwhile, if it is given; a later call with the same settings
    and files goes on from them, and makes the same corpus, byte for byte. `processes` draw text out of PDF, and of
    pages in the quality mode; by default as many as there are processors. Raises UserError where a source is missing
    or empty, or nothing in it could be read.
    """
    files = find(config)
    kept = scratch / "gathered" if scratch else folder / ".gathered"
    with (
        Parts(kept, _plan(config, files), part_bytes) as parts,
        Workers(processes or cores(), config.deadline) as workers,
    ):
        for item in drawn(_items(files, config, parts.place, progress), config, workers):
            if isinstance(item, Document):
                parts.add(item)
            elif isinstance(item, BadRecord):
                parts.note(item)
            elif isinstance(item, Place):
                parts.reached(item)
    if not parts.documents:
        first = parts.first_bad()
        shutil.rmtree(kept)
        why = f"{first.source}: {first.detail}; " if first else ""
        raise UserError(f"{why}none of {len(files)} files could be read as text")
    with CorpusWriter(folder, excluded=excluded) as writer:
        parts.finish(writer)
    shutil.rmtree(kept)
    return Corpus(folder)


def _plan(config: GatherConfig, files: Sequence[Found]) -> str:
    """What a run is about: parts of another one are of no use."""
    total = hashlib.sha256(config.model_dump_json().encode())
    for found in files:
        total.update(f"\0{found.file.name}\0{found.file.size}\0{found.licence}".encode())
    return total.hexdigest()


def _items(
    files: Sequence[Found], config: GatherConfig, place: Place, progress: Progress
) -> Iterator[Document | BadRecord | Page | Pdf | Place]:
    """What all files hold from a place on; places wherever reading could begin again."""
    total = sum(found.file.size for found in files)
    before = sum(found.file.size for found in files[: place.file])
    told = 0
    for number in range(place.file, len(files)):
        found = files[number]
        reading = Reading(found, config)
        for item in reading.items(place.mark if number == place.file else START):
            if isinstance(item, Mark):
                yield Place(number, item)
                done = before + min(reading.packed, found.file.size)
                if done - told > total / 200:
                    progress(done, total, read=f"{done / 1e6:.1f} MB")
                    told = done
            else:
                yield item
        before += found.file.size
        yield Place(number + 1)
        if before - told > total / 200 or number + 1 == len(files):
            progress(before, total, read=f"{before / 1e6:.1f} MB")
            told = before


class Reading:
    """One file while it is read."""

    def __init__(self, found: Found, config: GatherConfig) -> None:
        self._found, self._config = found, config
        self._streams: list[Stream] = []

    @property
    def packed(self) -> int:
        """Bytes of the file that were read, roughly."""
        return self._streams[-1].packed if self._streams else 0

    def items(self, start: Mark) -> Iterator[Item]:
        """What it holds; last of all, why it ended too early, if it did."""
        task = self._task()
        yield from read(task, start)
        broken = self._streams[-1].broken if self._streams else None
        if broken:
            yield task.bad(1, task.size, broken.reason, broken.detail, broken.offset)

    def _task(self) -> Task:
        found = self._found
        return Task(
            name=found.file.name,
            kind=found.kind,
            licence=found.licence,
            size=found.file.size,
            config=self._config,
            stream=self._stream,
            file=found.file.open,
            media=partial(_medium, found),
            describes=os.path.basename(found.medium.inside) if found.medium else None,  # noqa: PTH119 - not a path of here
        )

    def _stream(self, start: Mark) -> Stream:
        limits = Limits(self._config.max_unpacked_bytes, self._config.max_ratio)
        stream = Stream(self._found.file.open(), self._found.kind.packing, limits, start)
        self._streams[:] = [stream]
        return stream


def _medium(found: Found, path: str) -> str | None:
    """How documents refer to an image or a recording beside a file; None where it cannot be read."""
    medium = found.beside(path)
    try:
        return f"{medium.hashed()}:{clean(medium.name)}" if medium else None
    except OSError:
        return None
