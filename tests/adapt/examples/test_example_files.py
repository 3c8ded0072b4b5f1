"""Files: the same records whatever holds them, places that people find again, and hostile files refused in bounds."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from example_files import lines, read, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.adapt.examples import ExamplesConfig, Label, Tags, fingerprint, read_examples
from underlay.errors import UserError

RECORDS = [
    {"text": "plain", "label": "a"},
    {"text": 'with "quotes", commas; and\nlines', "label": "b"},
    {"text": "Größe 日本", "label": "a"},
]
LABELS = [Label(one["text"], (one["label"],)) for one in RECORDS]


def as_table(delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["text", "label"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(RECORDS)
    return out.getvalue().encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), out, row_group_size=2)
    return out.getvalue()


LAYOUTS: dict[str, Callable[[], bytes]] = {
    "json": lambda: json.dumps(RECORDS, indent=1).encode(),
    "wrapped.json": lambda: json.dumps({"version": "1", "rows": RECORDS}).encode(),
    "jsonl": lambda: "\n\n".join(map(json.dumps, RECORDS)).encode(),
    "ndjson": lambda: b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, RECORDS)).encode(),
    "csv": as_table,
    "semicolons.csv": lambda: as_table(";"),
    "parquet": as_parquet,
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd.compress,
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_records_are_the_same_whatever_holds_them(tmp_path: Path, layout: str, packing: str) -> None:
    path = tmp_path / f"file.{layout}{packing}"
    path.write_bytes(PACKINGS[packing](LAYOUTS[layout]()))
    if layout == "parquet" and packing:
        assert "Parquet is compressed already" in refusal(path)
    else:
        assert [one.body for one in read(path).examples] == LABELS


def test_tables_of_tabs_know_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\nsay "hi\ta\n"x"\tb\n')
    assert [one.body.text for one in read(tmp_path / "a.tsv").examples] == ['say "hi', '"x"']


def test_places_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(["", json.dumps(RECORDS[0]), "{", "", json.dumps(RECORDS[1])]))
    reading = read(path)
    assert [one.line for one in reading.examples] == [2, 5]
    assert reading.left_out.first["a line that is not JSON"].startswith(f"{path}:3 ")


def test_questions_of_an_article_are_records(tmp_path: Path) -> None:
    qas = [{"question": f"Who {n}?", "answers": [{"text": "Bees", "answer_start": 0}]} for n in range(2)]
    article = {"title": "Bees", "paragraphs": [{"context": "Bees fly.", "qas": qas}, {"context": "x"}, 3]}
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "1.1", "data": [article]}))
    reading = read(path)
    assert [(one.body.question, one.line) for one in reading.examples] == [("Who 0?", 1), ("Who 1?", 2)]
    assert reading.left_out.counts.total() == 2


CONLL = """-DOCSTART-\tO

# sent_id = 1
Ann\tB-person
\t
#\tO
ran  \t\tO

-DOCSTART- -X- O O
New NNP B-LOC
York NNP I-LOC
# X O



alone
now O
"""


def test_sentences_in_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(CONLL)
    reading = read(path)
    assert [(one.line, one.body) for one in reading.examples] == [
        (4, Tags(("Ann",), ("B-person",))),
        (6, Tags(("#", "ran"), ("O", "O"))),
        (10, Tags(("New", "York", "#"), ("B-LOC", "I-LOC", "O"))),
    ]
    assert dict(reading.left_out.first) == {"a word without a tag": f"{path}:16 (line 16)"}
    (tmp_path / "other.txt").write_text(CONLL)
    assert "say what it is with `layout`" in refusal(tmp_path / "other.txt")
    assert len(read(tmp_path / "other.txt", layout="conll").examples) == 3


def test_a_sentence_without_end_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("word O\n" * 1000 + "\nAnn B-x\n")
    reading = read(tmp_path / "a.conll", max_record_bytes=1024)
    assert [(one.line, one.body.words) for one in reading.examples] == [(1002, ("Ann",))]
    assert reading.left_out.first == {"a record larger than max_record_bytes": f"{tmp_path / 'a.conll'}:1"}


def test_parquet_tells_what_its_numbers_mean(tmp_path: Path) -> None:
    label = {"_type": "ClassLabel", "names": ["ham", "spam"]}
    tags = {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": ["O", "B-x"]}}
    told = {"info": {"features": {"label": label, "ner_tags": tags}}}
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())], {"huggingface": json.dumps(told)})
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": -1}]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "a.parquet")
    reading = read(tmp_path / "a.parquet")
    assert [one.body.labels for one in reading.examples] == [("spam",), ("ham",)]
    assert dict(reading.left_out.counts) == {"the label is missing or null": 1}
    schema = pa.schema([("tokens", pa.list_(pa.string())), ("ner_tags", pa.list_(pa.int8()))], schema.metadata)
    pq.write_table(pa.Table.from_pylist([{"tokens": ["x"], "ner_tags": [1]}], schema), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet").examples[0].body == Tags(("x",), ("B-x",))


def test_folders_are_read_without_what_is_beside_the_data(tmp_path: Path) -> None:
    lines(tmp_path / "b.jsonl", RECORDS[1])
    lines(tmp_path / "a.jsonl", RECORDS[0])
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (tmp_path / "dataset_info.json").write_text("{}")
    reading = read(tmp_path)
    assert [Path(one.source).name for one in reading.examples] == ["a.jsonl", "b.jsonl"]
    assert {one.licence for one in reading.examples} == {"CC-BY-4.0"}
    assert [one.body for one in read(tmp_path / "*.jsonl").examples] == LABELS[:2]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "notes.txt").write_text("x")
    assert "no files in it that end in" in refusal(tmp_path / "sub")


LONG = json.dumps({"text": "x" * 2000, "label": "a"})
HOSTILE: dict[str, bytes] = {
    "a record larger": f"{LONG}\n{json.dumps(RECORDS[0])}\n{json.dumps(RECORDS[1])}".encode(),
    "zero bytes": b'{"text": "\0"}\n' + "\n".join(map(json.dumps, RECORDS)).encode(),
    "not UTF-8": b'{"text": "\xff"}\n' + "\n".join(map(json.dumps, RECORDS)).encode(),
    "a line that is not JSON": b"[" * 100_000 + b"\n" + "\n".join(map(json.dumps, RECORDS)).encode(),
    "no object": b"[1, 2]\n" + "\n".join(map(json.dumps, RECORDS)).encode(),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_a_hostile_line_costs_itself_alone(tmp_path: Path, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(HOSTILE[reason])
    reading = read(tmp_path / "a.jsonl", max_record_bytes=200_000 if "JSON" in reason else 1024)
    assert len(reading.examples) >= 2
    ((found, count),) = reading.left_out.counts.items()
    assert (reason in found, count) == (True, 1)
    assert reading.left_out.first[found].startswith(f"{tmp_path / 'a.jsonl'}:1")


@pytest.mark.parametrize("layout", ["json", "jsonl", "csv", "parquet"])
def test_a_record_that_is_too_large_costs_itself_alone(tmp_path: Path, layout: str) -> None:
    records = [RECORDS[0], {"text": "x" * 2000, "label": "a"}, RECORDS[1]]
    path = tmp_path / f"a.{layout}"
    if layout == "json":
        path.write_text(json.dumps(records))
    elif layout == "jsonl":
        lines(path, *records)
    elif layout == "csv":
        path.write_text(
            "".join(
                f'"{a}","{b}"\n'
                for a, b in [("text", "label"), *((r["text"].replace('"', '""'), r["label"]) for r in records)]
            )
        )
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    reading = read(path, max_record_bytes=1024)
    assert [one.body.text for one in reading.examples] == [RECORDS[0]["text"], RECORDS[1]["text"]]
    assert dict(reading.left_out.counts) == {"a record larger than max_record_bytes": 1}
    assert len(read(path).examples) == 3


def test_rows_that_do_not_fit_the_first_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'text,label\nx,a\ny\n"{"z" * 2000}",b\nw,b,c\nv,b\n')
    reading = read(tmp_path / "a.csv", max_record_bytes=1024)
    assert [one.line for one in reading.examples] == [2, 6]
    assert sorted(reading.left_out.counts.values()) == [1, 2]
    (tmp_path / "b.csv").write_text("text,text\nx,a\n")
    assert "two columns are called 'text'" in refusal(tmp_path / "b.csv")


WHOLE = json.dumps(RECORDS).encode()
REFUSED: dict[str, tuple[bytes, str]] = {
    "deep.json": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "cut.json": (WHOLE[:-5], "not JSON"),
    "lines.json": (b'{"text": "a"}\n{"text": "b"}', "is it JSONL"),
    "two.json": (b'{"a": [], "b": []}', "an object with the arrays 'a', 'b'"),
    "none.json": (b'{"a": 1}', "an object with no array"),
    "text.json": (b'"text"', "not an array of records"),
    "latin.json": (b'["\xe4"]', "not UTF-8 at byte 2"),
    "digits.json": (b"[" + b"9" * 10_000 + b"]", "not JSON"),
    "large.json": (b" " * 5000, "larger than 4096 bytes"),
    "empty.jsonl": (b"", "there are no records"),
    "pickled.parquet": (pickle.dumps(RECORDS), "not Parquet"),
    "cut.parquet": (as_parquet()[:-20], "not Parquet, or damaged"),
    "cut.jsonl.gz": (gzip.compress(WHOLE * 50)[:-20], "bring the file again"),
    "bomb.jsonl.gz": (gzip.compress(b" " * (80 << 20)), "times its size"),
    "wrong.jsonl.xz": (b"not xz", "damaged xz data"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_wrong_is_one_line(tmp_path: Path, name: str) -> None:
    data, said = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    complaint = refusal(tmp_path / name, max_file_bytes=1 << 18 if name != "large.json" else 4096)
    assert said in complaint
    assert name in complaint


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "gone.jsonl")
    assert "name at least one file" in refusal()


@settings(max_examples=200)
@given(st.sampled_from([*LAYOUTS, "conll"]), st.data())
def test_damage_anywhere_is_refused_or_counted(
    tmp_path_factory: pytest.TempPathFactory, layout: str, data: st.DataObject
) -> None:
    whole = CONLL.encode() if layout == "conll" else LAYOUTS[layout]()
    at = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=8))
    path = tmp_path_factory.getbasetemp() / f"damaged.{layout}"
    path.write_bytes(whole[:at] + junk + whole[at + data.draw(st.integers(0, 8)) :])
    said = ""
    try:
        read_examples(ExamplesConfig(source=(str(path),)))
    except UserError as error:
        said = str(error)
    assert "\n" not in said


def test_the_fingerprint_follows_bytes_and_licences(tmp_path: Path) -> None:
    config = ExamplesConfig(source=(str(lines(tmp_path / "a.jsonl", *RECORDS)),))
    first = fingerprint(config)
    assert fingerprint(config) == first
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    second = fingerprint(config)
    lines(tmp_path / "a.jsonl", *RECORDS[:2])
    assert len({first, second, fingerprint(config)}) == 3
