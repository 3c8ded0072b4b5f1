"""Gather: every kind of source, and every kind of broken file, with its place."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from underlay.data import Corpus, Document, GatherConfig, fingerprint, gather
from underlay.errors import UserError

PARAGRAPH = "Some words that make a paragraph of text.\n"


def gathered(tmp_path: Path, *sources: Path, **settings: object) -> Corpus:
    return gather(GatherConfig(source=tuple(map(str, sources)), **settings), tmp_path / "corpus")


def only(corpus: Corpus) -> Document:
    (document,) = corpus
    return document


def test_the_standard_library_has_its_licence_and_relative_names(tmp_path: Path) -> None:
    corpus = gather(GatherConfig(exclude=("[!j]*",)), tmp_path / "corpus")
    by_source = {document.source: document for document in corpus}
    decoder = by_source["python-stdlib/json/decoder.py"]
    assert (decoder.licence, decoder.language, decoder.first_line) == ("PSF-2.0", "python", 1)
    assert decoder.last_line == decoder.text.rstrip("\n").count("\n") + 1
    assert "class JSONDecoder" in decoder.text


def test_documents_are_ordered_by_content_not_by_file(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name} {PARAGRAPH}")
    ids = [document.id for document in gathered(tmp_path, *(tmp_path / f"{n}.txt" for n in "bca"))]
    assert ids == sorted(ids)


def test_html_is_read_as_text(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<html><head><title>t</title><script>alert(1)</script></head><p>{PARAGRAPH * 3}</p></html>")
    document = only(gathered(tmp_path, page))
    assert "Some words" in document.text
    assert "alert" not in document.text
    assert document.language == "html"


def test_records_keep_their_number_and_licence(tmp_path: Path) -> None:
    rows = [{"text": "one", "license": "MIT"}, {"content": "two"}, {"title": "no text"}, "not json"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) if isinstance(row, dict) else row for row in rows) + "\n\n")
    corpus = gathered(tmp_path, path)
    found = {document.text: (document.first_line, document.last_line, document.licence) for document in corpus}
    assert found == {"one": (1, 1, "MIT"), "two": (2, 2, "NOASSERTION")}
    ledger = [(entry.line, entry.reason) for entry in corpus.ledger()]
    assert ledger == [(3, "no-text"), (4, "bad-json")]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "two", None]}), tmp_path / "rows.parquet")
    corpus = gathered(tmp_path, tmp_path / "rows.parquet")
    assert {document.text: document.first_line for document in corpus} == {"one": 1, "two": 2}
    assert [entry.line for entry in corpus.ledger()] == [3]


def test_broken_files_are_named_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "good.txt").write_text(PARAGRAPH)
    (folder / "latin.txt").write_bytes(b"line one\ncaf\xe9\n")
    (folder / "binary.txt").write_bytes(b"text\0more")
    (folder / "not.parquet").write_bytes(b"PAR1 but not really")
    (folder / "empty.html").write_text("<html><body></body></html>")
    corpus = gathered(tmp_path, folder)
    assert only(corpus).text == PARAGRAPH
    reasons = {Path(entry.source).name: (entry.line, entry.reason) for entry in corpus.ledger()}
    assert reasons == {
        "latin.txt": (2, "not-utf8"),
        "binary.txt": (1, "binary"),
        "not.parquet": (1, "bad-parquet"),
        "empty.html": (1, "no-text"),
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"caf\xe9", "not UTF-8: byte 0xe9 on line 1"), (b"a\0b", "binary: a zero byte at offset 1")],
)
def test_nothing_readable_is_the_users_error(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        gathered(tmp_path, tmp_path / "bad.txt")


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no readable files"):
        gathered(tmp_path, tmp_path / "empty")
    with pytest.raises(UserError, match="no such file or folder"):
        gathered(tmp_path, tmp_path / "none")


def test_long_files_are_cut_where_their_lines_say(tmp_path: Path) -> None:
    text = "".join(f"paragraph {n}\nsecond line\n\n" for n in range(400))
    (tmp_path / "book.txt").write_text(text)
    pieces = sorted(gathered(tmp_path, tmp_path / "book.txt", piece_bytes=1024), key=lambda d: d.first_line)
    assert len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == text
    lines = text.split("\n")
    for piece in pieces:
        assert piece.text.split("\n")[0] == lines[piece.first_line - 1]
        assert piece.text.rstrip("\n").split("\n")[-1] == lines[piece.last_line - 1]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("LICENSE", "Permission is hereby granted, free of charge, to any person obtaining a copy of", "MIT"),
        ("COPYING.txt", "GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June", "GPL-3.0-only"),
        ("LICENSE", "All rights reserved by nobody in particular", "NOASSERTION"),
    ],
)
def test_the_nearest_licence_file_counts(tmp_path: Path, name: str, text: str, expected: str) -> None:
    deep = tmp_path / "source" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / "source" / name).write_text(text)
    (deep / "code.py").write_text("x = 1\n" + PARAGRAPH)
    found = {document.language: document.licence for document in gathered(tmp_path, tmp_path / "source")}
    assert found["python"] == expected


def test_a_header_beats_the_folder(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    (tmp_path / "code.py").write_text("# SPDX-License-Identifier: MIT OR BSD-3-Clause\n" + PARAGRAPH)
    assert only(gathered(tmp_path, tmp_path / "code.py")).licence == "MIT OR BSD-3-Clause"


def test_the_fingerprint_follows_names_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    config = GatherConfig(source=(str(tmp_path),))
    path.write_text("one")
    first = fingerprint(config)
    path.write_text("one")
    assert fingerprint(config) == first
    path.write_text("two")
    second = fingerprint(config)
    path.rename(tmp_path / "b.txt")
    assert len({first, second, fingerprint(config)}) == 3


def test_odd_trees_are_survived(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "library").mkdir(parents=True)
    (folder / "library" / "library.json").write_text("{}")
    (folder / "library" / "report.html").write_text(f"<p>{PARAGRAPH}</p>")
    (folder / "loop").symlink_to(folder)
    (folder / "broken.txt").symlink_to(folder / "nowhere.txt")
    os.mkfifo(folder / "pipe.txt")
    (folder / "good.txt").write_text(PARAGRAPH)
    with (folder / os.fsdecode(b"caf\xe9.txt")).open("w") as file:
        file.write(f"Another. {PARAGRAPH}")
    config = GatherConfig(source=(str(folder),))
    assert fingerprint(config)
    sources = {document.source for document in gathered(tmp_path, folder)}
    assert sources == {f"{folder}/good.txt", f"{folder}/caf\\xe9.txt"}


def test_empty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    for name in ("empty.txt", "empty.parquet"):
        with pytest.raises(UserError, match=name):
            gather(GatherConfig(source=(str(tmp_path / name),)), tmp_path / f"corpus-{name}")


def test_hostile_records_go_to_the_ledger_or_are_cleaned(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one \\ud800", "license": "\\ud800"}\r\n{"text": 3}\r\n')
    corpus = gathered(tmp_path, tmp_path / "rows.jsonl")
    assert (only(corpus).text, only(corpus).licence) == ("one ?", "?")
    assert [entry.line for entry in corpus.ledger()] == [2]


def test_any_line_end_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\n".encode())
    document = only(gathered(tmp_path, tmp_path / "a.txt"))
    assert (document.text, document.last_line) == ("one\ntwo\nthree\n", 3)


def test_a_new_licence_file_counts_as_a_change(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("x = 1\n")
    config = GatherConfig(source=(str(tmp_path),))
    before = fingerprint(config)
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    assert fingerprint(config) != before
