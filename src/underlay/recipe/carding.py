"""The data card of a curated corpus, drawn as the last part of its stage."""

from underlay.data import Attributes, Corpus
from underlay.data.curate.decide import Verdicts
from underlay.data.curate.summary import summarize
from underlay.evaluate.card import CardData, write_card
from underlay.library import Artifact, Library
from underlay.recipe.job import Job


def make_card(job: Job, raw: Corpus, attributes: Attributes, verdicts: Verdicts, corpus: Corpus) -> None:
    """Write the card into the draft."""
    data = CardData(
        name=job.name,
        raw=job.inputs["corpus"].reference,
        sources=sources_of(job.library, job.inputs["corpus"]),
        settings=job.config,
        tagging=attributes.config.model_dump(mode="json"),
        summary=summarize(raw, attributes, verdicts, corpus),
    )
    write_card(data, job.draft.folder)


def sources_of(library: Library, corpus: Artifact) -> tuple[str, ...]:
    """What a corpus was gathered from, in the words of who gathered it."""
    line = [corpus, *library.ancestors(corpus)]
    return tuple(source for one in line if one.manifest.verb == "gather" for source in one.manifest.config["source"])
