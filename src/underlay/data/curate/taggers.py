"""Taggers: each looks at texts and writes attributes of them; none of them decides anything.

An attribute is called by its tagger and its own name, `gopher.words`. A new tagger is a class with `fields`, called
with a batch of texts, and a line in `TAGGERS`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from underlay.config import Config
from underlay.data.curate.classifier import Classifier
from underlay.data.curate.contamination import Contamination, ContaminationConfig
from underlay.data.curate.harm import HarmConfig, WordLists
from underlay.data.curate.language import Languages
from underlay.data.curate.privacy import Finder, PrivacyConfig
from underlay.data.curate.terms import Terms
from underlay.data.curate.texts import Texts
from underlay.kernels.filters import Batch
from underlay.kernels.gopher import GOPHER
from underlay.kernels.lines import C4, FINEWEB, TEXT
from underlay.kernels.minhash import bands, functions

TaggerName = Literal[
    "text", "gopher", "c4", "fineweb", "minhash", "privacy", "terms", "language", "harm", "classifier", "contamination"
]
ClassifierName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,49}$")]
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
    (for near-duplicates), `privacy` (addresses, numbers, secrets), `terms` (English words for women, men, regions),
    `language`, `harm` (words of your lists), `classifier` (scores of classifiers that you have trained),
    `contamination` (what stands in benchmarks)."""
    clean_lines: bool = False
    """Whether `fineweb` and `minhash` look at the lines that C4's rules keep instead of at all, as FineWeb's do. For
    web pages."""
    minhash: MinHashConfig = MinHashConfig()
    """How near-duplicates are found."""
    contamination: ContaminationConfig = ContaminationConfig()
    """Which benchmarks documents are compared with."""
    privacy: PrivacyConfig = PrivacyConfig()
    """What the tagger `privacy` looks for."""
    harm: HarmConfig = HarmConfig()
    """What the tagger `harm` looks for."""
    classifiers: dict[ClassifierName, str] = Field(default={})
    """Classifiers by names that you choose: `{toxicity: toxicity}` finds `classifier.toxicity`."""

    @model_validator(mode="after")
    def _asked_for(self) -> Self:
        """What is set is looked for, and what is looked for is set."""
        if self.classifiers and not {"classifier", "harm"} & {*self.taggers}:
            raise ValueError("classifiers: add classifier to the taggers")
        if "classifier" in self.taggers and not self.classifiers:
            raise ValueError("the tagger classifier needs classifiers")
        if "harm" in self.taggers and not self.harm.words and self.harm.classifier is None:
            raise ValueError("the tagger harm needs harm.words or harm.classifier")
        if "harm" not in self.taggers and (self.harm.words or self.harm.classifier):
            raise ValueError("harm: add harm to the taggers")
        if self.harm.classifier is not None and self.harm.classifier not in self.classifiers:
            raise ValueError(f"harm.classifier: {self.harm.classifier} is not one of classifiers")
        return self


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

    fields: Mapping[str, pa.DataType] = {"found": pa.int32(), "kinds": pa.list_(pa.string()), "spans": SPANS}

    def __init__(self, config: PrivacyConfig) -> None:
        self._find = Finder(config)

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        spans = self._find(texts)
        return {
            "found": [len(found) for found in spans],
            "kinds": [sorted({span.kind for span in found}) for found in spans],
            "spans": [[span._asdict() for span in found] for found in spans],
        }


class _Language:
    """Which language a text is written in, as an ISO 639 code, and the probability of that."""

    fields: Mapping[str, pa.DataType] = {"code": pa.string(), "score": pa.float32()}

    def __init__(self) -> None:
        self._languages = Languages()

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        return dict(zip(self.fields, self._languages(texts), strict=True))


class _Classifier:
    """The scores of classifiers, a column each, from 0 to 1."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._classifiers = {name: Classifier.load(Path(folder)) for name, folder in sorted(folders.items())}
        self.fields: Mapping[str, pa.DataType] = dict.fromkeys(self._classifiers, pa.float32())

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        return {name: classifier.score(texts) for name, classifier in self._classifiers.items()}


class _Harm:
    """How many words of lists a text holds, and the score of one of the classifiers."""

    def __init__(self, config: TagConfig) -> None:
        self._lists = WordLists(config.harm.words) if config.harm.words else None
        name = config.harm.classifier
        self._classifier = Classifier.load(Path(config.classifiers[name])) if name is not None else None
        words = {"words": pa.int32()} if self._lists else {}
        self.fields: Mapping[str, pa.DataType] = words | ({"score": pa.float32()} if self._classifier else {})

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        if self._lists:
            found["words"] = self._lists.count(texts)
        if self._classifier:
            found["score"] = self._classifier.score(texts)
        return found


TAGGERS: Mapping[TaggerName, Callable[[TagConfig], Tagger]] = {
    "text": lambda _: _Text(),
    "gopher": lambda _: _Measured(GOPHER, Batch.gopher),
    "c4": lambda _: _Measured(C4, lambda batch: batch.cleaned.figures),
    "fineweb": lambda config: _Measured(FINEWEB, lambda batch: batch.fineweb(config.clean_lines)),
    "minhash": lambda config: _MinHash(config.minhash, config.clean_lines),
    "privacy": lambda config: _Privacy(config.privacy),
    "terms": lambda _: Terms(),
    "language": lambda _: _Language(),
    "harm": _Harm,
    "classifier": lambda config: _Classifier(config.classifiers),
    "contamination": lambda config: Contamination(config.contamination),
}
assert set(TAGGERS) == set(get_args(TaggerName))
