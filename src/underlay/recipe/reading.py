"""From samples of a run, by their numbers, to the documents that stand in them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from underlay.adapt import Conversations
from underlay.data import Corpus, Rows


@dataclass(frozen=True)
class Read:
    """A document, or a part of one, that was read."""

    document: str
    """Its id."""
    source: str
    first_line: int
    last_line: int
    licence: str
    tokens: int
    """How many of its tokens stood in the step; for conversations, how many conversations came from it."""
    part: str | None = None
    """The part of the dataset that it is in, where there are several."""

    def __str__(self) -> str:
        return f"{self.source}:{self.first_line}-{self.last_line}"


def read_in_rows(rows: Rows, samples: range) -> Iterator[Read]:
    """The documents in rows of a dataset, what most was read of first."""
    tokens: Counter[int] = Counter()
    for sample in samples:
        tokens.update(dict(rows.documents(sample)))
    for number, count in tokens.most_common():
        found = rows.dataset.document(number)
        part = rows.dataset.part_at(found.start)
        yield Read(found.id, found.source, found.first_line, found.last_line, found.licence, count, part)


def read_in_pairs(source: Conversations, corpus: Corpus, samples: range) -> Iterator[Read]:
    """The documents that conversations were taken from, those of most of them first."""
    read = Counter(source.pairs[source.row(sample)].document for sample in samples)
    documents = {document.id: document for document in corpus if document.id in read}
    for id_, count in read.most_common():
        found = documents[id_]
        yield Read(id_, found.source, found.first_line, found.last_line, found.licence, count)
