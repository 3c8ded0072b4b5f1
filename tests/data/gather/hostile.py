"""A small valid file of each kind that is read, and what must be true of any bytes under such a name.

Property tests and the fuzzer share it: they change the files, and ask here whether they were survived.
"""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Sequence
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
from gather_world import PARAGRAPH, page, pdf, response, warc_record
from test_dumps import HEAD, article
from test_media_files import PNG, tar

from underlay.data.document import NO_LICENCE, Document
from underlay.data.gather.config import GatherConfig
from underlay.data.gather.items import START, BadRecord, Item, Mark, Page, Pdf
from underlay.data.gather.kinds import kind_of
from underlay.data.gather.opening import zstd
from underlay.data.gather.pages import drawn
from underlay.data.gather.readers.decode import plain
from underlay.data.gather.run import Reading
from underlay.data.gather.sources import File, Found
from underlay.data.gather.workers import Workers

CONFIG = GatherConfig(
    source=("hostile",), piece_bytes=1024, max_document_bytes=4096, max_file_bytes=1 << 16, max_unpacked_bytes=1 << 20
)
"""Small limits, so that small files reach them."""
PASSED_OVER = {"csv", "tsv", "warc", "tar", "zip", "noending"}
"""Of these some records are no documents, and nothing is said of them: blank rows, requests, members of other kinds."""
PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd.compress}


@cache
def valid() -> dict[str, bytes]:
    """A small file of each kind."""
    table = pa.table({"text": [f"{number} {PARAGRAPH}" for number in range(30)], "date": ["2020-01-01"] * 30})
    parquet, arrow, stream, archive = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=10)
    for file, make in ((arrow, pa.ipc.new_file), (stream, pa.ipc.new_stream)):
        with make(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        for number in range(3):
            writer.writestr(f"{number}.png", PNG)
            writer.writestr(f"{number}.txt", f"{number} words")
        writer.writestr("rows.jsonl", '{"text": "x"}\n')
    rows = b"".join(json.dumps({"text": PARAGRAPH, "n": [number]}).encode() + b"\n" for number in range(10))
    warc = (
        response(page(PARAGRAPH))
        + warc_record("conversion", "text/plain", b"words")
        + response(gzip.compress(page("more")), "Content-Type: text/html\r\nContent-Encoding: gzip")
    )
    members = tar({"a.png": PNG, "a.txt": b"A cat.", "b.jsonl": rows, "c.html": page("x"), "d.csv": b"text\nx\n"})
    wiki = (HEAD + article("A", "''a'' [[b|c]] {{d|{{e}}}}\n{|\n|}\n") + article("B", "x") + "</mediawiki>").encode()
    return {
        "a.txt": (PARAGRAPH * 10 + "\n").encode() * 5,
        "b.txt": PARAGRAPH.encode("utf-16"),
        "a.html": page(PARAGRAPH),
        "a.jsonl": rows,
        "a.csv": b'text,license\n"a ""b"", c\nd",MIT\ne,f\n' * 5,
        "a.tsv": b"text\tdate\nx\t2020\n" * 5,
        "a.parquet": parquet.getvalue(),
        "a.arrow": arrow.getvalue(),
        "b.arrow": stream.getvalue(),
        "a.warc": warc,
        "a.xml": wiki,
        "a.tar": members,
        "a.zip": archive.getvalue(),
        "a.pdf": pdf([PARAGRAPH.strip(), "Another page"]),
        "a.jsonl.gz": gzip.compress(rows),
        "a.jsonl.bz2": bz2.compress(rows),
        "a.jsonl.xz": lzma.compress(rows),
        "a.jsonl.zst": zstd.compress(rows),
        "a.warc.gz": gzip.compress(warc),
        "a.tar.gz": gzip.compress(members),
        "noending": warc,
    }


NAMES = tuple(valid())


def read(name: str, data: bytes, start: Mark = START) -> list[Item]:
    """What a file of this name holds, from a mark on."""
    file = File(name, name, len(data), lambda: io.BytesIO(data))
    reading = Reading(Found(file, kind_of(name), NO_LICENCE, None, {}), CONFIG)
    items = list(reading.items(start))
    for stream in reading._streams:
        assert stream.offset <= max(CONFIG.max_unpacked_bytes, len(data)), "more was unpacked than may be"
    return items


def survived(name: str, data: bytes, workers: Workers | None = None) -> list[Document | BadRecord]:
    """Read a file whole, check what must be true of it whatever it holds, and tell what came of it.

    Nothing is raised; something is said of every file; offsets are within it; no document is too large or cannot be
    written; and from any mark on, what follows it is read again. Without `workers` PDF is left as it is.
    """
    items = read(name, data)
    told = [item for item in items if not isinstance(item, Mark)]
    marks = [place for place, item in enumerate(items) if isinstance(item, Mark)]
    assert told or (marks and PASSED_OVER.intersection(name.split("."))), "a file of which nothing is said"
    end = len(data) if not kind_of(name).packing else CONFIG.max_unpacked_bytes
    for item in told:
        assert isinstance(item, Document | BadRecord | Page | Pdf)
        item.source.encode()
        assert "\0" not in item.source
        assert 0 <= item.offset <= end, f"offset {item.offset} of {end}"
    for place in marks[:: max(1, len(marks) // 3)]:
        mark = items[place]
        assert isinstance(mark, Mark)
        rest = [item for item in items[place:] if not isinstance(item, Mark)]
        again = [item for item in read(name, data, mark) if not isinstance(item, Mark)]
        assert again == rest or not rest, f"another outcome from {mark} on"
    if name.endswith(".txt") and not kind_of(name).packing:
        _check_text(data, told)
    if name.endswith(".jsonl"):
        _check_lines(data, told)
    if workers is None:
        told = [item for item in told if not isinstance(item, Pdf)]
    made = list(drawn(iter(told), CONFIG, workers or Workers(1, 10)))
    for one in made:
        if isinstance(one, BadRecord):
            assert one.reason
            assert 0 <= one.bytes <= 1 << 50
            assert one.line <= 1 << 50
            one.detail.encode()
        else:
            assert one.text.strip()
            assert "\0" not in one.text
            assert len(one.text.encode()) <= CONFIG.max_document_bytes
            assert one.first_line <= one.last_line < 1 << 63
            one.licence.encode()
            one.date.encode("ascii")
    return made


_NOT_READ = {"mislabelled", "packed", "empty", "unreadable", "not-text", "too-large"}


def _check_text(data: bytes, told: Sequence[Document | BadRecord | Page | Pdf]) -> None:
    """Every byte of a text is in a document, in what the ledger says, or blank."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[:4] == b"\0\0\xfe\xff" or told[0].offset > 0 < len(told) < 2:
        return
    if isinstance(told[0], BadRecord) and told[0].reason in _NOT_READ:
        return
    assert not data[: told[0].offset].removeprefix(b"\xef\xbb\xbf").decode().strip()
    for item, end in zip(told, [*(one.offset for one in told[1:]), len(data)], strict=True):
        piece = data[item.offset : end]
        if isinstance(item, Document):
            text = plain((piece if item.offset else piece.removeprefix(b"\xef\xbb\xbf")).decode())
            assert text.startswith(item.text)
            assert not text[len(item.text) :].strip()
        else:
            assert isinstance(item, BadRecord)
            assert not piece[item.bytes :].decode().strip()


def _check_lines(data: bytes, told: Sequence[Document | BadRecord | Page | Pdf]) -> None:
    """Of every line that is not blank one thing is said, with its offset."""
    if isinstance(told[0], BadRecord) and told[0].reason in ("mislabelled", "empty", "unreadable"):
        return
    offset, expected = 0, []
    for line in data.split(b"\n"):
        if line.strip() or len(line) >= 2 * CONFIG.max_document_bytes:
            expected.append(offset)
        offset += len(line) + 1
    assert [item.offset for item in told] == expected
