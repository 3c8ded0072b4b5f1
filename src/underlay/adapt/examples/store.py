"""Examples on disk: one table, a row an example, all of one form."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from underlay.adapt.examples.forms import FORMS, Example, Form
from underlay.errors import UserError

FILE = "examples.parquet"
_AT_ONCE = 1024
"""Rows that are taken out of the table together."""
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("form", pa.string()),
        pa.field("body", pa.string()),
        pa.field("source", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("licence", pa.string()),
        pa.field("document", pa.string()),
    ]
)
_NAMES = {form: name for name, form in FORMS.items()}


def example_id(body: Form) -> str:
    """The hash of what an example says; where it stands does not matter."""
    return hashlib.sha256(_written(body).encode()).hexdigest()


def write_examples(examples: Iterable[Example], folder: Path) -> "Examples":
    """Write examples into an existing folder; of equal ones only the first.

    Raises UserError where there are none, or they are of several forms.
    """
    rows: dict[str, dict[str, Any]] = {}
    first: Example | None = None
    for example in examples:
        first = first or example
        if type(example.body) is not type(first.body):
            raise UserError(
                f"{example.source}:{example.line} is a {_NAMES[type(example.body)]}, {first.source}:{first.line} "
                f"a {_NAMES[type(first.body)]}; put them into files of their own"
            )
        row = {"id": example_id(example.body), "form": _NAMES[type(example.body)], "body": _written(example.body)}
        rest = {name: getattr(example, name) for name in ("source", "line", "licence", "document")}
        rows.setdefault(row["id"], row | rest)
    if not rows:
        raise UserError("there are no examples")
    pq.write_table(pa.Table.from_pylist(list(rows.values()), _SCHEMA), folder / FILE, compression="zstd")
    return Examples(folder)


class Examples:
    """A sequence of examples, read as they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the folder holds none, or they are damaged."""
        path = folder / FILE
        try:
            self._table = pq.read_table(path, schema=_SCHEMA)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; are these examples?") from error
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}") from error
        names = set(self._table.column("form").unique().to_pylist())
        if len(names) != 1 or not names <= FORMS.keys():
            raise UserError(f"{path}: damaged: its examples are of the forms {sorted(map(str, names))}")
        self.path = path
        self.form: type[Form] = FORMS[names.pop()]
        """What all of them are."""
        self._reader: TypeAdapter[Form] = TypeAdapter(self.form)

    @property
    def name(self) -> str:
        """What their form is called."""
        return _NAMES[self.form]

    @cached_property
    def ids(self) -> list[str]:
        """Hashes of what they say, in their order."""
        ids: list[str] = self._table.column("id").to_pylist()
        return ids

    def sizes(self) -> Iterator[tuple[str, int]]:
        """The licence of each, and how many bytes what it says has on disk."""
        rows = zip(self._table.column("licence").to_pylist(), self._table.column("body").to_pylist(), strict=True)
        return ((licence, len(body.encode())) for licence, body in rows)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> Example:
        return self._example(index, self._table.slice(index, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Example]:
        rows = (row for batch in self._table.to_batches(max_chunksize=_AT_ONCE) for row in batch.to_pylist())
        return (self._example(index, row) for index, row in enumerate(rows))

    def _example(self, index: int, row: dict[str, Any]) -> Example:
        try:
            body = self._reader.validate_json(row["body"])
        except ValidationError as error:
            raise UserError(f"{self.path}: damaged: example {index} is no {self.name}") from error
        return Example(body, row["source"], row["line"], row["licence"], row["document"])


def _written(body: Form) -> str:
    return json.dumps(asdict(body), ensure_ascii=False, sort_keys=True)
