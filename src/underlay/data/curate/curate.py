"""Curate: keep the documents that were decided to stay, mask private data in them, and write every decision down."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from underlay.data.corpus import Corpus, Entry, Unit, documents_in
from underlay.data.curate.attributes import Attributes
from underlay.data.curate.canaries import planted
from underlay.data.curate.decide import EXCLUDED, NEAR, SAME, STAYS, CurateConfig, Verdicts, decide
from underlay.data.curate.privacy import Pseudonyms, Span, Substitute, change, placeholder, read_key
from underlay.data.curate.rules import Columns, Rule
from underlay.data.curate.substrings import Copies, cut, find
from underlay.data.curate.texts import Texts
from underlay.data.document import Document
from underlay.data.writer import CorpusWriter, duplicate, excluded
from underlay.errors import UserError
from underlay.progress import Progress, silent

Known = tuple[str, Document]
"""A document and its id."""
Note = tuple[str, str, str]
"""What was changed in a text: stage, reason and detail of the ledger's entry."""


def curate(
    corpus: Corpus,
    attributes: Attributes,
    config: CurateConfig,
    folder: Path,
    progress: Progress = silent,
    verdicts: Verdicts | None = None,
    out: Collection[str] = frozenset(),
) -> Corpus:
    """Write the curated corpus, with its ledger, into `folder`.

    verdicts: where they were decided already; out: ids of documents that must not come back, in whatever form.
    Raises UserError as `decide` does, and where no document is left.
    """
    substitute = _substitute(attributes, config)
    verdicts = verdicts or decide(corpus, attributes, config, out)
    copies = _copies(corpus, attributes, config, substitute, verdicts)
    sources = _Sources(corpus, np.unique(verdicts.kept[np.isin(verdicts.codes, (SAME, NEAR))]))
    total, done, kept = len(corpus), 0, 0
    with CorpusWriter(folder, distinct=config.deduplicate, excluded=out) as writer:
        for unit in corpus.units():
            table = corpus.table(unit)
            codes = verdicts.codes[done : done + unit.documents]
            figures = attributes.columns(unit, verdicts.attributes) if (codes > STAYS).any() else {}
            gone = np.flatnonzero(codes != STAYS)
            for row, known in zip(gone.tolist(), _known(table, gone), strict=True):
                other = sources.of(int(verdicts.kept[done + row])) if codes[row] in (SAME, NEAR) else ("", "")
                writer.note(_dropped(known, int(codes[row]), other, verdicts.rules, figures, row))
            staying = np.flatnonzero(codes == STAYS)
            passages = [copies.of(kept + number) if copies else [] for number in range(len(staying))]
            touched = _touched(table, staying, attributes, substitute, unit, passages)
            writer.add_rows(table.take(pa.array(staying[~touched])))
            rows, cuts = staying[touched], [passages[number] for number in np.flatnonzero(touched)]
            edited = _changed(list(_known(table, rows)), rows.tolist(), attributes, config, substitute, unit, cuts)
            for note, document in edited:
                if note:
                    writer.note(note)
                if document:
                    writer.add(document)
            done += unit.documents
            kept += len(staying)
            progress(done, total, kept=f"{kept:,}")
        if config.canaries and kept:  # planted alone they would hide that nothing is left
            for document in planted(config.canaries, folder):
                writer.add(document)
                writer.note(_entry((document.id, document), "canaries", "plant", "canary", "planted on purpose"))
    return Corpus(folder)


def _substitute(attributes: Attributes, config: CurateConfig) -> Substitute | None:
    """What is put in the place of private data; None: nothing is."""
    if config.redact == "pseudonym":
        if "privacy.spans" not in attributes.names:
            raise UserError("redact: the attributes hold none of privacy; add it to the taggers")
        return Pseudonyms(read_key(config.key or ""))
    return placeholder if config.redact == "mask" and "privacy.spans" in attributes.names else None


def _copies(
    corpus: Corpus, attributes: Attributes, config: CurateConfig, substitute: Substitute | None, verdicts: Verdicts
) -> Copies | None:
    """Passages to cut out of the documents that stay, as these are once everything else was changed in them."""
    if config.substrings is None:
        return None
    units = corpus.units()
    edges = np.cumsum([0, *(unit.documents for unit in units)])
    first = dict(zip(units, edges.tolist(), strict=False))

    def texts(unit: Unit) -> Texts:
        rows = np.flatnonzero(verdicts.codes[first[unit] : first[unit] + unit.documents] == STAYS)
        column = corpus.table(unit, ["text"]).column(0).take(pa.array(rows))
        edited, _ = _edited(column.to_pylist(), rows.tolist(), attributes, substitute, unit)
        return Texts(pa.array(edited, pa.large_string()))

    return find(units, texts, config.substrings.min_tokens)


class _Sources:
    """Id and source of the documents in some rows; a document may be dropped before the one that stays is read."""

    def __init__(self, corpus: Corpus, rows: NDArray[np.int64]) -> None:
        """Read those of `rows`, which are in order; it takes about 100 bytes for each."""
        self._rows = rows
        found, first = [], 0
        for unit in corpus.units():
            low, high = np.searchsorted(rows, (first, first + unit.documents))
            if high > low:
                found.append(corpus.table(unit, ["id", "source"]).take(pa.array(rows[low:high] - first)))
            first += unit.documents
        self._table = pa.concat_tables(found).combine_chunks() if found else None

    def of(self, row: int) -> tuple[str, str]:
        """Id and source of one of them."""
        assert self._table is not None
        at = int(np.searchsorted(self._rows, row))
        return self._table.column(0)[at].as_py(), self._table.column(1)[at].as_py()


def _known(table: pa.Table, rows: NDArray[np.int64]) -> Iterator[Known]:
    """The documents in some rows of a stretch."""
    some = table.take(pa.array(rows))
    return zip(some.column("id").to_pylist(), documents_in(some), strict=True)


def _touched(
    table: pa.Table,
    staying: NDArray[np.int64],
    attributes: Attributes,
    substitute: Substitute | None,
    unit: Unit,
    passages: list[list[tuple[int, int]]],
) -> NDArray[np.bool_]:
    """Which of the documents that stay have to be looked at one by one; all others stay as they are."""
    if attributes.config.clean_lines:
        return np.ones(len(staying), dtype=np.bool_)
    touched = np.array([bool(found) for found in passages], dtype=np.bool_)
    if substitute:
        spans = attributes.table(unit, ["privacy.spans"]).column(0)
        touched |= (pc.list_value_length(spans).to_numpy() > 0)[staying]
    # In nearly all there is something that is surely no white space; whether there is in the others Python can tell.
    plain = pc.match_substring_regex(table.column("text"), "[!-~]").to_numpy()
    return touched | ~plain[staying]


def _dropped(
    known: Known, code: int, kept: tuple[str, str], rules: Sequence[Rule], figures: Columns, row: int
) -> Entry:
    id_, document = known
    if code == EXCLUDED:
        return excluded(document, id_)
    if code == SAME:
        return duplicate(document, id_, kept[1])
    if code == NEAR:
        return _entry(known, "deduplicate", "drop", "near-duplicate", f"nearly the same text as {kept[1]}", kept[0])
    return _entry(known, "rules", "drop", rules[code].name, rules[code].figures(figures, row))


def _changed(
    documents: list[Known],
    rows: list[int],
    attributes: Attributes,
    config: CurateConfig,
    substitute: Substitute | None,
    unit: Unit,
    copies: list[list[tuple[int, int]]],
) -> Iterator[tuple[Entry | None, Document | None]]:
    """Documents that stay as they stay, with what was changed in them."""
    before = [document.text for _, document in documents]
    texts, notes = _edited(before, rows, attributes, substitute, unit)
    for known, text, said, passages in zip(documents, texts, notes, copies, strict=True):
        left = cut(text, passages)
        shorter = f"{len(text) - len(left):,} of {len(text):,} characters stand further to the front"
        if passages:
            said.append(("deduplicate", "copied-text", shorter))
        changed = replace(known[1], text=left)
        if not left.strip() and not passages:
            yield _entry(known, "rules", "drop", "nothing-left", "every line was cut"), None
        elif passages and config.substrings and len(left.strip()) < max(1, config.substrings.min_left):
            yield _entry(known, "deduplicate", "drop", "copied-text", shorter), None
        else:
            for stage, reason, detail in said:
                yield _entry(known, stage, "change", reason, detail, changed.id), None
            yield None, changed


def _edited(
    texts: list[str], rows: list[int], attributes: Attributes, substitute: Substitute | None, unit: Unit
) -> tuple[list[str], list[list[Note]]]:
    """The texts in some rows of a stretch, masked and cleaned, and of each what was changed in it."""
    texts = [*texts]
    notes: list[list[Note]] = [[] for _ in texts]
    if substitute:
        spans = attributes.table(unit, ["privacy.spans"]).column(0)
        for number, row in enumerate(rows):
            if found := spans[row].as_py():
                texts[number], kinds = change(texts[number], [Span(**span) for span in found], substitute)
                detail = ", ".join(f"{kind} x{count}" for kind, count in sorted(kinds.items()))
                notes[number].append(("redact", "private-data", detail))
    if attributes.config.clean_lines:
        for number, text in enumerate(Texts(pa.array(texts, pa.large_string())).clean()):
            if text != texts[number]:
                lines = texts[number].count("\n") - text.count("\n")
                notes[number].append(("rules", "lines-cut", f"{lines} lines"))
                texts[number] = text
    return texts, notes


def _entry(
    known: Known, stage: str, decision: Literal["drop", "change", "plant"], reason: str, detail: str, other: str = ""
) -> Entry:
    id_, document = known
    size = len(document.text.encode())
    return Entry(
        id_, document.source, document.first_line, size, stage, decision, reason, detail, document.offset, other
    )


def funnel(raw: Corpus, curated: Corpus) -> list[tuple[str, int, int]]:
    """What became of the documents, as rows (name, documents, bytes): gathered, each drop reason, kept.

    What was planted is not among those that were found; it is a row of its own before the last.
    """
    drops: dict[str, tuple[int, int]] = {}
    planted = [(count, size) for decision, _, count, size in curated.tally() if decision == "plant"]
    for decision, reason, count, size in [*raw.tally(), *curated.tally()]:
        if decision == "drop":
            before = drops.get(reason, (0, 0))
            drops[reason] = (before[0] + count, before[1] + size)
    kept = (len(curated), sum(int(curated.sizes(unit).sum()) for unit in curated.units()))
    found = tuple(
        kept[side] + sum(drop[side] for drop in drops.values()) - sum(own[side] for own in planted) for side in (0, 1)
    )
    ordered = sorted(drops.items(), key=lambda one: -one[1][0])
    rows = [*ordered, *(("planted", own) for own in planted)]
    return [("found", found[0], found[1]), *((name, *row) for name, row in rows), ("kept", *kept)]
