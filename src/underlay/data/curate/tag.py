"""Tag: look at every document once, and write what was found beside it.

Documents are worked on in stretches of some megabytes, each by itself, so that many processes can share the work and
the result does not depend on how many there are.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from underlay.data.corpus import Corpus, Unit
from underlay.data.curate.attributes import ATTRIBUTES, TAGS, Attributes
from underlay.data.curate.classifier import Classifier
from underlay.data.curate.engine import Engine, Local
from underlay.data.curate.taggers import TAGGERS, TagConfig, Tagger, TaggerName
from underlay.data.curate.texts import Texts
from underlay.progress import Progress, silent


def tag(
    corpus: Corpus, config: TagConfig, folder: Path, progress: Progress = silent, engine: Engine | None = None
) -> Attributes:
    """Write the attributes of a corpus into `folder`."""
    (folder / ATTRIBUTES).mkdir(parents=True)
    units = corpus.units()
    total, done, size = len(corpus), 0, 0
    file: pq.ParquetWriter | None = None
    shard = -1
    tables = (engine or Local()).map(Tagging(corpus.folder, config), units)
    for unit, (table, read) in zip(units, tables, strict=True):
        if unit.shard != shard:
            if file:
                file.close()
            shard = unit.shard
            path = folder / ATTRIBUTES / f"{shard:05d}.parquet"
            file = pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=_repeated(table.schema))
        assert file
        file.write_table(table, row_group_size=max(1, len(table)))
        done += unit.documents
        size += read
        progress(done, total, read=f"{size / 1e6:.1f} MB")
    if file:
        file.close()
    # Of a classifier its content belongs to the result, not where it lies.
    known = {name: Classifier.identity(Path(where)) for name, where in config.classifiers.items()}
    said = config.model_dump(mode="json", include={*TagConfig.model_fields}) | {"classifiers": known}
    (folder / TAGS).write_text(json.dumps(said, indent=2) + "\n", "utf-8")
    return Attributes(folder)


def _repeated(schema: pa.Schema) -> list[str]:
    """The columns worth a dictionary: words, of which there are few. Figures differ, and bands all do."""
    return [field.name for field in schema if pa.types.is_string(field.type) and field.name != "id"]


@dataclass(frozen=True)
class Tagging:
    """Begins work in a process: returns what tags one stretch of a corpus."""

    folder: Path
    config: TagConfig

    def __call__(self) -> Callable[[Unit], tuple[pa.Table, int]]:
        """Open the corpus and make the taggers ready."""
        corpus = Corpus(self.folder)
        taggers = {name: TAGGERS[name](self.config) for name in self.config.taggers}

        def tagged(unit: Unit) -> tuple[pa.Table, int]:
            rows = corpus.table(unit, ["id", "text"])
            texts = Texts(rows.column("text"))
            return found(texts, taggers).add_column(0, "id", rows.column("id")), len(texts.bytes)

        return tagged


def found(texts: Texts, taggers: Mapping[TaggerName, Tagger]) -> pa.Table:
    """The attributes of a batch of texts, a row each."""
    columns = {}
    for name, tagger in taggers.items():
        values = tagger(texts)
        for field, kind in tagger.fields.items():
            columns[f"{name}.{field}"] = pa.array(values[field], kind)
    return pa.table(columns)
