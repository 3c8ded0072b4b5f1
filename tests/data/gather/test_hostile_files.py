"""Any bytes under any name: a reader says what is wrong with them, and never raises."""

import bz2
import gzip
import json
import lzma
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gather_world import PARAGRAPH, page, response, warc_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_dumps import HEAD, article
from test_media_files import PNG, tar

from underlay.data import GatherConfig
from underlay.data.document import Document
from underlay.data.gather.items import BadRecord, Mark, Page, Pdf
from underlay.data.gather.opening import zstd
from underlay.data.gather.run import Reading, find

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def valid() -> dict[str, bytes]:
    """A small file of each format."""
    table = pa.table({"text": [f"{number} {PARAGRAPH}" for number in range(30)], "date": ["2020-01-01"] * 30})
    parquet, arrow, stream, archive = BytesIO(), BytesIO(), BytesIO(), BytesIO()
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
        "a.jsonl.gz": gzip.compress(rows),
        "a.jsonl.bz2": bz2.compress(rows),
        "a.jsonl.xz": lzma.compress(rows),
        "a.jsonl.zst": zstd.compress(rows),
        "a.warc.gz": gzip.compress(warc),
        "a.tar.gz": gzip.compress(members),
        "noending": warc,
    }


def survived(path: Path) -> int:
    """Read a file whole; the number of its documents."""
    config = GatherConfig(source=(str(path),), piece_bytes=1024, max_document_bytes=4096)
    (found,) = find(config)
    documents = 0
    said = 0
    for item in Reading(found, config).items(Mark()):
        assert isinstance(item, Document | BadRecord | Mark | Page | Pdf)
        if isinstance(item, Document):
            documents += 1
            assert len(item.text.encode()) <= 4096
            item.source.encode()
        if isinstance(item, BadRecord):
            assert item.reason
            assert item.detail.encode("utf-8", "replace")
            assert item.offset >= 0
        said += not isinstance(item, Mark)
    assert said, "a file of which nothing is said"
    return documents


NAMES = [
    "a.txt",
    "b.txt",
    "a.html",
    "a.jsonl",
    "a.csv",
    "a.tsv",
    "a.parquet",
    "a.arrow",
    "b.arrow",
    "a.warc",
    "a.xml",
    "a.tar",
    "a.zip",
    "a.jsonl.gz",
    "a.jsonl.bz2",
    "a.jsonl.xz",
    "a.jsonl.zst",
    "a.warc.gz",
    "a.tar.gz",
    "noending",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_valid_to_begin_with(tmp_path: Path, name: str) -> None:
    assert set(NAMES) == set(valid())
    (tmp_path / name).write_bytes(valid()[name])
    assert survived(tmp_path / name) or name == "a.html"


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=2000), keep=st.integers(0, 600))
@FUZZ
def test_random_bytes(tmp_path: Path, name: str, data: bytes, keep: int) -> None:
    (tmp_path / name).write_bytes(valid()[name][:keep] + data)
    survived(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@FUZZ
def test_valid_files_that_something_happened_to(tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = bytearray(valid()[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "double", "number"])):
            case "flip" if content:
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 300))]
            case "insert":
                content[at:at] = data.draw(st.binary(max_size=20))
            case "double":
                content[at:at] = content[at : at + data.draw(st.integers(1, 300))]
            case "number":
                content[at : at + 4] = data.draw(
                    st.sampled_from([b"\0" * 4, b"\xff" * 4, b"9999", b"\x7f\xff\xff\xff"])
                )
    (tmp_path / name).write_bytes(content)
    survived(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.warc", "a.xml", "a.html"])
def test_a_hundred_megabytes_on_one_line(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.write(valid()[name])
        for _ in range(100):
            file.write(b"x" * (1 << 20))
    config = GatherConfig(source=(str(tmp_path / name),))
    (found,) = find(config)
    items = list(Reading(found, config).items(Mark()))
    bad = [item for item in items if isinstance(item, BadRecord)]
    documents = [item for item in items if isinstance(item, Document)]
    if name == "a.txt":
        assert sum(len(one.text) for one in documents) == len(valid()[name]) + (100 << 20)
    else:
        assert {item.reason for item in bad} <= {"too-large", "bad-warc", "bad-json", "bad-length"}
    assert all(len(one.text) <= 16 << 20 for one in documents)
