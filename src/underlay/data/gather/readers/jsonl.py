"""JSONL: a record a line. A line that is no record, or is too long to be held, goes to the ledger; the next one is
read."""

import json
from collections.abc import Iterator

from underlay.data.gather.items import BadRecord, Item, Mark
from underlay.data.gather.readers.decode import decode
from underlay.data.gather.readers.records import from_record
from underlay.data.gather.task import Task


def read(task: Task, start: Mark) -> Iterator[Item]:
    """The documents of a JSONL file."""
    number, any_lines = start.record, start.offset > 0
    most = 2 * task.config.max_document_bytes  # JSON spells some characters with more bytes than UTF-8
    with task.stream(start) as stream:
        while True:
            mark = stream.mark(number)
            row = stream.line(most)
            if not row:
                break
            if len(row) == most and not row.endswith(b"\n"):
                size = most + stream.skip_line()
                yield task.bad(number, size, "too-large", f"line {number} has {size} bytes", mark.offset)
                any_lines = True
            elif row.strip():
                if any_lines:
                    yield mark
                any_lines = True
                yield _record(row.rstrip(b"\r\n"), task, number, mark.offset)
            number += 1
        if not any_lines and not stream.broken:
            yield task.bad(1, stream.offset, "empty", "no records")


def _record(row: bytes, task: Task, number: int, offset: int) -> Item:
    text = decode(row, task, number, offset)
    if isinstance(text, BadRecord):
        return text
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return task.bad(number, len(row), "bad-json", f"line {number} is not JSON: {error}", offset)
    return from_record(record, task, number, offset, len(row))
