"""Taggers: each looks at texts and writes attributes of them; none of them decides anything.

An attribute is called by its tagger and its own name, `gopher.words`. A new tagger is a class with `fields`, called
with a batch of texts, and a line in `TAGGERS`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from underlay.config import Config
from underlay.data.curate.redact import find
from underlay.data.curate.terms import Terms
from underlay.data.curate.texts import Texts
from underlay.kernels.filters import Batch
from underlay.kernels.gopher import GOPHER
from underlay.kernels.lines import C4, FINEWEB, TEXT
from underlay.kernels.minhash import bands, functions

TaggerName = Literal["text", "gopher", "c4", "fineweb", "minhash", "privacy", "terms"]
SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())]))
"""Stretches of a text in code points, and what stands there."""


class MinHashConfig(Config):
    """How texts are compared for being nearly the same."""

    bands: int = Field(default=14, ge=1, le=256)
    """Texts that share one band are candidates: more bands find less alike ones."""
    rows: int = Field(default=8, ge=1, le=64)
    """Hash functions a band: more rows find only more alike ones."""
    shingle: int = Field(default=5, ge=1, le=50)
    """Words that are compared at once."""


class TagConfig(Config):
    """Which attributes of documents are found, and how."""

    taggers: tuple[TaggerName, ...] = Field(default=("text", "gopher", "minhash", "privacy", "terms"), min_length=1)
    """`text` (size, lines, letters), `gopher`, `c4` and `fineweb` (what those corpora's filters measure), `minhash`
    (for near-duplicates), `privacy` (addresses, numbers, secrets), `terms` (English words for women, men, regions)."""
    clean_lines: bool = False
    """Whether `fineweb` and `minhash` look at the lines that C4's rules keep instead of at all, as FineWeb's do. For
    web pages."""
    minhash: MinHashConfig = MinHashConfig()
    """How near-duplicates are found."""


class Tagger(Protocol):
    """Finds attributes of texts."""

    @property
    def fields(self) -> Mapping[str, pa.DataType]:
        """Their types, by their names within the tagger."""

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        """A column for each field, as long as there are texts."""


class _Measured:
    """Columns of figures that a kernel finds."""

    def __init__(self, names: tuple[str, ...], measure: Callable[[Batch], NDArray[np.float64]]) -> None:
        self.fields = dict.fromkeys(names, pa.float32())
        self._measure = measure

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        figures = self._measure(texts.batch).astype(np.float32)
        return dict(zip(self.fields, figures.T, strict=True))


class _Text:
    """Figures that make sense for any text, and its size in bytes."""

    fields: Mapping[str, pa.DataType] = {**dict.fromkeys(TEXT, pa.float32()), "bytes": pa.int64()}

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        figures = texts.batch.plain().astype(np.float32)
        return {**dict(zip(TEXT, figures.T, strict=True)), "bytes": np.diff(texts.offsets)}


class _MinHash:
    """Bands of signatures, a column each: documents that share one are alike."""

    def __init__(self, config: MinHashConfig, cleaned: bool) -> None:
        self.fields = {f"band_{number:02d}": pa.uint64() for number in range(config.bands)}
        self._functions = functions(config.bands * config.rows)
        self._config, self._cleaned = config, cleaned

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        signatures = texts.batch.signatures(self._functions, self._config.shingle, self._cleaned)
        return dict(zip(self.fields, bands(signatures, self._config.rows).T, strict=True))


class _Privacy:
    """Where addresses, numbers and secrets stand, and how many."""

    fields: Mapping[str, pa.DataType] = {"found": pa.int32(), "spans": SPANS}

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        spans = [find(text) for text in texts.strings]
        return {
            "found": [len(found) for found in spans],
            "spans": [[one._asdict() for one in found] for found in spans],
        }


TAGGERS: Mapping[TaggerName, Callable[[TagConfig], Tagger]] = {
    "text": lambda _: _Text(),
    "gopher": lambda _: _Measured(GOPHER, Batch.gopher),
    "c4": lambda _: _Measured(C4, lambda batch: batch.cleaned.figures),
    "fineweb": lambda config: _Measured(FINEWEB, lambda batch: batch.fineweb(config.clean_lines)),
    "minhash": lambda config: _MinHash(config.minhash, config.clean_lines),
    "privacy": lambda _: _Privacy(),
    "terms": lambda _: Terms(),
}
assert set(TAGGERS) == set(get_args(TaggerName))
