"""Web archives: what servers answered, in any encoding, and records with lengths that are wrong."""

import gzip
import zlib
from pathlib import Path

import brotli
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from gather_world import DATA, PARAGRAPH, gathered, only, outcome, page, pdf, real, response, warc_record

GOOD = [response(page(f"{PARAGRAPH} {number}"), uri=f"http://a.example/{number}") for number in range(3)]


def test_a_web_archive(tmp_path: Path) -> None:
    records = [
        warc_record("warcinfo", "application/warc-fields", b"software: none"),
        warc_record("request", "application/http; msgtype=request", b"GET / HTTP/1.1\r\n\r\n"),
        GOOD[0],
        response(page("gone"), status="404 Not Found"),
        response(b"\x89PNG\r\n\x1a\n", "Content-Type: image/png"),
        response(b"Plain words.", "Content-Type: text/plain; charset=utf-8"),
        warc_record("resource", "text/html", page(f"A resource. {PARAGRAPH}")),
        warc_record("metadata", "application/warc-fields", b"x: y"),
    ]
    path = tmp_path / "crawl.warc.gz"
    path.write_bytes(b"".join(map(gzip.compress, records)))
    documents, ledger = outcome(tmp_path, path)
    assert {document.text.strip() for document in documents} == {
        f"{PARAGRAPH.strip()} 0",
        "Plain words.",
        f"A resource. {PARAGRAPH.strip()}",
    }
    first = next(document for document in documents if document.text.endswith("0"))
    assert first.source == f"{path}#http://a.example/0"
    assert (first.language, first.date, first.first_line) == ("html", "2021-03-04", 3)
    assert first.offset == len(records[0]) + len(records[1])
    assert [(entry.line, entry.reason) for entry in ledger] == [(4, "http-status"), (5, "not-text")]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("blank", ["\r\n", "\n"])
@pytest.mark.parametrize("padding", [0, 1 << 15])
def test_heads_of_records_may_be_written_in_many_ways(tmp_path: Path, end: str, blank: str, padding: int) -> None:
    """Lines end by one or two bytes, go on in the next one, hold a lone carriage return; the last one is empty."""
    body = page(PARAGRAPH)
    head = end.join(
        [
            "WARC/1.0",
            "warc-TYPE: resource",
            "WARC-Target-URI: http://a.example/one",
            "\ttwo",
            "Content-Type: text/html",
            f"Content-Length: {len(body)}",
            "X-Long:",
            " a\rContent-Length: 1" + "x" * padding,
        ]
    )
    path = tmp_path / "crawl.warc"
    path.write_bytes((head + end + blank).encode() + body + b"\r\n\r\n" + GOOD[0])
    documents, ledger = outcome(tmp_path, path)
    assert [document.source.partition("#")[2] for document in documents] == [
        "http://a.example/0",
        "http://a.example/one two",
    ]
    assert documents[1].text.strip() == PARAGRAPH.strip()
    assert not ledger


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress), ("identity", bytes)],
)
def test_answers_are_unpacked(tmp_path: Path, encoding: str, pack: object) -> None:
    body = pack(page(PARAGRAPH))  # type: ignore[operator]
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    for name, data, more in (("whole", body, ""), ("chunked", chunked, "\r\nTransfer-Encoding: chunked")):
        path = tmp_path / f"{name}.warc"
        path.write_bytes(response(data, f"Content-Type: text/html\r\nContent-Encoding: {encoding}{more}"))
        assert only(gathered(tmp_path / name, path)).text.strip() == PARAGRAPH.strip()


def test_an_answer_that_is_a_bomb_is_left_out(tmp_path: Path) -> None:
    body = gzip.compress(b"<html>" + b"<p>word</p>" * 5_000_000)
    path = tmp_path / "crawl.warc"
    path.write_bytes(response(body, "Content-Type: text/html\r\nContent-Encoding: gzip") + GOOD[0])
    _, (entry,) = outcome(tmp_path, path)
    assert (entry.reason, entry.line, entry.offset) == ("too-large", 1, 0)


@pytest.mark.parametrize(
    ("charset", "meta", "encoding"),
    [
        ("; charset=windows-1251", "", "cp1251"),
        ("", '<meta charset="shift_jis">', "shift_jis"),
        ("", '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-2">', "iso8859_2"),
        ("", "", "utf-8"),
        ("", "", "utf-16"),
        ("; charset=utf-8", "", "cp1252"),
        ("; charset=punycode", "", "utf-8"),
        ("; charset=no-such-thing", "", "utf-8"),
    ],
)
def test_pages_say_what_they_are_in_or_do_not(tmp_path: Path, charset: str, meta: str, encoding: str) -> None:
    words = {
        "cp1251": "Съешь ещё этих мягких французских булок",
        "shift_jis": "日本語の文章です",
        "iso8859_2": "Zażółć gęślą jaźń",
    }
    text = words.get(encoding, "Père Noël mange du pâté à Orléans, c'est très bon")
    body = f"<html><head>{meta}</head><body><p>{text}</p></body></html>".encode(encoding)
    path = tmp_path / "crawl.warc"
    path.write_bytes(response(body, f"Content-Type: text/html{charset}"))
    assert only(gathered(tmp_path, path)).text.strip() == text


@pytest.mark.parametrize("wrong", [-40, -1, 1, 30, 700, 10**7, 10**12])
def test_a_wrong_length_costs_one_record(tmp_path: Path, wrong: int) -> None:
    block = len(GOOD[1]) - GOOD[1].index(b"\r\n\r\n") - 8
    bad = response(page(f"{PARAGRAPH} bad"), length=block + wrong)
    path = tmp_path / "crawl.warc"
    path.write_bytes(GOOD[0] + bad + GOOD[1] + GOOD[2])
    documents, ledger = outcome(tmp_path, path)
    found = [document.text.strip()[-1] for document in documents]
    if wrong < 10**12:
        assert found == ["0", "1", "2"]
        assert ledger[0].reason == "bad-length"
    else:  # larger than any document: nothing behind it is held
        assert found == ["0"]
        assert ledger[0].reason == "truncated"
    assert ledger[0].offset == len(GOOD[0])


def test_records_within_records_are_no_way_to_keep_us_busy(tmp_path: Path) -> None:
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 1000000\r\n\r\n"
    path = tmp_path / "crawl.warc"
    path.write_bytes(GOOD[0] + head * 40_000 + b"\r\n\r\n" + GOOD[1])
    documents, ledger = outcome(tmp_path, path)
    assert documents[0].text.strip().endswith("0")
    assert ledger


def test_a_truncated_archive_keeps_what_came_before(tmp_path: Path) -> None:
    data = b"".join(map(gzip.compress, GOOD))
    path = tmp_path / "crawl.warc.gz"
    path.write_bytes(data[:-60])
    documents, ledger = outcome(tmp_path, path)
    assert [document.text.strip()[-1] for document in documents] == ["0", "1"]
    assert [entry.reason for entry in ledger] == ["truncated", "truncated"]
    assert ledger[0].offset == len(GOOD[0]) + len(GOOD[1])


def test_garbage_between_records_is_told(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc"
    path.write_bytes(GOOD[0] + b"garbage\nWARC what?\n" + GOOD[1])
    documents, (first, second) = outcome(tmp_path, path)
    assert len(documents) == 1
    assert (first.reason, second.reason, second.offset) == ("bad-length", "bad-warc", len(GOOD[0]) - 4)


def test_text_of_pages_that_somebody_has_drawn_out(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc.wet"
    path.write_bytes(warc_record("conversion", "text/plain", "Words\r\nin lines ü".encode()))
    document = only(gathered(tmp_path, path))
    assert (document.text, document.language) == ("Words\nin lines ü", "text")


def test_a_pdf_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc"
    path.write_bytes(response(pdf(["Hello from a page"]), "Content-Type: application/pdf"))
    document = only(gathered(tmp_path, path))
    assert (document.text, document.language) == ("Hello from a page\n", "pdf")


@real("warc-samples")
def test_real_archives_hold_what_another_reader_finds(tmp_path: Path) -> None:
    folder = DATA / "warc-samples"
    checked = 0
    for path in sorted(folder.rglob("*.warc*")):
        if "bad" in path.name or "trunc" in path.name or "clipped" in path.name or ".wat" in path.name:
            continue
        oracle = set()
        with path.open("rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=True):
                if (record.http_content_type or "").startswith("text/html") and record.http_headers.status_code == 200:
                    oracle.add(record.headers["WARC-Target-URI"].strip("<>"))
        if not oracle:
            continue
        corpus = gathered(tmp_path / str(checked), path, max_document_bytes=1 << 26)
        seen = {document.source.partition("#")[2] for document in corpus}
        seen |= {entry.detail for entry in corpus.ledger()}
        empty = sum(entry.reason in ("no-text", "empty") for entry in corpus.ledger())
        assert len(oracle - seen) <= empty, path
        checked += 1
    assert checked >= 6


@real("warc-samples")
@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("example-trunc.warc", {"bad-length"}),
        ("example-bad.warc.gz.bad", None),
        ("example-wrong-chunks.warc.gz", None),
        ("example-bad-non-chunked.warc.gz", None),
    ],
)
def test_real_archives_that_are_broken(tmp_path: Path, name: str, reasons: set[str] | None) -> None:
    good = tmp_path / "good.txt"
    good.write_text(PARAGRAPH)
    documents, ledger = outcome(tmp_path, DATA / "warc-samples" / name, good)
    assert documents
    assert reasons is None or reasons <= {entry.reason for entry in ledger}
