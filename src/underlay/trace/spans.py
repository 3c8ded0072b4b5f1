"""Which parts of a text stand word for word in the training data, how often, and in which lines of which documents.

A span is maximal: no occurrence in the training data goes on for longer. After OLMoTrace (arXiv:2504.07096): the
longest phrase from every position, cut back to whole words, short ones dropped, the rarest or longest preferred.
Verbatim overlap is evidence of what the model has read, not proof that it caused the answer.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from underlay.errors import UserError
from underlay.trace.index import Codec, TokenStore, TraceIndex
from underlay.trace.quotation import Passage, Quotation

CAVEAT = "Verbatim overlap is evidence of what the model has read, not proof that it caused the answer."


@dataclass(frozen=True)
class Match:
    """One place in the training data where a span's words stand."""

    document: str
    """The document's id."""
    source: str
    """Path or URL of the source it was read from."""
    line: int
    """Line of the source, from 1, with the span's first visible character; of a record, the record's number."""
    end_line: int
    """Line of the source with the span's last visible character."""
    licence: str | None
    """The document's licence, where stated."""
    position: int
    """Position in the token store of the first whole token that the span and the document share."""


@dataclass(frozen=True)
class Span:
    """A part of the query that stands word for word in the training data."""

    text: str
    """The words."""
    start_byte: int
    """Where they start in the query's UTF-8."""
    end_byte: int
    """Where they end, exclusive."""
    length: int
    """Tokens of the query that lie in the span."""
    count: int
    """Occurrences in the training data; of a very common span only those that are cut into the same tokens."""
    rarity: float
    """Sum of the tokens' log-probabilities (natural, by their share of the training data): the lower, the rarer."""
    matches: tuple[Match, ...]
    """Some of the occurrences, from distinct documents first, in the order of the training data."""


@dataclass(frozen=True)
class Trace:
    """A text and its spans, in the order of the text, without overlaps."""

    text: str
    """The query."""
    spans: tuple[Span, ...]
    """Its spans."""
    caveat: str = CAVEAT
    """What the spans do not say."""

    @property
    def coverage(self) -> float:
        """Share of the query's bytes that lie in spans, 0 to 1."""
        covered = sum(span.end_byte - span.start_byte for span in self.spans)
        return covered / max(1, len(self.text.encode()))

    @property
    def novel_share(self) -> float:
        """Share of the query's bytes outside of all spans."""
        return 1.0 - self.coverage

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: `text`, `coverage`, `novel_share`, `caveat` and `spans`.

        A span has the fields of `Span`, its `matches` a list of those of `Match`, all under their own names.
        """
        return {
            "text": self.text,
            "coverage": self.coverage,
            "novel_share": self.novel_share,
            "caveat": self.caveat,
            "spans": [{**asdict(span), "matches": [asdict(match) for match in span.matches]} for span in self.spans],
        }


def covered(trace: Mapping[str, Any], start: int = 0) -> float:
    """Share of the bytes from `start` on that lie in spans, for a trace as `Trace.to_dict` gives it."""
    inside = sum(max(0, span["end_byte"] - max(start, span["start_byte"])) for span in trace["spans"])
    return inside / max(1, len(trace["text"].encode()) - start)


def trace(
    query: str | Sequence[int],
    store: TokenStore,
    index: TraceIndex,
    codec: Codec,
    *,
    min_tokens: int = 8,
    max_matches: int = 3,
    max_count: int | None = None,
    max_spans: int | None = None,
    rank: Literal["length", "rarity"] = "length",
) -> Trace:
    """Find the parts of `query`, a text or the tokens a model wrote, that stand word for word in the training data.

    min_tokens: the shortest span; max_matches: places listed a span; max_count: spans that occur more often are left
    out as common phrases; max_spans: how many to keep; rank: which ones to prefer, there and where two overlap (the
    other is cut). `codec` is the tokenizer of the training data. Raises UserError for impossible values, tokens outside
    of the vocabulary, a tokenizer that loses bytes, and a store that the index does not belong to.
    """
    for name, value, least in (
        ("min_tokens", min_tokens, 1),
        ("max_matches", max_matches, 0),
        ("max_count", max_count, 1),
        ("max_spans", max_spans, 1),
    ):
        if value is not None and value < least:
            raise UserError(f"trace: impossible {name}={value}; it is at least {least}")
    if rank not in ("length", "rarity"):
        raise UserError(f"trace: impossible rank={rank!r}; it is 'length' or 'rarity'")
    if len(store.tokens) != len(index.tokens):
        raise UserError("trace: the index belongs to another dataset; build one for this dataset")
    text, ids = _read(query, index, codec)
    quotation = Quotation(text, ids, index, codec)
    lines = _Lines(store, quotation)

    # At a quotation's edges its tokens may differ from the training data's: start from shorter cores, measure later.
    widest = (quotation.widest(core) for core in quotation.seeds(max(1, min_tokens // 2)))
    maximal = _maximal([passage for passage in widest if passage])

    spans: list[Span] = []
    worth = quotation.rarity if rank == "rarity" else lambda passage: -quotation.length(passage)
    long = [passage for passage in maximal if quotation.length(passage) >= min_tokens]
    for passage in sorted(long, key=lambda passage: (worth(passage), passage.start)):
        start, end = _free(passage.start, passage.end, [(span.start_byte, span.end_byte) for span in spans])
        cut = quotation.trim(start, end, passage.core)
        if cut is None:
            continue
        cut, count, positions = quotation.occurrences(cut)
        length = quotation.length(cut)
        if count == 0 or length < min_tokens or (max_count is not None and count > max_count):
            continue
        words = quotation.bytes[cut.start : cut.end].decode()
        matches = tuple(lines.match(cut, position) for position in lines.choose(positions, max_matches))
        spans.append(Span(words, cut.start, cut.end, length, count, quotation.rarity(cut), matches))
        if len(spans) == max_spans:
            break
    return Trace(text, tuple(sorted(spans, key=lambda span: span.start_byte)))


def _read(query: str | Sequence[int], index: TraceIndex, codec: Codec) -> tuple[str, Sequence[int]]:
    """The query's text and its tokens but the special ones; encoded anew where they hold only a part of a character."""
    if isinstance(query, str):
        return query, codec.encode(query)
    ids = [int(token) for token in query]
    if stray := [token for token in ids if not 0 <= token < index.vocabulary]:
        raise UserError(f"trace: token {stray[0]} is outside the vocabulary of {index.vocabulary}; wrong tokenizer?")
    ids = [token for token in ids if codec.decode_bytes([token])]
    written = codec.decode_bytes(ids)
    text = written.decode(errors="replace")
    return text, ids if text.encode() == written else codec.encode(text)


def _maximal(passages: list[Passage]) -> list[Passage]:
    """Leave out passages that lie within another one; of equal ones keep the one with the longest core."""
    kept: list[Passage] = []
    for passage in sorted(passages, key=lambda p: (p.start, -p.end, p.core[0] - p.core[1])):
        if not kept or passage.end > kept[-1].end:
            kept.append(passage)
    return kept


def _free(start: int, end: int, taken: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the longest part of [start, end) outside of the stretches already taken."""
    best, free = (start, start), start
    for other_start, other_end in sorted([*taken, (end, end)]):
        stop = min(max(other_start, free), end)
        if stop - free > best[1] - best[0]:
            best = (free, stop)
        free = max(free, other_end)
    return best


class _Lines:
    """Turns token positions into documents and lines."""

    def __init__(self, store: TokenStore, quotation: Quotation) -> None:
        self.store = store
        self.quotation = quotation

    def choose(self, positions: list[int], limit: int) -> list[int]:
        """Choose `limit` positions: the first of every document, then what is left, in ascending order."""
        first: list[int] = []
        again: list[int] = []
        seen: set[str] = set()
        at = 0
        while at < len(positions) and len(first) < limit:
            document = self.store.document_at(positions[at])
            following = bisect_left(positions, document.end, at)
            if document.id not in seen:
                seen.add(document.id)
                first.append(positions[at])
                at += 1
            again += positions[at:following]
            at = following
        return sorted(first + again[: limit - len(first)])

    def match(self, passage: Passage, position: int) -> Match:
        """Describe the occurrence of `passage` whose core stands at `position`."""
        document = self.store.document_at(position)
        text, core = self.quotation.bytes, self.quotation.offsets[passage.core[0]]
        # The core starts with a whole token, the passage perhaps within one: count to the core and come back.
        line = document.first_line + self._newlines(document.start, position)
        line -= text.count(b"\n", passage.start, core)
        words = text[passage.start : passage.end]
        skipped = len(words) - len(words.lstrip())
        return Match(
            document=document.id,
            source=document.source,
            line=min(line + words.count(b"\n", 0, skipped), document.last_line),
            end_line=min(line + words.rstrip().count(b"\n"), document.last_line),
            licence=document.licence,
            position=position,
        )

    def _newlines(self, start: int, end: int) -> int:
        """Newlines in the bytes of the tokens [start, end): a token's share does not depend on its neighbours."""
        counts = np.bincount(self.store.tokens[start:end])
        present = np.flatnonzero(counts).tolist()
        return sum(int(counts[token]) * self.quotation.piece(token).count(b"\n") for token in present)
