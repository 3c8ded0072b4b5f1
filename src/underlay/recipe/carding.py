"""Data cards: of a curated corpus, as the last part of its stage; of several parts that were mixed, when asked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from underlay.config import parse
from underlay.data import Attributes, Corpus, CurateConfig
from underlay.data.corpus import LEDGER
from underlay.data.curate.decide import Verdicts, decide
from underlay.data.curate.summary import Summary, summarize, summarize_gathered
from underlay.errors import UserError
from underlay.evaluate.card import CardData, write_card
from underlay.evaluate.mixcard import MixData, PartData, write_mix_card
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


def card_of(library: Library, references: Sequence[str], folder: Path) -> tuple[Path, Path]:
    """Write one card of all that is named into a folder, and tell where its page and its text are.

    references: corpora; or a dataset, or a model that was pretrained on one: then its parts, with how much of each is
    read. Raises UserError where something is not there any more, or is none of these.
    """
    asked = [library.find(reference) for reference in references]
    first = asked[0]
    if first.manifest.kind == "corpus" or len(asked) > 1:
        data = _of_corpora(library, [library.find(reference, "corpus") for reference in references])
    elif first.manifest.kind == "dataset":
        data = _of_dataset(library, first)
    elif first.manifest.verb == "pretrain":
        data = _of_run(library, first)
    else:
        raise UserError(f"{first.reference}: a card is of corpora, a dataset, or a model that was pretrained")
    folder.mkdir(parents=True, exist_ok=True)
    return write_mix_card(data, folder)


def _of_corpora(library: Library, corpora: Sequence[Artifact]) -> MixData:
    names = [one.manifest.name for one in corpora]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"corpus:{twice[0]} is named twice; name each corpus once")
    return MixData(" and ".join(names), "", tuple(_part(library, one.manifest.name, one) for one in corpora))


def _of_dataset(library: Library, dataset: Artifact) -> MixData:
    roles = library.parents(dataset)
    corpora = {role.partition(".")[2]: one for role, one in roles.items() if role.partition(".")[0] in _CORPORA}
    parts = []
    for name, corpus in sorted(corpora.items()):
        if corpus is None:
            raise UserError(f"{dataset.reference}: the corpus {name} it was packed from is not in the library")
        counted = dataset.manifest.metrics
        tokens = counted.get("parts", {}).get(name) if name else counted.get("tokens")
        if tokens is None:
            raise UserError(f"{dataset.reference}: does not say how many tokens are of {name or 'it'}; pack it again")
        parts.append(replace(_part(library, name or corpus.manifest.name, corpus), tokens=tokens["train"]))
    return MixData(dataset.manifest.name, dataset.reference, tuple(parts))


def _of_run(library: Library, model: Artifact) -> MixData:
    packed = _of_dataset(library, library.ancestor(model, "dataset"))
    metrics: Mapping[str, Any] = model.manifest.metrics
    read = metrics.get("parts", {})
    parts = []
    for part in packed.parts:
        passes = read[part.name]["passes"] if read else metrics["passes"]
        tokens = read[part.name]["tokens"] if read else round((part.tokens or 0) * passes)
        parts.append(replace(part, read=tokens, passes=passes))
    return MixData(model.manifest.name, model.reference, tuple(parts))


_CORPORA = ("corpus", "corpora")


def _part(library: Library, name: str, corpus: Artifact) -> PartData:
    """What stands in a corpus. Documents that were excluded since are not shown."""
    excluded = library.excluded()
    summary = _summary(library, corpus)
    kept = [one for one in summary.samples.get("kept", ()) if one.id not in excluded]
    return PartData(name, corpus.reference, sources_of(library, corpus), replace(summary, samples={"kept": kept}))


def _summary(library: Library, corpus: Artifact) -> Summary:
    opened = Corpus(corpus.folder)
    if corpus.manifest.verb != "curate":
        return summarize_gathered(opened)
    parents = library.parents(corpus)
    raw, attributes = parents.get("corpus"), parents.get("attributes")
    if raw is None or attributes is None:
        raise UserError(f"{corpus.reference}: the corpus or attributes it was curated from are not in the library")
    before, found = Corpus(raw.folder), Attributes(attributes.folder)
    config = parse(CurateConfig, corpus.manifest.config, corpus.reference)
    return summarize(before, found, decide(before, found, config, _left_out(opened)), opened)


def _left_out(corpus: Corpus) -> Collection[str]:
    """The ids that were excluded when a corpus was curated."""
    ids: set[str] = set()
    for rows in pq.ParquetFile(corpus.folder / LEDGER).iter_batches(columns=["id", "reason"]):
        ids.update(rows.filter(pc.equal(rows.column("reason"), "excluded")).column("id").to_pylist())
    return ids
