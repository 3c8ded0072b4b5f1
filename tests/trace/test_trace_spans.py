"""From a text to its verbatim spans, on a really tokenised sample of the standard library."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_world import BOS, EOS, SCRIPTS, Bytes, World, open_world, pack

from underlay.errors import UserError
from underlay.trace import quotation
from underlay.trace.spans import Match, Span, Trace, trace

QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run(world: World, query, **options) -> Trace:
    return trace(query, world.store, world.index, world.codec, **options)


def stands(world: World, span: Span, match: Match) -> bool:
    """Whether the lines that a match names hold the span's words, by looking into the source itself."""
    lines = world.sources[match.source].split("\n")[match.line - 1 : match.end_line]
    words = span.text.strip()
    return words in "\n".join(lines) and words.split("\n")[0] in lines[0] and words.split("\n")[-1] in lines[-1]


def check(world: World, found: Trace) -> None:
    """What holds for every trace."""
    written = found.text.encode()
    end = 0
    for span in found.spans:
        assert span.start_byte >= end, "spans overlap or are out of order"
        end = span.end_byte
        assert written[span.start_byte : span.end_byte].decode() == span.text
        assert 0 < len(span.matches) <= span.count
        for match in span.matches:
            assert stands(world, span, match), (span, match)
            row = world.store.document_at(match.position)
            assert (match.document, match.source, match.licence) == (row.id, row.source, "PSF-2.0")
    assert 0 <= found.coverage <= 1
    assert found.coverage + found.novel_share == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
def test_a_cut_at_any_character_is_found_whole_with_its_lines(world: World, seed: int):
    rng = random.Random(seed)
    for _ in range(15):
        source = rng.choice(sorted(world.sources))
        text = world.sources[source]
        row = rng.choice([row for row in world.store.rows if row.source == source])
        document = "".join(text.splitlines(keepends=True)[row.first_line - 1 :][:150])
        size = min(rng.randrange(80, 500), len(document))
        start = rng.randrange(len(document) - size + 1)
        query = document[start : start + size]
        found = run(world, query, min_tokens=5, max_matches=50)
        check(world, found)
        if not query.strip():
            continue
        assert [span.text for span in found.spans] == [query]
        if found.spans[0].count <= 50:
            begin = row.first_line + document[: start + len(query) - len(query.lstrip())].count("\n")
            assert (source, begin) in {(match.source, match.line) for match in found.spans[0].matches}


def test_a_quotation_amid_other_words_is_found_to_its_edges(world: World):
    # In the source the sentence follows an indentation, here a quotation mark; there a line ends, here a bracket.
    words = next(
        line.strip() for line in world.sources["shutil"].split("\n") if len(line.split()) > 11 and "(" not in line
    )
    found = run(world, f"Qzx wvk «{words}» jjq zzx.")
    check(world, found)
    assert [span.text.strip(" «»") for span in found.spans] == [words]


@QUICK
@given(data=st.data())
def test_invariants_on_patched_together_texts(world: World, data: st.DataObject):
    pieces = []
    for _ in range(data.draw(st.integers(1, 5))):
        text = world.sources[data.draw(st.sampled_from(sorted(world.sources)))]
        start = data.draw(st.integers(0, max(0, len(text) - 200)))
        pieces.append(text[start : start + data.draw(st.integers(5, 200))])
        pieces.append(data.draw(st.sampled_from(["", " ", "\n", "é", "語", "qqq zzz ", "𐍈", "‍"])))
    query = "".join(pieces)
    rank = data.draw(st.sampled_from(["length", "rarity"]))
    least = data.draw(st.integers(1, 12))
    found = run(world, query, min_tokens=least, rank=rank)
    check(world, found)
    assert all(span.length >= least for span in found.spans)


def test_counts_equal_a_search_through_the_bytes(world: World):
    pieces = [world.codec.decode_bytes(world.store.tokens[row.start : row.end].tolist()) for row in world.store.rows]
    rng = random.Random(5)
    counts = []
    for _ in range(150):
        piece = rng.choice(pieces)
        start = rng.randrange(max(1, len(piece) - 60))
        query = piece[start : start + 60].decode(errors="ignore").strip()
        for span in run(world, query, min_tokens=5).spans:
            assert span.count == sum(
                map(span.text.encode().__class__.count, pieces, [span.text.encode()] * len(pieces))
            )
            counts.append(span.count)
    assert max(counts) > 3


@pytest.fixture(scope="module")
def tiny(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A few documents whose every occurrence can be counted by eye."""
    proverb = "A rolling stone gathers no moss, said the miller to his cat."
    documents = [
        ("a.txt", f"# One\n\n{proverb}\n", 1),
        ("b.txt", f"Before.\n{proverb} {proverb}\nAfter the second, silence fell over the mill.\n", 10),
        ("c.txt", f"{proverb}\n", 1),
        ("c.txt", "Silence fell over the mill. The miller slept until the morning came.\n", 2),
        ("e.txt", "Sealing up the quick map of the hidden valley took long.\n", 1),
        ("f.txt", "Then scrolling up the quick map of the hidden valley again.\n", 1),
        ("g.txt", "And so silence fell over the mill. Nobody slept until the morning came.\n", 1),
        ("h.jsonl", "Of a record\nthe number is what counts,\nnot how many lines it holds.", 7),
        ("d.txt", "first\r\n\n\n\n\n   The wheel of the old mill turned\n\n\n  slowly under the falling water\n", 5),
    ]
    return open_world(documents, world.codec, tmp_path_factory.mktemp("tiny"))


PROVERB = "A rolling stone gathers no moss, said the miller to his cat."


def test_count_and_matches_of_distinct_documents_first(tiny: World):
    (span,) = run(tiny, PROVERB, max_matches=3).spans
    assert (span.text, span.count) == (PROVERB, 4)
    assert [(match.source, match.line) for match in span.matches] == [("a.txt", 3), ("b.txt", 11), ("c.txt", 1)]
    for limit in (1, 2):
        (span,) = run(tiny, PROVERB, max_matches=limit).spans
        assert [match.source for match in span.matches] == ["a.txt", "b.txt"][:limit]
    (span,) = run(tiny, PROVERB, max_matches=9).spans
    assert [match.source for match in span.matches] == ["a.txt", "b.txt", "b.txt", "c.txt"]
    (span,) = run(tiny, PROVERB, max_matches=0).spans
    assert span.matches == ()


def test_lines_where_one_token_holds_several_newlines(tiny: World):
    (span,) = run(tiny, "wheel of the old mill turned\n\n\n  slowly under the falling", min_tokens=4).spans
    match = span.matches[0]
    assert (match.line, match.end_line) == (10, 13)
    (span,) = run(tiny, "\n\n\n   The wheel of the old mill turned\n\n", min_tokens=4).spans
    assert (span.matches[0].line, span.matches[0].end_line) == (10, 10)


def test_a_record_is_named_by_its_number(tiny: World):
    (span,) = run(tiny, "the number is what counts,\nnot how many lines").spans
    assert (span.matches[0].source, span.matches[0].line, span.matches[0].end_line) == ("h.jsonl", 7, 7)


def test_nothing_spans_two_documents(tiny: World):
    # The end of one document and the start of the next, which follow each other in the token stream.
    query = "said the miller to his cat.\nSilence fell over the mill. The miller slept"
    found = run(tiny, query, min_tokens=4)
    assert [span.text.strip() for span in found.spans] == [
        "said the miller to his cat.",
        "Silence fell over the mill. The miller slept",
    ]
    third = tiny.store.rows[2]
    tokens = tiny.store.tokens[third.start : third.end + 8].tolist()
    for span in run(tiny, tokens, min_tokens=1).spans:
        assert span.text in tiny.sources["a.txt"] or "Silence" in span.text


def test_words_are_not_cut(tiny: World):
    found = run(tiny, "Arolling stone gathers no mossy", min_tokens=3)
    assert [span.text for span in found.spans] == [" stone gathers no "]
    found = run(tiny, "the stone gathers no moss, said the miller's dog", min_tokens=3)
    assert [span.text for span in found.spans] == [" stone gathers no moss, said the "]


def test_characters_are_not_cut(world: World):
    # ぜ and せ differ in their last byte only: what they share is no match.
    found = run(world, "日本語の文章には空白がありまぜん", min_tokens=6)
    assert [span.text for span in found.spans] == ["日本語の文章には空白がありま"]
    found = run(world, "qq 👩‍👩‍👧‍👧 family, 🇳🇴 flag, 👍🏽 thumbs — and then zz", min_tokens=3)
    assert [span.text for span in found.spans] == [" family, 🇳🇴 flag, 👍🏽 thumbs — and then "]
    found = run(world, "zz छोटा सा वाक्य जिसमें मात्राएं", min_tokens=3)
    check(world, found)
    assert found.spans[0].text.rstrip().endswith("जिसमें")


def test_other_scripts_cut_anywhere_are_found_whole(world: World):
    rng = random.Random(3)
    for _ in range(40):
        start = rng.randrange(len(SCRIPTS) - 40)
        query = SCRIPTS[start : start + 40]
        found = run(world, query)
        check(world, found)
        assert [span.text for span in found.spans] == [query]


def test_spans_are_maximal_and_overlaps_go_to_the_longer(tiny: World):
    # b.txt has the start, g.txt the rest; both have " silence fell over the mill.", which goes to the longer.
    first, second = "After the second,", " silence fell over the mill. Nobody slept until the morning came."
    found = run(tiny, first + second, min_tokens=3)
    assert [span.text for span in found.spans] == [first, second]
    assert found.coverage == 1
    # What is left of the shorter is too short here, though with the overlap it would do.
    found = run(tiny, first + second, min_tokens=found.spans[0].length + 1)
    assert [span.text for span in found.spans] == [second]


def test_common_phrases_can_be_left_out(tiny: World):
    assert run(tiny, PROVERB, max_count=4).spans
    assert run(tiny, PROVERB, max_count=3).spans == ()


def test_min_tokens_is_the_length_of_the_shortest_span(tiny: World):
    length = len(tiny.codec.encode(PROVERB))
    assert [span.length for span in run(tiny, PROVERB, min_tokens=length).spans] == [length]
    assert run(tiny, PROVERB, min_tokens=length + 1).spans == ()


def test_edges_that_are_cut_into_other_tokens_count_to_the_length(tiny: World):
    query = PROVERB[4:-6]
    length = len(tiny.codec.encode(query))
    assert [span.text for span in run(tiny, query, min_tokens=length).spans] == [query]


def test_the_occurrence_that_agrees_furthest_decides(tiny: World):
    # Both documents share the tokens from " up" on; the first one also "ling", the second the word as it was cut.
    query = "olling up the quick map of the hidden valley"
    (span,) = run(tiny, query).spans
    assert (span.text, span.count, span.matches[0].source) == (query, 1, "f.txt")


def test_blank_text_is_no_evidence(world: World):
    assert run(world, "\n\n        \n    \n\n" * 3, min_tokens=1).spans == ()


def test_rank_chooses_which_spans_are_kept(world: World):
    common = "        if self is None:\n            return None\n        raise ValueError("
    rare = "Der Fluß überquert die Straße"
    query = f"{common} ... {rare}"
    spans = run(world, query, min_tokens=3).spans
    assert len(spans) > 1
    longest = max(spans, key=lambda span: span.length)
    rarest = min(spans, key=lambda span: span.rarity)
    assert [s.text for s in run(world, query, min_tokens=3, max_spans=1).spans] == [longest.text]
    assert [s.text for s in run(world, query, min_tokens=3, max_spans=1, rank="rarity").spans] == [rarest.text]
    assert all(span.rarity < 0 for span in spans)


def test_too_common_a_core_still_gives_true_counts(tiny: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quotation, "CANDIDATES", 1)
    found = run(tiny, f"x{PROVERB[1:]}", min_tokens=3)
    (span,) = found.spans
    assert span.text.strip() in PROVERB
    assert span.count == 4
    assert len(span.matches) == 1
    check(tiny, found)


def test_tokens_as_the_model_wrote_them(tiny: World):
    ids = [BOS, *tiny.codec.encode(PROVERB), EOS]
    found = run(tiny, ids)
    assert found == run(tiny, PROVERB)
    # One character, é, cut in two: the text shown has a replacement character, and offsets count that.
    broken = [*tiny.codec.encode(PROVERB), *tiny.codec.encode("é")]
    cut = next(i for i, piece in enumerate(tiny.codec.pieces) if piece == b"\xc3")
    found = run(tiny, [*broken[:-1], cut, *tiny.codec.encode(f" {PROVERB}")])
    check(tiny, found)
    assert [span.text.strip() for span in found.spans] == [PROVERB, PROVERB]


def test_nothing_found_and_nothing_asked(tiny: World):
    for query in ("", " \n ", "Qzx wvk jjq zzx qqq vvv kkk xxx jjj", []):
        found = run(tiny, query)
        assert found.spans == ()
        assert (found.coverage, found.novel_share) == (0, 1)


def test_the_dictionary_is_json_of_a_fixed_shape(tiny: World):
    found = run(tiny, f"Miller: {PROVERB}")
    shape = json.loads(json.dumps(found.to_dict()))
    assert list(shape) == ["text", "coverage", "novel_share", "caveat", "spans"]
    assert list(shape["spans"][0]) == ["text", "start_byte", "end_byte", "length", "count", "rarity", "matches"]
    fields = ["document", "source", "line", "end_line", "licence", "position"]
    assert list(shape["spans"][0]["matches"][0]) == fields
    assert "evidence" in shape["caveat"]
    assert "not proof" in shape["caveat"]


class Lossy(Bytes):
    """A tokenizer that lowers the case."""

    def __init__(self, codec: Bytes) -> None:
        self.bpe, self.pieces = codec.bpe, codec.pieces

    def encode(self, text: str) -> list[int]:
        return super().encode(text.lower())


def test_impossible_requests_are_refused(tiny: World, world: World):
    for options in ({"min_tokens": 0}, {"max_matches": -1}, {"rank": "beauty"}, {"max_spans": 0}, {"max_count": 0}):
        with pytest.raises(UserError, match="impossible"):
            run(tiny, PROVERB, **options)
    with pytest.raises(UserError, match="outside the vocabulary"):
        run(tiny, [len(tiny.codec.pieces)])
    with pytest.raises(UserError, match="another dataset"):
        trace(PROVERB, world.store, tiny.index, tiny.codec)
    with pytest.raises(UserError, match="lossless"):
        trace(PROVERB, tiny.store, tiny.index, Lossy(tiny.codec))
    assert pack([("x", "y", 1)], tiny.codec).document_at(1).source == "x"
