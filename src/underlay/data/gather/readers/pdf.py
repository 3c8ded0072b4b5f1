"""PDF files: handed on whole, for their text is drawn out where a broken one can do no harm (`pages.py`)."""

from collections.abc import Iterator

from underlay.data.gather.items import START, Item, Mark, Pdf
from underlay.data.gather.task import Task


def read(task: Task, _: Mark) -> Iterator[Item]:
    """The PDF."""
    most = task.config.max_file_bytes
    with task.stream(START) as stream:
        data = stream.read(most + 1)
        if len(data) > most:
            yield task.bad(1, len(data), "too-large", "a PDF larger than max_file_bytes")
        elif data:
            yield Pdf(data, task.name, 1, 0, task.licence)
        elif not stream.broken:
            yield task.bad(1, 0, "empty", "an empty file")
