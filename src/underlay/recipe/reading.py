"""From samples of a run, by their numbers, to the documents that stand in them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from underlay.adapt.examples import Example, example_id
from underlay.adapt.lesson import ExampleSource
from underlay.data import Rows


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
    """How many of its tokens stood in the step; for examples, how often it was read."""
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


def read_in_examples(source: ExampleSource, examples: Sequence[Example], samples: range) -> Iterator[Read]:
    """The examples in samples of a run, those first that were read most often."""
    read = Counter(number for sample in samples for number in source.examples(sample))
    for number, count in read.most_common():
        found = examples[number]
        id_ = found.document or example_id(found.body)
        yield Read(id_, found.source, found.line, found.line, found.licence, count)
