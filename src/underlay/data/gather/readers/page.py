"""HTML files: one page each."""

from collections.abc import Iterator

from underlay.data.gather.items import START, Item, Mark, Page
from underlay.data.gather.readers.decode import decode_page
from underlay.data.gather.task import Task


def read(task: Task, _: Mark) -> Iterator[Item]:
    """The page of an HTML file."""
    most = task.config.max_document_bytes
    with task.stream(START) as stream:
        data = stream.read(most + 1)
        if len(data) > most:
            yield task.bad(1, len(data) + stream.skip(1 << 60), "too-large", "a page larger than max_document_bytes")
        elif data.strip():
            yield Page(decode_page(data), task.name, 1, 0, len(data), task.licence)
        elif not stream.broken:
            yield task.bad(1, len(data), "empty", "an empty file")
