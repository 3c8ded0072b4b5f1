"""Tables: CSV (RFC 4180) and TSV, with the names of the columns in the first row.

Rows are taken apart as they stream in, for Python's `csv` keeps its limit of a field's size for the whole process,
and tells no byte offsets. TSV knows no quotes (IANA's text/tab-separated-values).
"""

from collections.abc import Iterator

from underlay.data.gather.items import START, BadRecord, Item, Mark
from underlay.data.gather.opening import Stream
from underlay.data.gather.readers.decode import decode
from underlay.data.gather.readers.records import ADDRESS_FIELDS, DATE_FIELDS, LICENCE_FIELDS, MEDIA_FIELDS, from_record
from underlay.data.gather.task import Task


class TooLong(Exception):  # noqa: N818 - no error of ours
    """A row that does not end within the limit."""


def read(task: Task, start: Mark) -> Iterator[Item]:
    """The documents of a table."""
    quoted = task.kind.reader == "csv"
    most = 2 * task.config.max_document_bytes
    with task.stream(START) as stream:
        first = stream.line(1 << 16)
        delimiter = max((b",", b";", b"\t"), key=first.count) if quoted else b"\t"
    with task.stream(START) as stream:
        try:
            header = next_row(stream, delimiter, quoted, 1 << 20)
        except TooLong:
            yield task.bad(1, stream.offset, "too-large", "the first row, of the columns' names, is larger than 1 MiB")
            return
        if not header:
            if not stream.broken:
                yield task.bad(1, stream.offset, "empty", "no records")
            return
        after = stream.mark(2)
    names = [name.decode("utf-8", "replace").removeprefix("\ufeff").strip(' "') for name in header]
    wanted = task.config.text_fields
    if not set(names) & set(wanted):
        there = ", ".join(names[:12])
        yield task.bad(1, after.offset, "no-text", f"no column {' or '.join(wanted)}; there are {there} (text_fields)")
        return
    useful = {*wanted, *LICENCE_FIELDS, *DATE_FIELDS, *ADDRESS_FIELDS, *MEDIA_FIELDS}
    columns = [(place, name) for place, name in enumerate(names) if name in useful]
    begin = start if start.offset else after
    number = begin.record
    with task.stream(begin) as stream:
        while True:
            mark = stream.mark(number)
            yield mark
            try:
                row = next_row(stream, delimiter, quoted, most)
            except TooLong:
                size = stream.offset - mark.offset
                yield task.bad(number, size, "too-large", f"row {number} does not end within {most} bytes", mark.offset)
                number += 1
                continue
            if row is None:
                if number == after.record and not stream.broken:
                    yield task.bad(1, stream.offset, "empty", "no rows but the names of the columns")
                break
            if row != [b""]:
                yield _record(row, columns, len(names), task, number, mark.offset, stream.offset - mark.offset)
            number += 1


def _record(
    row: list[bytes], columns: list[tuple[int, str]], width: int, task: Task, number: int, offset: int, size: int
) -> Item:
    if len(row) != width:
        return task.bad(number, size, "bad-row", f"row {number} has {len(row)} fields, not {width}", offset)
    fields = {}
    for place, name in columns:
        value = decode(row[place], task, number, offset)
        if isinstance(value, BadRecord):
            return value
        fields[name] = value
    return from_record(fields, task, number, offset, size)


def next_row(stream: Stream, delimiter: bytes, quoted: bool, most: int) -> list[bytes] | None:
    """The fields of the next row; None at the end. Raises TooLong where it does not end within `most` bytes."""
    line = stream.line(most)
    if not line:
        return None
    if not line.endswith(b"\n") and len(line) == most:
        stream.skip_line()
        raise TooLong
    if not quoted or b'"' not in line:
        return line.rstrip(b"\r\n").split(delimiter)
    row: list[bytes] = []
    size, at = len(line), 0
    while True:
        if not line.startswith(b'"', at):
            end = line.find(delimiter, at)
            if end < 0:
                return [*row, line[at:].rstrip(b"\r\n")]
            row.append(line[at:end])
            at = end + len(delimiter)
            continue
        field: list[bytes] = []
        at += 1
        while True:  # to the quote that closes
            end = line.find(b'"', at)
            if end < 0:
                field.append(line[at:])
                line, at = stream.line(most - size + 1), 0
                size += len(line)
                if size > most:
                    raise TooLong
                if not line:
                    return [*row, b"".join(field)]
            elif line.startswith(b'""', end):
                field.append(line[at : end + 1])
                at = end + 2
            else:
                field.append(line[at:end])
                break
        at = end + 1
        end = line.find(delimiter, at)  # behind the quote there should be nothing; what is there belongs to the field
        rest = line[at:] if end < 0 else line[at:end]
        row.append(b"".join(field) + rest.rstrip(b"\r\n"))
        if end < 0:
            return row
        at = end + len(delimiter)
