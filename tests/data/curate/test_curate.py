"""Curate: what goes, what is masked, and the ledger's word on each."""

import itertools
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from underlay.data import Corpus, CurateConfig, Document, TagConfig, curate, tag, write_corpus
from underlay.data.curate import Attributes, funnel
from underlay.data.curate.engine import Local
from underlay.data.curate.tag import Tagging
from underlay.data.writer import CorpusWriter, as_rows
from underlay.errors import UserError

PROSE = "The quick brown fox jumps over the lazy dog, and then it goes home.\nIt sleeps until the morning.\n" * 2


def document(text: str, source: str = "a.txt", line: int = 1) -> Document:
    return Document(text, source, line, line + text.count("\n"), "MIT", "text")


def curated(tmp_path: Path, documents: list[Document], tags: TagConfig | None = None, **settings: object) -> Corpus:
    raw = write_corpus(tmp_path / "raw", documents)
    attributes = tag(raw, tags or TagConfig(), tmp_path / "tags")
    return curate(raw, attributes, CurateConfig(**settings), tmp_path / "curated")


# --- Corpora ------------------------------------------------------------------------------------------------------


def test_a_corpus_comes_back_as_it_was_written(tmp_path: Path) -> None:
    documents = [document(f"{PROSE}{n}\r\n\t✓", f"{n}.txt") for n in range(5)]
    documents.append(Document("caption", "b", 3, 3, "MIT", "image", 17, "2021-04-01", "ab12:b.png"))
    corpus = write_corpus(tmp_path / "c", documents)
    assert sorted(corpus, key=lambda d: d.source) == documents
    assert len(corpus) == 6


def test_a_document_is_its_text_and_its_medium() -> None:
    plain = document("caption")
    with_medium = Document("caption", "a.txt", 1, 1, "MIT", "text", media="ab12:a.png")
    moved = Document("caption", "b.txt", 9, 9, "MIT", "text", media="ab12:b.png")
    assert plain.id != with_medium.id == moved.id


def test_a_corpus_does_not_depend_on_order_nor_on_memory(tmp_path: Path) -> None:
    documents = [document(f"{PROSE}{n % 300}", f"{n}.txt") for n in range(600)]
    written = []
    for number, limit in enumerate((1 << 30, 20_000)):
        random.Random(number).shuffle(documents)
        with CorpusWriter(tmp_path / str(number), distinct=True, collected_bytes=limit) as writer:
            for one in documents:
                writer.add(one)
        corpus = Corpus(tmp_path / str(number))
        assert len(corpus) == 300
        assert len(corpus.ledger()) == 300
        written.append([path.read_bytes() for path in sorted(corpus.folder.rglob("*.parquet"))])
        assert [one.id for one in corpus] == sorted(one.id for one in corpus)
    assert written[0] == written[1]
    assert not list(tmp_path.rglob(".parts"))


def test_rows_make_the_corpus_that_their_documents_make(tmp_path: Path) -> None:
    documents = [document(f"{n % 40} " + "é" * 100 * (n % 8), f"{n}.txt") for n in range(200)]
    out = {documents[3].id, documents[8].id}
    written = []
    for name, step, limit in (("one by one", 0, 10_000), ("few", 3, 10_000), ("many", 90, 1 << 30)):
        with CorpusWriter(tmp_path / name, distinct=True, collected_bytes=limit, excluded=out) as writer:
            for start in range(0, 200, step or 1):
                some = documents[start : start + (step or 1)]
                if step:
                    writer.add_rows(as_rows(some))
                else:
                    writer.add(some[0])
        corpus = Corpus(tmp_path / name)
        assert {one.id for one in corpus} == {one.id for one in documents} - out
        gone = sorted((entry.reason, entry.source) for entry in corpus.ledger())
        shards = [path.read_bytes() for path in sorted((corpus.folder / "documents").iterdir())]
        written.append((gone, shards))
    assert written[0] == written[1] == written[2]
    assert {reason for reason, _ in written[0][0]} == {"duplicate", "excluded"}


def test_a_full_disk_is_told_by_the_thread_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    writer = CorpusWriter(tmp_path / "c")
    writer.add(document(PROSE))
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        writer.close()


def test_units_are_all_of_a_corpus(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", [document(f"{n} " + "x" * 50_000) for n in range(300)])
    assert len(corpus.units()) > 2
    assert sum(unit.documents for unit in corpus.units()) == 300
    ids = [id_ for unit in corpus.units() for id_ in corpus.table(unit, ["id"])["id"].to_pylist()]
    assert ids == corpus.column("id").to_pylist() == sorted(ids)


# --- Attributes ---------------------------------------------------------------------------------------------------


def test_attributes_stand_beside_their_documents(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", [document(f"{PROSE}{'x' * n}") for n in range(50)])
    attributes = tag(corpus, TagConfig(), tmp_path / "t")
    assert attributes.column("text.bytes").tolist() == [len(one.text.encode()) for one in corpus]
    assert "minhash.band_13" in attributes.names
    assert "privacy.spans" not in attributes.figures
    with pytest.raises(UserError, match="not the attributes of"):
        attributes.belong_to(write_corpus(tmp_path / "d", [document(PROSE)]))


def test_many_processes_find_the_same_attributes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", [document(f"{n} {PROSE}" + "x y z " * 30_000) for n in range(60)])
    assert len(corpus.units()) > 1
    for processes in (1, 2):
        tag(corpus, TagConfig(), tmp_path / str(processes), engine=Local(processes))
    one, two = (sorted((tmp_path / name).rglob("*.parquet")) for name in ("1", "2"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_damaged_attributes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="attributes cannot be read"):
        Attributes(tmp_path)
    corpus = write_corpus(tmp_path / "c", [document(PROSE)])
    attributes = tag(corpus, TagConfig(), tmp_path / "t")
    next(attributes.folder.rglob("*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="attributes cannot be read"):
        Attributes(tmp_path / "t")


def test_tagging_can_be_sent_to_other_machines(tmp_path: Path) -> None:
    import pickle

    corpus = write_corpus(tmp_path / "c", [document(PROSE)])
    work = pickle.loads(pickle.dumps(Tagging(corpus.folder, TagConfig())))()
    table, size = work(corpus.units()[0])
    assert isinstance(table, pa.Table)
    assert size == len(PROSE)


# --- Decisions ----------------------------------------------------------------------------------------------------


def test_duplicates_keep_the_same_one_in_any_order(tmp_path: Path) -> None:
    copies = [document(PROSE, f"{name}.txt") for name in "bac"]
    for number, order in enumerate(itertools.permutations(copies)):
        corpus = curated(tmp_path / str(number), list(order))
        assert [d.source for d in corpus] == ["a.txt"]
        assert sorted(e.source for e in corpus.ledger()) == ["b.txt", "c.txt"]
        assert {e.detail for e in corpus.ledger()} == {"same text as a.txt"}


def test_duplicates_may_stay(tmp_path: Path) -> None:
    copies = [document(PROSE, name) for name in "ab"]
    assert len(curated(tmp_path, copies, deduplicate=False, near_duplicates=False)) == 2


def test_documents_that_become_the_same_are_duplicates(tmp_path: Path) -> None:
    texts = [f"{PROSE} {name}@example.org" for name in ("jane", "john")]
    corpus = curated(tmp_path, [document(text, f"{n}.txt") for n, text in enumerate(texts)], near_duplicates=False)
    assert len(corpus) == 1
    assert [entry.reason for entry in corpus.ledger()].count("duplicate") == 1


def test_of_nearly_the_same_the_better_one_stays(tmp_path: Path) -> None:
    words = ["".join(letters) for letters in itertools.islice(itertools.product("abcdefgh", repeat=4), 400)]
    texts = {"whole": words, "shorter": words[:-3], "other": words[::-1]}
    documents = [document(" ".join(text) + "\n" * 3, name) for name, text in texts.items()]
    settings = {"presets": (), "near_duplicates": True}
    corpus = curated(tmp_path, documents, **settings)
    assert sorted(one.source for one in corpus) == ["other", "whole"]
    (entry,) = corpus.ledger()
    assert (entry.source, entry.reason, entry.detail) == ("shorter", "near-duplicate", "nearly the same text as whole")
    assert entry.other == next(one.id for one in corpus if one.source == "whole")


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("short", "too-short", "text.characters = 5"),
        ("   \n" * 100, "too-short", "text.characters = 0"),
        ("word " * 1000, "long-line", "text.longest_line = 4999"),
        (("word " * 100 + "\n") * 3, "long-lines", "text.mean_line = 499"),
        ("{}[]()<>;:,. \n" * 2 + "+-*/=%!?&|^~ @#$\n" * 10, "few-letters", "text.letters = 0"),
        ("the same line again\n" * 20, "repeated-lines", "text.repeated_lines = 0.95"),
        (PROSE + "\x01\x02\x03", "control-characters", "text.control = 0.01523"),
    ],
)
def test_each_rule_for_any_text(tmp_path: Path, text: str, reason: str, detail: str) -> None:
    corpus = curated(tmp_path, [document(text), document(PROSE, "good")])
    (entry,) = corpus.ledger()
    assert (entry.reason, entry.detail, entry.stage) == (reason, detail, "rules")
    assert [one.source for one in corpus] == ["good"]


def test_good_prose_and_code_pass(code: list[Path], tmp_path: Path) -> None:
    texts = [PROSE, *(path.read_text("utf-8") for path in code)]
    fitting = [document(text, str(number)) for number, text in enumerate(texts) if len(text.strip()) >= 100]
    assert len(curated(tmp_path, fitting)) == len(fitting)


def test_what_a_rule_asks_for_must_have_been_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rule stop-words: no attribute 'gopher.stop_words'"):
        curated(
            tmp_path, [document(PROSE)], TagConfig(taggers=("text",)), rules={"stop-words": "gopher.stop_words > 2"}
        )


def test_near_duplicates_need_their_tagger(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the attributes hold none of minhash; add it to the taggers"):
        curated(tmp_path, [document(PROSE)], TagConfig(taggers=("text",)))


def test_nothing_left_is_an_error_with_reasons(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document is left: too-short"):
        curated(tmp_path, [document("short")])


def test_the_funnel_adds_up(tmp_path: Path) -> None:
    raw = write_corpus(tmp_path / "raw", [document(PROSE, "a"), document(PROSE, "b"), document("tiny", "c")])
    corpus = curate(raw, tag(raw, TagConfig(), tmp_path / "tags"), CurateConfig(), tmp_path / "curated")
    rows = {name: n for name, n, _ in funnel(raw, corpus)}
    assert rows == {"found": 3, "duplicate": 1, "too-short": 1, "kept": 1}


def test_lines_are_cut_where_c4_would(tmp_path: Path) -> None:
    page = "This is a line that stays.\nHome\nThis site uses cookies, you know.\nAnother line that stays here."
    tags = TagConfig(taggers=("c4", "minhash"), clean_lines=True)
    settings = {"presets": (), "better": "c4.sentences"}
    corpus = curated(tmp_path, [document(page, "a"), document("Menu\nHome", "b")], tags, **settings)
    assert [one.text for one in corpus] == ["This is a line that stays.\nAnother line that stays here."]
    ledger = {(entry.source, entry.decision, entry.reason) for entry in corpus.ledger()}
    assert ledger >= {("a", "change", "lines-cut"), ("b", "drop", "nothing-left")}
    assert next(e.other for e in corpus.ledger() if e.source == "a") == next(iter(corpus)).id


# --- Redaction ----------------------------------------------------------------------------------------------------


def test_redaction_is_in_the_ledger(tmp_path: Path) -> None:
    corpus = curated(tmp_path, [document(f"{PROSE} a@example.org b@example.org")])
    (kept,) = corpus
    assert "<EMAIL>" in kept.text
    (entry,) = corpus.ledger()
    assert (entry.decision, entry.reason, entry.detail) == ("change", "private-data", "EMAIL x2")
    assert entry.other == kept.id != entry.id


def test_what_is_not_changed_stays_and_white_space_of_any_kind_goes(tmp_path: Path) -> None:
    blank = ["\u3000\u2003\n", "\x1c\x1d ", " \t\n"]
    plain = [f"{PROSE} {n}" for n in range(3)] + ["\u6c34\u706b", "."]
    private = f"{PROSE} Write to ada.byron@lovelace.org."
    documents = [document(text, f"{n}.txt") for n, text in enumerate([*blank, *plain, private])]
    corpus = curated(tmp_path, documents, presets=(), near_duplicates=False)
    assert {one.text for one in corpus} == {*plain, f"{PROSE} Write to <EMAIL>."}
    assert all(one.id == row for one, row in zip(corpus, corpus.column("id").to_pylist(), strict=True))
    reasons = sorted(entry.reason for entry in corpus.ledger())
    assert reasons == ["nothing-left"] * 3 + ["private-data"]
