"""One document's whole story: where it was read, what was found of it and decided, and what learned from it.

A document is known by its content, so any id that it ever had will do: that of the text as it was gathered, or as
curation changed it. Nothing is kept for this beside what the stages leave anyway: corpora, ledgers, attributes, the
tables of datasets, and manifests, from which the order of training is computed again.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from underlay.adapt.examples import Examples
from underlay.data import Attributes, Corpus, Dataset, Document
from underlay.data.curate.shown import beginning
from underlay.data.dataset import PackedDocument, Split
from underlay.errors import UserError
from underlay.library import Artifact, Exclusion, Library
from underlay.recipe.excluding import SHORT, Touched, touched
from underlay.recipe.steps import rows_read

_LEAST_DIGITS = 4
_COUNTED_SAMPLES = 200_000
"""Of runs that read more rows, how often a document was read is estimated."""
_SPLITS: tuple[Split, ...] = ("train", "heldout")
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Standing:
    """A document in a corpus."""

    corpus: str
    verb: str
    id: str
    source: str
    first_line: int
    last_line: int
    offset: int
    licence: str
    kind: str
    date: str
    media: str
    bytes: int
    beginning: str
    """Of its text, without private data."""


@dataclass(frozen=True)
class Decision:
    """An entry of a ledger that is about the document, or names it."""

    corpus: str
    id: str
    stage: str
    decision: str
    reason: str
    detail: str
    other: str
    """The id it has since, or of the document that stays instead."""
    source: str
    about: bool
    """Whether it is about this document, and not about one that was dropped in its favour."""


@dataclass(frozen=True)
class Figures:
    """What taggers found of it."""

    attributes: str
    corpus: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Packed:
    """A document in a dataset."""

    dataset: str
    split: Split
    id: str
    start: int
    end: int
    """Tokens [start, end)."""
    part: str | None


@dataclass(frozen=True)
class Learned:
    """A model that read it."""

    model: str
    verb: str
    times: float
    """How often: for pretraining, rows with a part of it; for adapting, examples made of it."""
    exact: bool
    """Whether that was counted; else it is about so many."""
    steps: tuple[int, ...]
    """In which steps, where that was counted."""


@dataclass(frozen=True)
class Story:
    """All that a library knows of a document."""

    id: str
    forms: tuple[str, ...]
    """All ids it ever had, from the text as it was gathered to the last change."""
    standings: tuple[Standing, ...]
    decisions: tuple[Decision, ...]
    figures: tuple[Figures, ...]
    datasets: tuple[Packed, ...]
    models: tuple[Learned, ...]
    made_of_it: tuple[tuple[str, str], ...]
    """Every artifact that holds it or was learned from it: reference, why."""
    exclusion: Exclusion | None

    def to_dict(self) -> dict[str, Any]:
        """The story as JSON."""
        exclusion = self.exclusion.model_dump(mode="json") if self.exclusion else None
        return {**{name: value for name, value in vars(self).items() if name != "exclusion"}} | {
            "standings": [asdict(one) for one in self.standings],
            "decisions": [asdict(one) for one in self.decisions],
            "figures": [asdict(one) for one in self.figures],
            "datasets": [asdict(one) for one in self.datasets],
            "models": [asdict(one) for one in self.models],
            "made_of_it": [{"artifact": reference, "why": why} for reference, why in self.made_of_it],
            "exclusion": exclusion,
        }


def tell(library: Library, id_: str) -> Story:
    """The story of the document with this id, or the only one whose id begins so.

    Raises UserError where there is none, or where several begin so.
    """
    whole = resolve(library, id_)
    forms = forms_of(library, whole)
    known = set(forms)
    standings, places = [], []
    for artifact in library.artifacts("corpus"):
        corpus = Corpus(artifact.folder)
        for found, unit, row in corpus.places(known):
            standings.append(_standing(artifact, found, corpus.document(unit, row)))
            places.append((artifact.manifest.hash, artifact.reference, unit, row))
    figures = []
    for artifact in library.artifacts("attributes"):
        parents = {parent.hash for parent in artifact.manifest.parents}
        attributes = Attributes(artifact.folder)
        names = [name for name in attributes.names if name in attributes.figures and not name.startswith("minhash.")]
        for hash_, reference, unit, row in places:
            if hash_ in parents:
                values = attributes.table(unit, names).slice(row, 1).to_pylist()[0]
                figures.append(Figures(artifact.reference, reference, values))
    packed = list(_packed(library, known))
    return Story(
        whole,
        forms,
        tuple(standings),
        tuple(_decisions(library, known)),
        tuple(figures),
        tuple(one for _, one in packed),
        tuple(_learned(library, known, packed)),
        tuple((one.artifact.reference, one.why) for one in touched(library, known)),
        next((one for one in library.exclusions() if known & {one.id, *one.forms}), None),
    )


def resolve(library: Library, id_: str) -> str:
    """The whole id that begins so. Raises UserError where none does, or several do."""
    text = id_.strip().lower()
    if not re.fullmatch(rf"[0-9a-f]{{{_LEAST_DIGITS},32}}", text):
        raise UserError(
            f"{id_!r} is no id of a document: {_LEAST_DIGITS} to 32 hexadecimal digits, as cards and ledgers show them"
        )
    found = {one for ex in library.exclusions() for one in (ex.id, *ex.forms) if one.startswith(text)}
    for artifact in library.artifacts("corpus"):
        corpus = Corpus(artifact.folder)
        found |= {one for one, _, _ in corpus.places([text])}
        found |= {one for e in corpus.entries_about([text]) for one in (e.id, e.other) if one.startswith(text)}
    if not found:
        raise UserError(f"{id_}: no document with such an id in {library.root}")
    if len(found) > 1:
        raise UserError(
            f"{id_}: {len(found)} documents' ids begin so, such as {', '.join(sorted(found)[:3])}; give more digits"
        )
    return found.pop()


def forms_of(library: Library, id_: str) -> tuple[str, ...]:
    """All ids of a document: of what it was made from by changes, its own, and of what changes made of it."""
    earlier = _followed(library, id_, lambda entry: (entry.other, entry.id))
    later = _followed(library, id_, lambda entry: (entry.id, entry.other))
    return (*reversed(earlier), id_, *later)


def _followed(library: Library, id_: str, ends: Any) -> list[str]:
    """Ids that changes lead to, nearest first; `ends` says from where to where an entry leads."""
    found: list[str] = []
    layer = {id_}
    while layer:
        entries = [e for artifact in library.artifacts("corpus") for e in Corpus(artifact.folder).entries_about(layer)]
        leads = [ends(entry) for entry in entries if entry.decision == "change"]
        layer = {end for start, end in leads if start in layer and end not in (id_, *found)}
        found += sorted(layer)
    return found


def alike(library: Library, ids: Collection[str]) -> dict[str, str]:
    """Other documents that were found to be nearly the same as these, by id: where they were read."""
    found: dict[str, str] = {}
    layer = set(ids)
    while layer:
        near: dict[str, str] = {}
        for artifact in library.artifacts("corpus"):
            for entry in Corpus(artifact.folder).entries_about(layer):
                if entry.reason == "near-duplicate":
                    near[entry.id] = entry.source
                    near.setdefault(entry.other, entry.detail)
        layer = near.keys() - found.keys() - set(ids) - {""}
        found |= {id_: near[id_] for id_ in sorted(layer)}
    return found


@dataclass(frozen=True)
class Forgotten:
    """What it takes to forget documents."""

    exclusions: tuple[Exclusion, ...]
    already: tuple[str, ...]
    """Those of the documents that were excluded before."""
    touched: tuple[Touched, ...]
    """What has to be made again."""
    alike: dict[str, str]
    """Other documents that are nearly the same and are not excluded."""


def forget(
    library: Library, ids: Collection[str], reason: str, date: str, with_alike: bool = False, write: bool = True
) -> Forgotten:
    """Exclude documents, in all their forms, from a library, and say what has to be made again without them.

    with_alike: exclude what was found to be nearly the same, too; write: else the exclusion is only worked out. Raises
    UserError where an id is not known.
    """
    excluded = library.excluded()
    wanted = list(dict.fromkeys(resolve(library, id_) for id_ in ids))
    forms = {id_: forms_of(library, id_) for id_ in wanted}
    near = alike(library, {one for all_ in forms.values() for one in all_})
    if with_alike:
        forms |= {id_: forms_of(library, id_) for id_ in near}
        near = {}
    sources = _sources(library, {one for all_ in forms.values() for one in all_})
    new = tuple(
        Exclusion(
            id=id_,
            forms=all_,
            source=next((sources[one] for one in all_ if one in sources), ""),
            date=date,
            reason=reason,
        )
        for id_, all_ in forms.items()
        if not set(all_) <= excluded
    )
    if write and new:
        library.exclude(new)
    everything = {one for all_ in forms.values() for one in all_}
    already = tuple(id_ for id_, all_ in forms.items() if set(all_) <= excluded)
    return Forgotten(new, already, tuple(touched(library, everything)), near)


def _sources(library: Library, ids: Collection[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for artifact in library.artifacts("corpus"):
        corpus = Corpus(artifact.folder)
        for id_, unit, row in corpus.places(ids):
            document = corpus.document(unit, row)
            found.setdefault(id_, f"{document.source}:{document.first_line}")
    return found


def _standing(artifact: Artifact, id_: str, document: Document) -> Standing:
    return Standing(
        artifact.reference,
        artifact.manifest.verb,
        id_,
        document.source,
        document.first_line,
        document.last_line,
        document.offset,
        document.licence,
        document.language,
        document.date,
        document.media,
        len(document.text.encode()),
        beginning(document.text, _SHOWN_CHARACTERS),
    )


def _decisions(library: Library, known: Collection[str]) -> Iterator[Decision]:
    for artifact in library.artifacts("corpus"):
        for e in Corpus(artifact.folder).entries_about(known):
            about = e.id in known
            yield Decision(artifact.reference, e.id, e.stage, e.decision, e.reason, e.detail, e.other, e.source, about)


def _packed(library: Library, known: Collection[str]) -> Iterator[tuple[Artifact, Packed]]:
    for artifact in library.artifacts("dataset"):
        for split in _SPLITS:
            dataset = Dataset(artifact.folder, split)
            for number, id_ in enumerate(dataset.ids):
                if id_ in known:
                    found: PackedDocument = dataset.document(number)
                    part = dataset.part_at(found.start)
                    yield artifact, Packed(artifact.reference, split, id_, found.start, found.end, part)


def _learned(library: Library, known: Collection[str], packed: list[tuple[Artifact, Packed]]) -> Iterator[Learned]:
    """The models that read it: in training rows, or in examples made of it."""
    rows: dict[str, list[tuple[int, int]]] = {}
    heldout = {one.id for _, one in packed if one.split == "heldout"}
    for artifact, one in packed:
        if one.split == "train":
            rows.setdefault(artifact.manifest.hash, []).append((one.start, one.end))
    for model in [*library.artifacts("model"), *library.artifacts("adapter")]:
        parents = {parent.hash for parent in model.manifest.parents}
        if model.manifest.verb == "pretrain":
            for hash_ in parents & rows.keys():
                yield _pretrained(library, model, rows[hash_])
        elif model.manifest.verb == "adapt":
            count = sum(
                example.document in known and example.document not in heldout
                for one in library.artifacts("examples")
                if one.manifest.hash in parents
                for example in Examples(one.folder)
            )
            if count:
                yield Learned(model.reference, "adapt", count, True, ())


def _pretrained(library: Library, model: Artifact, stretches: list[tuple[int, int]]) -> Learned:
    rows, at_once = rows_read(library, model)
    samples = int(model.manifest.metrics["steps"]) * at_once
    if samples > _COUNTED_SAMPLES:
        tokens = sum(end - start for start, end in stretches)
        often = samples / max(1, rows.count) * max(1.0, tokens / rows.context)
        return Learned(model.reference, "pretrain", round(often, 1), False, ())
    there = [
        sample
        for sample in range(samples)
        for piece in rows.pieces(sample)
        if any(start < piece[1] and piece[0] < end for start, end in stretches)
    ]
    steps = sorted({sample // at_once + 1 for sample in there})
    return Learned(model.reference, "pretrain", len(set(there)), True, tuple(steps))


def short(id_: str) -> str:
    """An id as people are shown it."""
    return id_[:SHORT]
