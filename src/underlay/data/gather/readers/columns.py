"""Parquet and Arrow: records in columns, read a stretch at a time, and of them only the columns that matter.

Nothing in these files is trusted: Arrow's buffers are validated before a value is looked at, and how many rows are
read at once follows from how large they say they are.
"""

from collections.abc import Generator, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from underlay.data.gather.items import Item, Mark
from underlay.data.gather.readers.records import ADDRESS_FIELDS, DATE_FIELDS, LICENCE_FIELDS, MEDIA_FIELDS, from_record
from underlay.data.gather.task import Task

_AT_ONCE = 16 << 20
_MOST_ROWS = 1 << 40
"""So many rows of a damaged row group are believed, so that numbers of records stay within 64 bits."""
_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError, NotImplementedError, MemoryError)
"""What pyarrow raises for damaged files; values that are no UTF-8 or no dates are ValueErrors, and
lengths that no file has end in a MemoryError."""


class NoTextError(Exception):
    """No column of a file holds text."""


def read_parquet(task: Task, start: Mark) -> Iterator[Item]:
    """The documents of a Parquet file; a mark's offset is the number of a row group. A damaged group is passed over."""
    number = start.record
    try:
        with task.file() as file:
            table = pq.ParquetFile(file)
            names = _useful(table.schema_arrow, task)
            for group in range(start.offset, table.num_row_groups):
                yield Mark(group, number)
                number = yield from _group(task, table, group, names, number)
    except NoTextError as error:
        yield task.bad(1, task.size, "no-text", str(error))
        return
    except _ERRORS as error:
        yield task.bad(number, task.size, "bad-parquet", f"not Parquet: {_line(error)}")
        return
    if number == 1:
        yield task.bad(1, task.size, "empty", "no records")


def _group(task: Task, table: pq.ParquetFile, group: int, names: list[str], first: int) -> Generator[Item, None, int]:
    """The documents of a row group; returns the number of the record behind it."""
    told = table.metadata.row_group(group)
    number, behind = first, first + min(max(1, told.num_rows), _MOST_ROWS)
    rows = max(1, min(1024, _AT_ONCE * max(1, told.num_rows) // max(1, told.total_byte_size)))
    offset = 0
    try:
        for place, batch in enumerate(table.iter_batches(rows, row_groups=[group], columns=names)):
            if place == 0:
                offset = min(max(0, _offset(table.metadata, group, names[0])), task.size)
            yield from _documents(batch, task, number, offset)
            number += len(batch)
    except _ERRORS as error:
        detail = f"row group {group}, from record {number} on: {_line(error)}"
        yield task.bad(number, max(0, told.total_byte_size), "bad-parquet", detail, offset)
        return max(number, behind)
    return number


def _offset(metadata: pq.FileMetaData, group: int, name: str) -> int:
    """The byte at which a column of a row group begins.

    Only to be asked once something of it was read: asked for damaged metadata, pyarrow ends the process.
    """
    paths = (metadata.schema.column(leaf).path.partition(".")[0] for leaf in range(metadata.num_columns))
    column = metadata.row_group(group).column(list(paths).index(name))
    return int(column.dictionary_page_offset or column.data_page_offset)


def read_arrow(task: Task, start: Mark) -> Iterator[Item]:
    """The documents of an Arrow file or stream, as a Hugging Face dataset is kept; a mark's offset is a batch's
    number."""
    number = start.record
    try:
        with task.file() as file:
            is_file = file.read(8) == b"ARROW1\0\0"
            file.seek(0)
            if is_file:
                table = pa.ipc.open_file(file)
                for place in range(start.offset, table.num_record_batches):
                    yield Mark(place, number)
                    try:
                        batch = table.get_batch(place)
                        batch.validate(full=True)
                    except _ERRORS as error:  # the next one stands elsewhere
                        yield task.bad(number, 0, "bad-arrow", f"batch {place} of records: {_line(error)}")
                        number += 1
                        continue
                    yield from _documents(batch.select(_useful(batch.schema, task)), task, number, 0)
                    number += len(batch)
            else:
                batches = iter(pa.ipc.open_stream(file))
                for _ in range(start.offset):
                    next(batches)
                for place, batch in enumerate(batches, start.offset):
                    yield Mark(place, number)
                    batch.validate(full=True)
                    yield from _documents(batch.select(_useful(batch.schema, task)), task, number, 0)
                    number += len(batch)
    except NoTextError as error:
        yield task.bad(1, task.size, "no-text", str(error))
        return
    except (*_ERRORS, StopIteration) as error:
        yield task.bad(number, task.size, "bad-arrow", f"not Arrow: {_line(error)}")
        return
    if number == 1:
        yield task.bad(1, task.size, "empty", "no records")


def _useful(schema: pa.Schema, task: Task) -> list[str]:
    """The columns that matter. Raises NoTextError where there is none with text."""
    names = [*task.config.text_fields, *LICENCE_FIELDS, *DATE_FIELDS, *ADDRESS_FIELDS, *MEDIA_FIELDS]
    there = [name for name in schema.names if name in names and schema.names.count(name) == 1]
    if not set(there) & set(task.config.text_fields):
        some = ", ".join(schema.names[:12])
        raise NoTextError(f"no column {' or '.join(task.config.text_fields)}; there are {some} (text_fields)")
    return there


def _documents(batch: pa.RecordBatch, task: Task, number: int, offset: int) -> Iterator[Item]:
    for row in range(len(batch)):
        try:
            record = {name: _value(batch, name, row) for name in batch.schema.names}
        except (ValueError, OverflowError, pa.ArrowException) as error:
            yield task.bad(number + row, 0, "bad-record", f"record {number + row}: {_line(error)}", offset)
            continue
        yield from_record(record, task, number + row, offset, 0)


def _value(batch: pa.RecordBatch, name: str, row: int) -> Any:
    try:
        return batch.column(name)[row].as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        if name in DATE_FIELDS:  # a date that Python cannot hold is no reason to lose a text
            return None
        raise


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
