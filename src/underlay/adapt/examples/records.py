"""Records out of files: JSON, JSONL, CSV and TSV, Parquet, and CoNLL's columns, compressed or not.

Nothing in these files is trusted. Sizes are bounded before memory is taken, compressed files unpack within limits, and
nothing is unpickled. What is wrong with a file is a UserError that names it; what is wrong with a record comes out as
`Unusable` in the record's place.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from underlay.adapt.examples.config import ExamplesConfig, Layout
from underlay.adapt.examples.unusable import Unusable
from underlay.data.gather.kinds import Packing
from underlay.data.gather.opening import Limits, Stream
from underlay.data.gather.readers.table import TooLong, next_row
from underlay.data.gather.sources import File
from underlay.errors import UserError

Fields = dict[str, Any]
Numbered = tuple[int, Fields | Unusable]
"""A line, or the number of a record, from 1; and what stands there."""

_LIMITS = Limits(unpacked=1 << 36, ratio=500.0)
_ROWS = 256
_AT_ONCE = 16 << 20
_HEADER_BYTES = 1 << 20
_COMMENT = re.compile(r"#\s*\w+\s*=|#\s*\w+\s*$")
_DAMAGED = (pa.ArrowException, OSError, ValueError, OverflowError, NotImplementedError, MemoryError)
"""What pyarrow raises for damaged files."""
_TOO_LARGE = "a record larger than max_record_bytes"
_NO_OBJECT = "a record that is no object of named values"


def records(file: File, layout: Layout, packing: Packing | None, config: ExamplesConfig) -> Iterator[Numbered]:
    """The records of a file in their order. Raises UserError where it cannot be read to its end."""
    if layout == "parquet":
        if packing:
            raise UserError(f"{file.name}: Parquet is compressed already; unpack the {packing} around it")
        yield from _parquet(file, config)
        return
    delimiter = b"\t" if layout == "tsv" else b","
    if layout == "csv":
        with Stream(file.open(), packing, _LIMITS) as stream:
            delimiter = max((b",", b";", b"\t"), key=stream.line(_HEADER_BYTES).count)
    with Stream(file.open(), packing, _LIMITS) as stream:
        if layout in ("csv", "tsv"):
            yield from _table(file.name, stream, delimiter, layout == "csv", config)
        else:
            yield from _READERS[layout](file.name, stream, config)
        if stream.broken:
            raise UserError(f"{file.name}: {stream.broken.detail}; bring the file again")


def _jsonl(name: str, stream: Stream, config: ExamplesConfig) -> Iterator[Numbered]:
    del name
    for number, line in _lines(stream, config.max_record_bytes):
        if isinstance(line, Unusable):
            yield number, line
        elif line.strip():
            yield number, _object(line)


def _object(text: str) -> Fields | Unusable:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unusable("a line that is not JSON", str(error))
    return value if isinstance(value, dict) else Unusable(_NO_OBJECT)


def _json(name: str, stream: Stream, config: ExamplesConfig) -> Iterator[Numbered]:
    data = stream.read(config.max_file_bytes + 1)
    if len(data) > config.max_file_bytes:
        raise UserError(f"{name}: larger than {config.max_file_bytes} bytes (max_file_bytes); turn it into JSONL")
    if stream.broken:
        return
    try:
        value = json.loads(data.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise UserError(f"{name}: nested too deeply") from error
    except ValueError as error:
        hint = "; is it JSONL? Then say `layout: jsonl`" if str(error).startswith("Extra data") else ""
        raise UserError(f"{name}: not JSON: {error}{hint}") from error
    large = len(data) > config.max_record_bytes
    for number, record in enumerate(_array(name, value), 1):
        if not isinstance(record, dict):
            yield number, Unusable(_NO_OBJECT)
        elif large and len(json.dumps(record, ensure_ascii=False)) > config.max_record_bytes:
            yield number, Unusable(_TOO_LARGE)
        else:
            yield number, record


def _array(name: str, value: Any) -> Iterator[Any]:
    """The records of a JSON value: an array, the only one that an object holds, or SQuAD's articles."""
    if isinstance(value, dict):
        arrays = [key for key, one in value.items() if isinstance(one, list)]
        if len(arrays) != 1:
            found = f"the arrays {', '.join(map(repr, arrays[:6]))}" if arrays else "no array"
            raise UserError(f"{name}: an object with {found}; expected an array of records, or an object with one")
        value = value[arrays[0]]
    if not isinstance(value, list):
        raise UserError(f"{name}: not an array of records")
    for record in value:
        if isinstance(record, dict) and isinstance(record.get("paragraphs"), list):
            yield from _article(record["paragraphs"])
        else:
            yield record


def _article(paragraphs: list[Any]) -> Iterator[Any]:
    """The questions of an article (arXiv:1606.05250), each with its paragraph."""
    for paragraph in paragraphs:
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list):
            yield None
            continue
        for question in questions:
            yield {"context": paragraph.get("context"), **question} if isinstance(question, dict) else None


def _table(name: str, stream: Stream, delimiter: bytes, quoted: bool, config: ExamplesConfig) -> Iterator[Numbered]:
    """Rows by the names in the first one; an empty field is an empty text. Lines within quotes are no rows."""
    try:
        header = next_row(stream, delimiter, quoted, _HEADER_BYTES) or []
    except TooLong as error:
        raise UserError(f"{name}: its first row, of the columns' names, is larger than 1 MiB") from error
    names = [cell.decode("utf-8", "replace").removeprefix("\ufeff").strip() for cell in header]
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise UserError(f"{name}: two columns are called {twice!r}; rename one")
    number = 1
    while True:
        number += 1
        try:
            row = next_row(stream, delimiter, quoted, config.max_record_bytes)
        except TooLong:
            yield number, Unusable(_TOO_LARGE)
            continue
        if row is None:
            return
        if row == [b""]:
            continue
        cells = [_text(cell) for cell in row]
        if len(cells) != len(names):
            yield number, Unusable("a row with another number of fields than the first", f"{len(cells)}")
        elif bad := next((cell for cell in cells if isinstance(cell, Unusable)), None):
            yield number, bad
        else:
            yield number, dict(zip(names, cells, strict=True))


def _conll(name: str, stream: Stream, config: ExamplesConfig) -> Iterator[Numbered]:
    """Sentences: a word a line, its tag in the last column, an empty line between (aclanthology.org/W03-0419)."""
    del name
    words: list[str] = []
    tags: list[str] = []
    first, size, bad = 0, 0, None
    for number, line in _with_end(_lines(stream, config.max_record_bytes)):
        if isinstance(line, Unusable):
            first, bad = first or number, bad or line
            continue
        cells = [cell for cell in (line.split("\t") if "\t" in line else line.split()) if cell.strip()]
        if cells and cells[0] != "-DOCSTART-":
            if not words and not first and _COMMENT.match(line) and "\t" not in line:
                continue
            first, size = first or number, size + len(line)
            if len(cells) < 2:
                bad = bad or Unusable("a word without a tag", f"line {number}")
            elif size > config.max_record_bytes:
                bad, words, tags = Unusable(_TOO_LARGE), [], []
            else:
                words.append(cells[0].strip())
                tags.append(cells[-1].strip())
        elif first:
            yield first, bad or {"tokens": words, "tags": tags}
            words, tags, first, size, bad = [], [], 0, 0, None


def _with_end(lines: Iterator[tuple[int, str | Unusable]]) -> Iterator[tuple[int, str | Unusable]]:
    yield from lines
    yield 0, ""


def _lines(stream: Stream, most: int) -> Iterator[tuple[int, str | Unusable]]:
    """The lines of a stream by number, without their ends."""
    number = 0
    while line := stream.line(most):
        number += 1
        if len(line) == most and not line.endswith(b"\n"):
            stream.skip_line()
            yield number, Unusable(_TOO_LARGE)
        else:
            text = _text(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            yield number, text.rstrip("\r\n") if isinstance(text, str) else text


def _text(data: bytes) -> str | Unusable:
    if b"\0" in data:
        return Unusable("zero bytes, so no text")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return Unusable("bytes that are not UTF-8", f"{data[error.start]:#04x}")


_READERS: dict[Layout, Callable[[str, Stream, ExamplesConfig], Iterator[Numbered]]] = {
    "json": _json,
    "jsonl": _jsonl,
    "conll": _conll,
}


def _parquet(file: File, config: ExamplesConfig) -> Iterator[Numbered]:
    number = 1
    try:
        with file.open() as opened:
            table = pq.ParquetFile(opened)
            names = _class_names(table.schema_arrow)
            for group in range(table.num_row_groups):
                told = table.metadata.row_group(group)
                rows = max(1, min(_ROWS, _AT_ONCE * max(1, told.num_rows) // max(1, told.total_byte_size)))
                for batch in table.iter_batches(rows, row_groups=[group]):
                    batch.validate(full=True)
                    large = batch.nbytes > config.max_record_bytes
                    for row in range(len(batch)):
                        bad = large and batch.slice(row, 1).nbytes > config.max_record_bytes
                        yield number, Unusable(_TOO_LARGE) if bad else _row(batch, row, names)
                        number += 1
    except _DAMAGED as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file.name}: not Parquet, or damaged: {said}") from error


def _row(batch: pa.RecordBatch, row: int, names: dict[str, list[str]]) -> Fields | Unusable:
    try:
        fields = {name: batch.column(place)[row].as_py() for place, name in enumerate(batch.schema.names)}
    except _DAMAGED as error:
        return Unusable("a value that Python cannot hold", str(error))
    for name, classes in names.items():
        fields[name] = _named(fields[name], classes)
    return fields


def _named(value: Any, classes: list[str]) -> Any:
    """Numbers of classes by their names; -1 stands for none."""
    if isinstance(value, list):
        return [_named(one, classes) for one in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return classes[value] if 0 <= value < len(classes) else None
    return value


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The classes that numbers in a column stand for, where the file tells as Hugging Face's `datasets` does."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        told = {name: _classes(feature) for name, feature in features.items() if name in schema.names}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}  # nothing is told
    return {name: classes for name, classes in told.items() if classes}


def _classes(feature: Any) -> list[str]:
    if isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    if isinstance(feature, list) and feature:
        feature = feature[0]
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
