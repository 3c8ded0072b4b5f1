"""Attributes of a corpus's documents: a table beside them, row by row, in Parquet files like theirs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from underlay.config import parse
from underlay.data.corpus import Corpus, Unit
from underlay.data.curate.taggers import TagConfig
from underlay.errors import UserError

ATTRIBUTES, TAGS = "attributes", "tags.json"


class Attributes:
    """What taggers have found."""

    def __init__(self, folder: Path) -> None:
        """Open attributes. Raises UserError where they are missing or damaged."""
        self.folder = folder
        try:
            self.config = parse(TagConfig, json.loads((folder / TAGS).read_text("utf-8")), str(folder / TAGS))
            self._files = [pq.ParquetFile(path) for path in sorted((folder / ATTRIBUTES).glob("*.parquet"))]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{folder}: attributes cannot be read: {str(error).splitlines()[0]}") from error
        if not self._files:
            raise UserError(f"{folder}: no attributes here")
        schema = self._files[0].schema_arrow
        self.names = [field.name for field in schema if field.name != "id"]
        self.figures = {field.name for field in schema if not pa.types.is_list(field.type) and field.name != "id"}
        """Those that a rule can ask for."""

    def belong_to(self, corpus: Corpus) -> None:
        """Raise UserError where these are not the attributes of this corpus."""
        own = [(file.metadata.num_rows, file.num_row_groups) for file in self._files]
        theirs = [(file.num_rows, file.num_row_groups) for file in map(pq.read_metadata, corpus.shards)]
        if own != theirs:
            raise UserError(f"{self.folder}: not the attributes of {corpus.folder}; tag that corpus")

    def table(self, unit: Unit, names: Sequence[str]) -> pa.Table:
        """Some attributes of one stretch of the corpus, in the order of its documents."""
        return self._files[unit.shard].read_row_group(unit.group, columns=list(names))

    def columns(self, unit: Unit, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """The same as arrays, for rules."""
        return as_arrays(self.table(unit, names))

    def column(self, name: str) -> NDArray[Any]:
        """One attribute of all documents, (n,)."""
        return np.concatenate([file.read([name]).column(0).to_numpy() for file in self._files])


def as_arrays(table: pa.Table) -> Mapping[str, NDArray[Any]]:
    """Columns as numpy arrays; words as arrays of fixed width, which compare quickly."""
    arrays = {name: table.column(name).to_numpy() for name in table.column_names}
    return {name: array.astype(str) if array.dtype == object else array for name, array in arrays.items()}
