"""Plain text: encodings, long files and long lines, places."""

from pathlib import Path

import pytest
from gather_world import PARAGRAPH, gathered, only, outcome, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.data.document import Document
from underlay.data.gather.config import GatherConfig
from underlay.data.gather.items import Mark
from underlay.data.gather.kinds import kind_of
from underlay.data.gather.readers.decode import plain
from underlay.data.gather.run import Reading
from underlay.data.gather.sources import find


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_says_what_text_is_in(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    (tmp_path / "a.txt").write_bytes((mark + "Grüße\r\naus 北京\r").encode(encoding))
    document = only(gathered(tmp_path, tmp_path / "a.txt"))
    assert (document.text, document.first_line, document.last_line) == ("Grüße\naus 北京\n", 1, 2)


def test_pieces_of_wide_text_know_their_bytes(tmp_path: Path) -> None:
    text = "".join(f"Grüße {number}\r\n\r\n" for number in range(800))
    data = text.encode("utf-16")
    (tmp_path / "a.txt").write_bytes(data)
    documents, ledger = outcome(tmp_path, tmp_path / "a.txt", piece_bytes=1024)
    assert len(documents) > 5
    assert not ledger
    for document in documents:
        begins = document.text.split("\n")[0]
        assert data[document.offset :].decode("utf-16-le").startswith(begins)
        assert text.split("\r\n")[document.first_line - 1] == begins


def test_one_long_line_is_survived_in_pieces(tmp_path: Path) -> None:
    line = "añb" * 250_000
    (tmp_path / "a.txt").write_text(line)
    documents, ledger = outcome(tmp_path, tmp_path / "a.txt", max_document_bytes=100_000)
    assert "".join(document.text for document in documents) == line
    assert not ledger
    assert all(len(document.text.encode()) <= 100_000 for document in documents)
    assert {document.first_line for document in documents} == {1}


def test_a_bad_piece_is_lost_alone(tmp_path: Path) -> None:
    paragraphs = [f"{number} {PARAGRAPH}\n".encode() for number in range(200)]
    paragraphs[100] = b"caf\xe9\n\n"
    (tmp_path / "a.txt").write_bytes(b"".join(paragraphs))
    documents, (entry,) = outcome(tmp_path, tmp_path / "a.txt", piece_bytes=1024)
    assert entry.reason == "not-utf8"
    assert entry.line == 1 + 2 * 100
    assert entry.offset <= len(b"".join(paragraphs[:100])) < entry.offset + entry.bytes
    assert sum(len(document.text) for document in documents) + entry.bytes == len(b"".join(paragraphs))


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.txt", b"\x89PNG\r\n\x1a\n....", "a PNG image, not text"),
        ("a.py", b"\x1f\x8b\x08....", "gzip, not text"),
        ("a.jsonl", b"PK\x03\x04....", "a zip archive, not jsonl"),
        ("a.html", b"%PDF-1.7", "PDF, not html"),
        ("a.pdf", b"<html>", "HTML, not pdf"),
        ("a.warc", b"hello", "something else, not warc"),
        ("a.txt.gz", b"hello", "something else, not gzip"),
        ("a.txt.gz", b"BZh91AY", "bzip2, not gzip"),
        ("a.parquet", b"<html>", "HTML, not parquet"),
        ("a.md", b"\x7fELF", "a program"),
        ("a.csv", b"SQLite format 3\0", "SQLite"),
        ("a.txt", b"", "an empty file"),
    ],
)
def test_what_a_file_is_and_what_its_name_says(tmp_path: Path, name: str, data: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert complaint in refusal(tmp_path, tmp_path / name)


def test_a_file_that_was_named_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "page").write_text(f"<!doctype html><p>{PARAGRAPH}</p>")
    assert only(gathered(tmp_path, tmp_path / "page")).text.strip() == PARAGRAPH.strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a/b.TXT", ("text", "text", None)),
        ("b.tar.gz", ("tar", "text", "gzip")),
        ("b.tgz", ("tar", "text", "gzip")),
        ("x.jsonl.zst", ("jsonl", "text", "zstd")),
        ("dump.xml-p1p41242.bz2", ("text", "xml", "bzip2")),
        ("a.warc.wet.gz", ("warc", "text", "gzip")),
        ("a.html", ("html", "html", None)),
        ("noending", (None, "text", None)),
        ("", (None, "text", None)),
    ],
)
def test_kinds(path: str, kind: tuple[str | None, str, str | None]) -> None:
    found = kind_of(path)
    assert (found.reader, found.language, found.packing) == kind


LINES = st.lists(
    st.sampled_from(["word", "ünïcode", "\n", "\r\n", "\r", "\n\n", "\r\n\r\n", " ", "\u2028"]), max_size=600
)


@given(LINES, st.integers(2, 5))
@settings(max_examples=150, deadline=None)
def test_no_text_is_lost_where_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], scale: int
) -> None:
    """Pieces joined are the text; each stands where its offset and line say; reading may begin again at any mark."""
    path = tmp_path_factory.mktemp("cut") / "a.txt"
    data = "".join(words).encode()
    path.write_bytes(data)
    config = GatherConfig(source=(str(path),), piece_bytes=1024, max_document_bytes=1024 * scale)
    (found,) = find(config)
    items = list(Reading(found, config).items(Mark()))
    documents = [item for item in items if isinstance(item, Document)]
    text = plain(data.decode())
    assert "".join("".join(document.text for document in documents).split()) == "".join(text.split())
    for document in documents:
        assert len(document.text.encode()) <= 1024 * scale
        assert text.split("\n")[document.first_line - 1].startswith(document.text.split("\n")[0]) or document.offset
    for place, item in enumerate(items):
        if isinstance(item, Mark):
            assert list(Reading(found, config).items(item)) == items[place:]
