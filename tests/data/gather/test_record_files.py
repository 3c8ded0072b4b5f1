"""Records: JSONL, tables and columns, what is taken of them, and what is broken in them."""

import bz2
import csv
import gzip
import io
import json
import lzma
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gather_world import DATA, gathered, only, outcome, real, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.data.gather.opening import Limits, Stream, zstd
from underlay.data.gather.readers import columns
from underlay.data.gather.readers.dates import iso_date
from underlay.data.gather.readers.table import next_row

ROW = {"text": "one", "license": "cc-by-sa-4.0", "created": "2021-03-04T05:06:07Z", "url": "https://a.example/b"}


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("", bytes), (".gz", gzip.compress), (".zst", zstd.compress), (".xz", lzma.compress), (".bz2", bz2.compress)],
)
def test_jsonl_in_any_packing(tmp_path: Path, ending: str, pack: object) -> None:
    rows = [ROW, {"content": "zwei ü"}]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(pack(data))  # type: ignore[operator]
    (second, first), ledger = outcome(tmp_path, path)
    assert first.source == f"{path}#https://a.example/b"
    assert (first.text, first.licence, first.date, first.offset) == ("one", "CC-BY-SA-4.0", "2021-03-04", 0)
    assert (second.text, second.first_line, second.offset) == ("zwei ü", 2, data.index(b"\n") + 1)
    assert not ledger


def test_broken_lines_are_in_the_ledger_with_their_offsets(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good"}',
        b"{not json}",
        b"[" * 100_000,
        b'{"text": "caf\xe9"}',
        b'{"text": "a\0b"}',
        b'{"text": 5}',
        b'{"text": "  "}',
        b'["a", "list"]',
        b'{"text": "' + b"x" * 3_000_000 + b'"}',
        b'{"n": ' + b"9" * 10_000 + b"}",
        b"",
        b'{"text": "also good"}',
        b'{"text": "cut o',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    documents, ledger = outcome(tmp_path, path, max_document_bytes=1 << 20)
    assert [document.text for document in documents] == ["good", "also good"]
    assert {entry.line: entry.reason for entry in ledger} == {
        2: "bad-json",
        3: "bad-json",
        4: "not-utf8",
        5: "binary",
        6: "no-text",
        7: "empty",
        8: "no-text",
        9: "too-large",
        10: "bad-json",
        13: "bad-json",
    }
    assert [document.first_line for document in documents] == [1, 12]
    data = path.read_bytes()
    for entry in ledger:
        assert data[entry.offset :].startswith(lines[entry.line - 1])


def test_a_truncated_file_keeps_what_came_before(tmp_path: Path) -> None:
    data = gzip.compress("".join(json.dumps({"text": f"number {n} {n * n}"}) + "\n" for n in range(5000)).encode())
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    documents, ledger = outcome(tmp_path, path)
    assert len(documents) > 1000
    assert [entry.reason for entry in ledger] == ["bad-json", "truncated"]
    assert ledger[1].offset > documents[-1].offset


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2021-03-04", "2021-03-04"),
        ("2021-03-04T05:06:07+02:00", "2021-03-04"),
        ("2021-03", "2021-03"),
        ("2021", "2021"),
        (2021, "2021"),
        (1614834367, "2021-03-04"),
        (1614834367000, "2021-03-04"),
        (date(2021, 3, 4), "2021-03-04"),
        (datetime(2021, 3, 4, tzinfo=UTC), "2021-03-04"),
        ("2021-13-45", ""),
        ("yesterday", ""),
        ("20210304", ""),
        (float("nan"), ""),
        (float("inf"), ""),
        (10**400, ""),
        (True, ""),
        (None, ""),
    ],
)
def test_dates(value: object, expected: str) -> None:
    assert iso_date(value) == expected


def test_csv_with_quotes_and_newlines(tmp_path: Path) -> None:
    rows = [
        ["id", "text", "license"],
        ["1", 'He said "no",\nand left', "MIT"],
        ["2", "plain", ""],
        ["3"],
        ["4", " ", ""],
    ]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    documents, ledger = outcome(tmp_path, tmp_path / "rows.csv")
    assert [(one.text, one.licence, one.first_line) for one in documents] == [
        ('He said "no",\nand left', "MIT", 2),
        ("plain", "NOASSERTION", 3),
    ]
    assert [(entry.line, entry.reason) for entry in ledger] == [(4, "bad-row"), (5, "empty")]


def test_tables_name_the_columns_they_have(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question;answer\nwhat?;nothing\n")
    assert "no column text or" in (line := refusal(tmp_path, tmp_path / "rows.csv"))
    assert "question, answer (text_fields)" in line
    assert only(gathered(tmp_path / "again", tmp_path / "rows.csv", text_fields=["question"])).text == "what?"


def test_tsv_knows_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text('n\ttext\n1\t"a\n2\tb" c\n')
    documents, _ = outcome(tmp_path, tmp_path / "rows.tsv")
    assert [document.text for document in documents] == ['"a', 'b" c']


def test_a_quote_that_is_never_closed_costs_no_more_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text\ngood\n"open\n' + "row\n" * 3000)
    documents, ledger = outcome(tmp_path, tmp_path / "rows.csv", max_document_bytes=1024)
    assert documents[0].text == "good"
    assert documents[-1].text == "row"
    assert ledger[0].reason == "too-large"
    assert ledger[0].line == 3


CELLS = st.text(st.sampled_from('ab",;\n ü'), max_size=8)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=6), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=300, deadline=None)
def test_rows_are_what_the_standard_library_reads(rows: list[list[str]], end: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end).writerows(rows)
    with Stream(io.BytesIO(file.getvalue().encode()), None, Limits(1 << 40, 200)) as stream:
        read = list(iter(lambda: next_row(stream, b",", True, 1 << 20), None))
    oracle = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert [[cell.decode() for cell in row] for row in read] == oracle


@real("truthfulqa")
@real("sms-spam")
def test_real_tables_are_what_the_standard_library_reads(tmp_path: Path) -> None:
    for path in [*(DATA / "truthfulqa").glob("*.csv"), *(DATA / "sms-spam").glob("*.csv")]:
        with path.open(newline="", encoding="utf-8") as file:
            oracle = list(csv.reader(file))
        with Stream(path.open("rb"), None, Limits(1 << 40, 200)) as stream:
            read = list(iter(lambda: next_row(stream, b",", True, 1 << 20), None))
        assert [[cell.decode() for cell in row] for row in read] == [row or [""] for row in oracle]


def parquet(path: Path, rows: int = 3000) -> list[str]:
    texts = [f"text number {number}" for number in range(rows)]
    table = pa.table(
        {
            "text": texts,
            "other": list(range(rows)),
            "license": ["mit"] * rows,
            "date": [datetime(2020, 1, 1 + number % 28, tzinfo=UTC) for number in range(rows)],
        }
    )
    pq.write_table(table, path, row_group_size=1000)
    return texts


class Boasting(pq.ParquetFile):
    """Its second row group says that it has more rows than numbers can count, and cannot be read."""

    def iter_batches(self, batch_size: int = 1, row_groups: Any = (), **settings: Any) -> Any:
        if row_groups == [1]:
            raise pa.ArrowInvalid("damaged")
        return super().iter_batches(batch_size, row_groups=row_groups, **settings)

    @property
    def metadata(self) -> Any:
        return Metadata(super().metadata)


class Metadata:
    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def row_group(self, group: int) -> Any:
        boast = SimpleNamespace(num_rows=(1 << 63) - 1, total_byte_size=(1 << 63) - 1)
        return boast if group == 1 else self._whole.row_group(group)


def test_a_row_group_that_boasts_of_its_rows_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": ["one", "two", "three"]}), tmp_path / "rows.parquet", row_group_size=1)
    monkeypatch.setattr(columns, "pq", SimpleNamespace(ParquetFile=Boasting))  # corpora are read as ever
    documents, ledger = outcome(tmp_path, tmp_path / "rows.parquet")
    assert sorted(document.text for document in documents) == ["one", "three"]
    assert [entry.reason for entry in ledger] == ["bad-parquet"]


def test_parquet_in_row_groups(tmp_path: Path) -> None:
    texts = parquet(tmp_path / "rows.parquet")
    documents, ledger = outcome(tmp_path, tmp_path / "rows.parquet")
    assert [document.text for document in sorted(documents, key=lambda one: one.first_line)] == texts
    assert {document.licence for document in documents} == {"MIT"}
    assert {document.date for document in documents} == {f"2020-01-{day:02d}" for day in range(1, 29)}
    assert len({document.offset for document in documents}) == 3
    assert not ledger


def test_a_file_without_texts_says_what_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "rows.parquet")
    assert "there are question (text_fields)" in refusal(tmp_path, tmp_path / "rows.parquet")


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_a_copy_of_a_hugging_face_dataset(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    table = pa.table({"text": ["one", "two", None], "label": [1, 2, 3]})
    make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    for name in ("data-00000-of-00001.arrow", "cache-1234.arrow"):
        with make(str(folder / "train" / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (folder / "train" / "dataset_info.json").write_text('{"license": "odc-by", "features": {}}')
    (folder / "train" / "state.json").write_text("{}")
    (folder / "notes.md").write_text("about the set")
    documents, (entry,) = outcome(tmp_path, folder)
    assert {one.text: (one.first_line, one.licence) for one in documents} == {
        "one": (1, "ODC-By-1.0"),
        "two": (2, "ODC-By-1.0"),
    }
    assert (entry.line, entry.reason) == (3, "no-text")


def test_a_card_states_a_licence(tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-4.0\n---\n# A set\n")
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "set" / "data" / "train.parquet")
    found = {document.text: document.licence for document in gathered(tmp_path, tmp_path / "set")}
    assert found["one"] == "CC-BY-4.0"


def test_images_within_rows(tmp_path: Path) -> None:
    rows = pa.array([{"bytes": b"picture", "path": "a.png"}, {"bytes": b"other", "path": None}])
    pq.write_table(pa.table({"caption": ["A cat", "A dog"], "image": rows}), tmp_path / "rows.parquet")
    media = {document.text: document.media for document in gathered(tmp_path, tmp_path / "rows.parquet")}
    assert media["A cat"].endswith(":a.png")
    assert media["A dog"].endswith(f":{tmp_path}/rows.parquet#2")
    assert all(len(one.partition(":")[0]) == 64 for one in media.values())


@real("gutenberg")
def test_real_books(tmp_path: Path) -> None:
    path = DATA / "gutenberg" / "children.jsonl.xz"
    with lzma.open(path, "rt", encoding="utf-8") as file:
        first = [json.loads(line) for _, line in zip(range(3), file, strict=False)]
    (tmp_path / "books.jsonl.xz").write_bytes(path.read_bytes()[:3_000_000])
    documents, ledger = outcome(tmp_path, tmp_path / "books.jsonl.xz")
    assert [document.text for document in documents[:3]] == [book["text"].replace("\r", "") for book in first]
    assert [entry.reason for entry in ledger][-1] == "truncated"
    assert len(documents) > 20
