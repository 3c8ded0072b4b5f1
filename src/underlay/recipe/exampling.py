"""The verb `examples`: what a model is adapted by, with the source, line and licence of each example."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from underlay.adapt.examples import Conversation, Example, Examples, fingerprint, read_examples, write_examples
from underlay.adapt.pairs import find_pairs
from underlay.config import Config
from underlay.data import Corpus, Dataset
from underlay.recipe import stages
from underlay.recipe.job import Job
from underlay.text import Message


def make_examples(job: Job) -> None:
    """Read files, take pairs out of a corpus, or do a task with other examples."""
    settings: stages.ExamplesStage = job.settings
    if settings.source:
        reading = read_examples(settings, job.progress)
        if gone := reading.left_out.counts.total():
            job.log(f"{gone:,} records left out; `underlay library show` tells why, and where")
        job.draft.metrics |= {
            "formats": dict(reading.formats),
            "left_out": dict(reading.left_out.counts.most_common()),
            "left_out_first": reading.left_out.first,
            "columns_not_read": sorted(reading.unread),
        }
        found = reading.examples
    elif settings.corpus:
        found = list(_taken(job))[: settings.limit]
    else:
        found = list(Examples(job.folder("examples")))[: settings.limit]
    if settings.task is not None:
        found = [replace(one, body=settings.task.conversation(one, worked=True)) for one in found]
    describe(job, write_examples(found, job.draft.folder), found)


def which_files(settings: Config) -> dict[str, str]:
    """The files that are read, as a hash."""
    assert isinstance(settings, stages.ExamplesStage)
    return {"source_sha256": fingerprint(settings)} if settings.source else {}


def _taken(job: Job) -> Iterator[Example]:
    """Conversations of one question and its answer, each with the document that both stand in."""
    settings: stages.ExamplesStage = job.settings
    heldout = set(Dataset(job.folder("dataset"), "heldout").ids) if settings.dataset else set()
    documents = {one.id: one for one in Corpus(job.folder("corpus")) if one.id not in heldout}
    kind, pairs = find_pairs(documents.values(), settings.pairs)
    job.draft.metrics["pairs_from"] = kind
    for pair in pairs:
        document = documents[pair.document]
        body = Conversation((Message("user", pair.prompt), Message("assistant", pair.answer)))
        yield Example(body, document.source, pair.line, document.licence, document.id)


def describe(job: Job, written: Examples, found: list[Example]) -> None:
    """What a manifest tells; licences count bytes, as those of corpora do."""
    job.draft.metrics |= {"examples": len(written), "form": written.name, "repeated": len(found) - len(written)}
    licences: Counter[str] = Counter()
    for licence, size in written.sizes():
        licences[licence] += size
    job.draft.licences = dict(licences)
