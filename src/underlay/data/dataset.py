"""A dataset on disk: memory-mapped tokens, and a table that leads from any token to its document.

Each split is a folder with `tokens.bin` (little-endian unsigned integers: BOS document EOS BOS document EOS ...) and
`documents.parquet` (one row a document, with its place in the tokens and its place in its source). Where a dataset was
packed from several corpora, each is a part: a stretch of the tokens.
"""

import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from underlay.config import Config, parse
from underlay.errors import UserError

Split = Literal["train", "heldout"]
DATASET, TOKENS, DOCUMENTS = "dataset.json", "tokens.bin", "documents.parquet"


class DatasetInfo(Config):
    """What `dataset.json` holds."""

    format: int = 1
    dtype: Literal["uint16", "uint32"]
    vocabulary: int
    """Number of token ids."""
    tokens: dict[Split, int]
    documents: dict[Split, int]
    bytes: dict[Split, int]
    """UTF-8 bytes of the documents."""
    parts: dict[str, dict[Split, int]] = Field(default={})
    """Tokens of each corpus, where there are several; they lie one after another in this order."""


@dataclass(frozen=True, slots=True)
class PackedDocument:
    """A document's place in the tokens and in its source."""

    id: str
    start: int
    """Position of its BOS."""
    end: int
    """Position behind its EOS."""
    source: str
    first_line: int
    last_line: int
    licence: str


class Dataset:
    """The tokens of one split and the documents they came from."""

    def __init__(self, folder: Path, split: Split = "train") -> None:
        """Open a split. Raises UserError where files are missing or do not fit together."""
        try:
            values: Any = json.loads((folder / DATASET).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / DATASET}: cannot be read; is this a dataset?") from error
        self.info = parse(DatasetInfo, values, str(folder / DATASET))
        self.split = split
        path = folder / split / TOKENS
        dtype = np.dtype(self.info.dtype).newbyteorder("<")
        size = dtype.itemsize * self.info.tokens[split]
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(f"{path}: missing, or not the {size} bytes that {DATASET} promises")
        self.tokens: np.ndarray[Any, np.dtype[Any]] = np.memmap(path, dtype, mode="r")
        self._table = pq.read_table(folder / split / DOCUMENTS)
        self.starts: np.ndarray[Any, np.dtype[np.int64]] = self._table.column("start").to_numpy()
        self.ends: np.ndarray[Any, np.dtype[np.int64]] = self._table.column("end").to_numpy()
        self.ids: list[str] = self._table.column("id").to_pylist()
        sizes = [part[split] for part in self.info.parts.values()]
        if sizes and sum(sizes) != len(self):
            raise UserError(f"{folder / DATASET}: the parts of {split} hold {sum(sizes)} tokens, not {len(self)}")
        edges = list(accumulate(sizes, initial=0))
        self.parts: dict[str, range] = dict(zip(self.info.parts, map(range, edges, edges[1:]), strict=True))
        """The tokens of each corpus, by its name in `pack.corpora`; empty where there was one corpus without a name."""

    def __len__(self) -> int:
        """Number of tokens."""
        return self.info.tokens[self.split]

    def number_at(self, position: int) -> int:
        """The row of the document that holds the token at `position`."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def numbers_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """`number_at` for many positions, of any shape."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def inside(self, tokens: range) -> slice:
        """The rows of the documents that start in a stretch of tokens."""
        return slice(*np.searchsorted(self.starts, (tokens.start, tokens.stop)).tolist())

    def part_at(self, position: int) -> str | None:
        """The part that holds the token at `position`, where the dataset has parts."""
        return next((name for name, tokens in self.parts.items() if position in tokens), None)

    def document(self, number: int) -> PackedDocument:
        """The document in row `number` of the table."""
        return PackedDocument(**self._table.slice(number, 1).to_pylist()[0])

    def document_at(self, position: int) -> PackedDocument:
        """The document that holds the token at `position`."""
        return self.document(self.number_at(position))
