"""What stands in a corpus before and after curation, in figures and samples: what a data card shows.

Corpora are read stretch by stretch, and of what there may be endlessly many (folders, hosts) only the most frequent are
kept in mind, so memory is bounded. Samples are chosen by id, which is a hash: by chance, and always the same.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from underlay.data.corpus import LEDGER, Corpus, Unit
from underlay.data.curate.attributes import Attributes
from underlay.data.curate.decide import STAYS, Verdicts
from underlay.data.curate.shown import beginning
from underlay.data.curate.terms import GENDERED, REGIONAL

UNKNOWN = "unknown"
_REMEMBERED = 50_000
_SAMPLES, _KEPT_SAMPLES = 2, 4
_LARGEST_CLUSTERS = 5
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]/]*\]|[^/?#:\[\]]*)")
"""A web address, and its host; many times as fast as `urlsplit`."""
_COLUMNS = ["source", "licence", "language", "date"]


@dataclass
class Share:
    """How much of what was found, and of what was kept, is of one kind."""

    found: int = 0
    """Documents."""
    kept: int = 0
    found_bytes: int = 0
    kept_bytes: int = 0


@dataclass(frozen=True)
class Drop:
    """What one rule took away."""

    reason: str
    condition: str
    """To stay; empty where it is no rule over attributes."""
    why: str
    """What the reason means, where it is no such rule."""
    documents: int
    bytes: int


@dataclass(frozen=True)
class Sample:
    """A document, or a record that could not be read."""

    id: str
    source: str
    line: int
    figure: str
    """What decided."""
    text: str
    """Its beginning, without private data."""


@dataclass(frozen=True)
class Cluster:
    """Documents that are the same, or nearly."""

    id: str
    """Of the one that stays."""
    source: str
    dropped: int


@dataclass(frozen=True)
class Summary:
    """All that a data card shows of documents."""

    found: Share
    """Of all documents, with those that were dropped before."""
    drops: tuple[Drop, ...]
    """In the order in which rules are asked."""
    changes: dict[str, int]
    """Documents that were changed, by reason."""
    private: dict[str, int]
    """Places masked, by what stood there."""
    sizes: dict[int, Share]
    """Documents of at least 2^k bytes and fewer than twice as many, by k."""
    kinds: dict[str, Share]
    licences: dict[str, Share]
    places: dict[str, Share]
    """Hosts of web addresses, folders of files."""
    years: dict[str, Share]
    languages: dict[str, Share]
    """Natural languages; empty where the tagger `language` did not look."""
    terms: dict[str, Share]
    """How often words of each list stand in the documents; empty where the tagger `terms` did not look."""
    terms_in: Share
    """The documents that were searched for them."""
    copies: dict[str, int]
    """Documents dropped for being like another: `duplicate`, `near-duplicate`."""
    clusters: int
    largest: tuple[Cluster, ...]
    planted: int = 0
    """Documents that are canaries; they are among those kept, and not among those found."""
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """By the reason for which they were dropped; `kept` has those that stay."""


WHY: Mapping[str, str] = {
    "duplicate": "the same text as another document",
    "near-duplicate": "nearly the same text as another document",
    "nothing-left": "every line was cut",
    "excluded": "on the library's list of exclusions",
    "empty": "an empty file",
    "no-text": "nothing to read in it",
    "binary": "not text, though named so",
    "not-utf8": "not UTF-8",
    "unreadable": "could not be read",
    "bad-json": "not JSON",
    "bad-parquet": "not Parquet",
}


def summarize(raw: Corpus, attributes: Attributes, verdicts: Verdicts, curated: Corpus) -> Summary:
    """Count and sample what was found in `raw` and what became of it in `curated`."""
    tallies = {name: _Tally() for name in ("sizes", "kinds", "licences", "places", "years", "languages")}
    whole, terms, terms_in = Share(), {name: Share() for name in (*GENDERED, *REGIONAL)}, Share()
    at = 0
    for unit in raw.units():
        stays = verdicts.codes[at : at + unit.documents] == STAYS
        at += unit.documents
        sizes = _sizes(raw, attributes, unit)
        _count(whole, tallies, raw.table(unit, _COLUMNS), sizes, kept=False)
        codes = _languages(attributes, unit)
        if codes is not None:
            tallies["languages"].add(pa.array(codes), sizes, kept=False)
            tallies["languages"].add(pa.array(codes[stays]), sizes[stays], kept=True)
        _count_terms(terms, terms_in, attributes, unit, stays, sizes, codes)
    for unit in curated.units():
        _count(whole, tallies, curated.table(unit, _COLUMNS), curated.sizes(unit), kept=True)
    before, after = raw.tally(), curated.tally()
    for decision, _, documents, size in before:
        if decision == "drop":
            whole.found += documents
            whole.found_bytes += size
    clusters, largest = _clusters(curated)
    sorted_ = {name: tally.sorted() for name, tally in tallies.items()}
    return Summary(
        found=whole,
        drops=tuple(_drops(before, after, verdicts)),
        changes={reason: documents for decision, reason, documents, _ in after if decision == "change"},
        private=private_data(curated),
        sizes={int(name): share for name, share in sorted(sorted_["sizes"].items(), key=lambda one: int(one[0]))},
        kinds=sorted_["kinds"],
        licences=sorted_["licences"],
        places=sorted_["places"],
        years=dict(sorted(sorted_["years"].items())),
        languages=sorted_["languages"],
        terms=terms if terms_in.found else {},
        terms_in=terms_in,
        copies={reason: n for _, reason, n, _ in after if reason in ("duplicate", "near-duplicate")},
        clusters=clusters,
        largest=largest,
        planted=sum(documents for decision, _, documents, _ in after if decision == "plant"),
        samples=_samples(raw, curated),
    )


def summarize_gathered(corpus: Corpus) -> Summary:
    """Count and sample what stands in a corpus that nobody curated: all that was found is kept."""
    tallies = {name: _Tally() for name in ("sizes", "kinds", "licences", "places", "years")}
    whole = Share()
    for unit in corpus.units():
        rows, sizes = corpus.table(unit, _COLUMNS), corpus.sizes(unit)
        for kept in (False, True):
            _count(whole, tallies, rows, sizes, kept)
    drops = [
        Drop(reason, "", WHY.get(reason, ""), documents, size)
        for decision, reason, documents, size in corpus.tally()
        if decision == "drop"
    ]
    whole.found += sum(drop.documents for drop in drops)
    whole.found_bytes += sum(drop.bytes for drop in drops)
    sorted_ = {name: tally.sorted() for name, tally in tallies.items()}
    return Summary(
        found=whole,
        drops=tuple(drops),
        changes={},
        private={},
        sizes={int(name): share for name, share in sorted(sorted_["sizes"].items(), key=lambda one: int(one[0]))},
        kinds=sorted_["kinds"],
        licences=sorted_["licences"],
        places=sorted_["places"],
        years=dict(sorted(sorted_["years"].items())),
        languages={},
        terms={},
        terms_in=Share(),
        copies={},
        clusters=0,
        largest=(),
        samples={"kept": _kept_samples(corpus)},
    )


def private_data(corpus: Corpus) -> dict[str, int]:
    """Places masked in a corpus, by what stood there, the most frequent first."""
    found: Counter[str] = Counter()
    for rows in pq.ParquetFile(corpus.folder / LEDGER).iter_batches(columns=["decision", "reason", "detail"]):
        changed = pc.equal(rows.column("decision"), "change")
        masked = rows.filter(pc.and_(changed, pc.equal(rows.column("reason"), "private-data")))
        for detail in masked.column("detail").to_pylist():
            for part in detail.split(", "):
                kind, _, count = part.rpartition(" x")
                found[kind] += int(count)
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def place_of(source: str) -> str:
    """Where a document comes from, coarsely: the host of a web address, the folder of a file.

    Of a page in an archive, `crawl.warc.gz#https://example.org/a`, the address is its own.
    """
    if address := _ADDRESS.match(source.partition("#")[2]) or _ADDRESS.match(source):
        return address[1].lower() or UNKNOWN
    folder, slash, _ = source.rpartition("/")
    return folder + slash if slash else source


class _Tally:
    """Counts by name, of which only the most frequent are kept in mind."""

    def __init__(self) -> None:
        self._shares: dict[str, Share] = {}

    def add(self, names: pa.Array, sizes: NDArray[np.int64], kept: bool) -> None:
        """Count documents by their names."""
        grouped = (
            pa.table({"name": names, "size": sizes}).group_by("name").aggregate([("size", "sum"), ("size", "count")])
        )
        for row in grouped.to_pylist():
            share = self._shares.setdefault(row["name"] or UNKNOWN, Share())
            if kept:
                share.kept += row["size_count"]
                share.kept_bytes += row["size_sum"]
            else:
                share.found += row["size_count"]
                share.found_bytes += row["size_sum"]
        if len(self._shares) > 2 * _REMEMBERED:
            self._shares = dict(list(self.sorted().items())[:_REMEMBERED])

    def sorted(self) -> dict[str, Share]:
        """The most bytes first."""
        return dict(sorted(self._shares.items(), key=lambda one: (-one[1].found_bytes, one[0])))


def _count(whole: Share, tallies: Mapping[str, _Tally], rows: pa.Table, sizes: NDArray[np.int64], kept: bool) -> None:
    if kept:
        whole.kept += len(rows)
        whole.kept_bytes += int(sizes.sum())
    else:
        whole.found += len(rows)
        whole.found_bytes += int(sizes.sum())
    powers = np.frexp(np.maximum(sizes, 1))[1] - 1
    tallies["sizes"].add(pa.array(powers.astype(str)), sizes, kept)
    tallies["kinds"].add(rows.column("language"), sizes, kept)
    tallies["licences"].add(rows.column("licence"), sizes, kept)
    tallies["places"].add(_each(rows.column("source"), place_of), sizes, kept)
    tallies["years"].add(_each(rows.column("date"), _year), sizes, kept)


def _each(column: pa.ChunkedArray, function: Callable[[str], str]) -> pa.Array:
    encoded = column.combine_chunks().dictionary_encode()
    names = pa.array([function(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return names.take(encoded.indices)


def _year(date: str) -> str:
    return date[:4] if re.match(r"[12]\d{3}(\D|$)", date) else UNKNOWN


def _sizes(raw: Corpus, attributes: Attributes, unit: Unit) -> NDArray[np.int64]:
    if "text.bytes" in attributes.figures:
        return np.asarray(attributes.columns(unit, ["text.bytes"])["text.bytes"], dtype=np.int64)
    return raw.sizes(unit)


def _languages(attributes: Attributes, unit: Unit) -> NDArray[np.str_] | None:
    if "language.code" not in attributes.figures:
        return None
    return np.asarray(attributes.columns(unit, ["language.code"])["language.code"], dtype=str)


def _count_terms(
    terms: Mapping[str, Share],
    searched: Share,
    attributes: Attributes,
    unit: Unit,
    stays: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    codes: NDArray[np.str_] | None,
) -> None:
    """Count words of the lists in English documents; in all where no language is known."""
    columns = [f"terms.{name}" for name in terms]
    if not set(columns) <= attributes.figures:
        return
    english = np.ones(len(stays), bool) if codes is None else codes == "en"
    searched.found += int(english.sum())
    searched.kept += int((english & stays).sum())
    searched.found_bytes += int(sizes[english].sum())
    searched.kept_bytes += int(sizes[english & stays].sum())
    counts = attributes.columns(unit, columns)
    for name, share in terms.items():
        share.found += int(counts[f"terms.{name}"][english].sum())
        share.kept += int(counts[f"terms.{name}"][english & stays].sum())


def _drops(
    before: Iterable[tuple[str, str, int, int]], after: Iterable[tuple[str, str, int, int]], verdicts: Verdicts
) -> Iterator[Drop]:
    """What was dropped in gathering, then by each rule in its order, then for other reasons."""
    for decision, reason, documents, size in before:
        if decision == "drop":
            yield Drop(reason, "", WHY.get(reason, ""), documents, size)
    drops = {reason: (documents, size) for decision, reason, documents, size in after if decision == "drop"}
    conditions = {rule.name: rule.text for rule in verdicts.rules}
    for reason in [*conditions, *(one for one in drops if one not in conditions)]:
        documents, size = drops.get(reason, (0, 0))
        yield Drop(reason, conditions.get(reason, ""), WHY.get(reason, ""), documents, size)


def _clusters(curated: Corpus) -> tuple[int, tuple[Cluster, ...]]:
    """How many documents stay for others that are like them, and those that stay for most."""
    kept = []
    for rows in pq.ParquetFile(curated.folder / LEDGER).iter_batches(columns=["decision", "stage", "other"]):
        dropped = pc.and_(pc.equal(rows.column("decision"), "drop"), pc.equal(rows.column("stage"), "deduplicate"))
        copies = pc.and_(dropped, pc.not_equal(rows.column("other"), ""))
        kept.append(rows.filter(copies).column("other"))
    counted = pa.chunked_array(kept, pa.string()).value_counts()
    ids, counts = counted.field("values"), counted.field("counts").to_numpy()
    named = ids.to_pylist()
    most = sorted(range(len(counts)), key=lambda row: (-counts[row], named[row]))[:_LARGEST_CLUSTERS]
    sources = _kept_sources(curated, [named[row] for row in most])
    return len(counts), tuple(Cluster(named[row], sources.get(named[row], ""), int(counts[row])) for row in most)


def _kept_sources(curated: Corpus, ids: list[str]) -> dict[str, str]:
    """Sources of documents by the ids they had before they were changed."""
    later = {e.id: e.other for e in curated.entries_about(ids) if e.decision == "change" and e.id in ids}
    wanted = {later.get(id_, id_): id_ for id_ in ids}
    return {wanted[id_]: curated.document(unit, row).source for id_, unit, row in curated.places(wanted)}


def _samples(raw: Corpus, curated: Corpus) -> dict[str, list[Sample]]:
    return {**_dropped(raw, None), **_dropped(curated, raw), "kept": _kept_samples(curated)}


def _kept_samples(corpus: Corpus) -> list[Sample]:
    first = corpus.units()[0]
    documents = (corpus.document(first, row) for row in range(min(_KEPT_SAMPLES, first.documents)))
    return [Sample(one.id, one.source, one.first_line, "", beginning(one.text)) for one in documents]


def _dropped(corpus: Corpus, raw: Corpus | None) -> dict[str, list[Sample]]:
    """The first entries of each reason in a ledger, with what `raw` still has of the documents."""
    # What has to stay out is not shown either, not even its id.
    wanted = [one for decision, one, _, _ in corpus.tally() if decision == "drop" and one != "excluded"]
    entries: dict[str, list[dict[str, str | int]]] = {reason: [] for reason in sorted(wanted)}
    for rows in pq.ParquetFile(corpus.folder / LEDGER).iter_batches(batch_size=1 << 16):
        missing = [reason for reason, found in entries.items() if len(found) < _SAMPLES]
        if not missing:
            break
        dropped = rows.filter(pc.equal(rows.column("decision"), "drop"))
        for reason in missing:
            alike = dropped.filter(pc.equal(dropped.column("reason"), reason))
            entries[reason] += alike.slice(0, _SAMPLES - len(entries[reason])).to_pylist()
    ids = {str(entry["id"]) for found in entries.values() for entry in found if entry["id"]}
    texts = {id_: raw.document(unit, row).text for id_, unit, row in raw.places(ids)} if raw else {}

    def sample(entry: Mapping[str, str | int]) -> Sample:
        id_ = str(entry["id"])
        text = beginning(texts.get(id_, ""))
        return Sample(id_, str(entry["source"]), int(entry["line"]), str(entry["detail"]), text)

    return {reason: [sample(entry) for entry in found] for reason, found in entries.items() if found}
