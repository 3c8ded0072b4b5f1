"""Any bytes under any name: a reader says what is wrong with them, and never raises."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gather_world import outcome, page, response
from hostile import NAMES, PACK, read, survived, valid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_media_files import tar

from underlay.data import GatherConfig
from underlay.data.document import Document
from underlay.data.gather.items import BadRecord, Mark
from underlay.data.gather.kinds import is_hidden, kind_of
from underlay.data.gather.run import Reading, find
from underlay.data.gather.workers import Workers

FUZZ = settings(max_examples=60, deadline=None)
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def far_member() -> bytes:
    """A zip whose directory says that its first member begins at 65,535."""
    data = bytearray(valid()["a.zip"])
    at = data.index(b"PK\x01\x02") + 42  # APPNOTE 4.3.12: the relative offset of the local header
    data[at : at + 4] = (65_535).to_bytes(4, "little")
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """The same bytes, but something happened to them."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "double", "number"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 300))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=20))
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 300))]
            case "number":
                data[at : at + 4] = draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b"9999", b"\x7f\xff\xff\xff"]))
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_valid_to_begin_with(name: str) -> None:
    with Workers(1, 60) as workers:
        made = survived(name, valid()[name], workers)
    assert made
    assert not [one for one in made if isinstance(one, BadRecord)] or name == "a.csv"


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=2000), keep=st.integers(0, 600))
@FUZZ
def test_random_bytes(name: str, data: bytes, keep: int) -> None:
    survived(name, valid()[name][:keep] + data)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@FUZZ
def test_valid_files_that_something_happened_to(name: str, data: st.DataObject) -> None:
    survived(name, data.draw(changed(valid()[name])))


@pytest.mark.parametrize("name", [name for name in NAMES if not kind_of(name).packing and name != "noending"])
@given(data=st.data(), ending=st.sampled_from([".gz", ".bz2", ".xz", ".zst"]))
@settings(max_examples=20, deadline=None)
def test_files_that_something_happened_to_before_they_were_packed(name: str, data: st.DataObject, ending: str) -> None:
    survived(name + ending, PACK[ending](data.draw(changed(valid()[name]))))


def test_pdf_files_that_something_happened_to() -> None:
    with Workers(1, 60) as workers:

        @given(changed(valid()["a.pdf"]))
        @FUZZ
        def check(data: bytes) -> None:
            assert survived("a.pdf", data, workers)

        check()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@FEW
def test_what_is_good_beside_it_comes_through(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("source")
    (folder / name).write_bytes(data.draw(changed(valid()[name])))
    (folder / "0.txt").write_text("Before it.")
    (folder / "z.jsonl").write_text('{"text": "Behind it."}\n')
    documents, ledger = outcome(tmp_path_factory.mktemp("made"), folder)
    assert {"Before it.", "Behind it."} <= {document.text for document in documents}
    of_it = [one for one in (*documents, *ledger) if one.source.startswith(str(folder / name))]
    assert of_it or name == "noending"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60))
@FUZZ
def test_any_name_is_of_some_kind(name: str) -> None:
    is_hidden(name)
    survived(name, b"words")


FOUND = {
    "blanks that only text knows": ("a.txt", b"\x1f\x1c"),
    "nothing but a byte order mark": ("a.txt", b"\xff\xfe\0\0"),
    "more bytes in UTF-8 than in UTF-16": ("a.txt", b"\xff\xfe" + "\u4e2d".encode("utf-16-le") * 2000),
    "a zero character in JSON": ("a.jsonl", b'{"text": "a\\u0000b"}\n'),
    "nothing but one": ("a.jsonl", b'{"text": "\\u0000"}\n'),
    "a zero byte in a dump": ("a.xml", valid()["a.xml"].replace(b"[[b|c]]", b"\0words")),
    "a zero byte in an address": ("a.warc", valid()["a.warc"].replace(b"http://a", b"http:\0/a")),
    "a member that is said to begin behind the end": ("a.zip", far_member()),
}


@pytest.mark.parametrize("found", FOUND)
def test_what_fuzzing_found(found: str) -> None:
    survived(*FOUND[found])


def test_a_damaged_part_of_columns_costs_no_other() -> None:
    table = pa.table({"text": [f"{number} words" for number in range(30)]})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=10, compression="none", use_dictionary=False)
    parquet = bytearray(file.getvalue())
    at = pq.ParquetFile(io.BytesIO(parquet)).metadata.row_group(1).column(0).data_page_offset
    parquet[at : at + 8] = b"\xff" * 8
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    arrow = file.getvalue().replace(b"10 words", b"1\xff words")
    for name, data in (("a.parquet", bytes(parquet)), ("a.arrow", arrow)):
        made = survived(name, data)
        texts = {one.text for one in made if isinstance(one, Document)}
        assert {f"{number} words" for number in (*range(10), *range(20, 30))} <= texts, name
        assert [one.reason for one in made if isinstance(one, BadRecord)][:1] == [f"bad-{name[2:]}"]


def test_sizes_that_do_not_fit_into_the_ledger_are_told_as_the_most_that_does(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("a.txt", "words")
        writer.infolist()[0].file_size = (1 << 64) - 1  # stands in the directory alone, as a zip64 field
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.zip").write_bytes(archive.getvalue())
    (tmp_path / "source" / "b.txt").write_text("Behind it.")
    documents, ledger = outcome(tmp_path, tmp_path / "source")
    assert [document.text for document in documents] == ["Behind it."]
    assert [(entry.reason, entry.bytes) for entry in ledger] == [("bomb", 1 << 50)]


def test_a_record_that_does_not_say_its_type_is_told() -> None:
    (bad,) = survived("a.warc", response(page("x")).replace(b"WARC-Type", b"WARC-Tipe"))
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.offset) == ("bad-warc", 0)


def test_reading_can_begin_again_at_a_first_member_that_is_hidden() -> None:
    assert isinstance(read("a.tar", tar({".hidden": b"x", "a.txt": b"words"}))[0], Mark)


def test_zero_characters_are_left_out_of_a_text() -> None:
    (document,) = survived(*FOUND["a zero character in JSON"])
    assert isinstance(document, Document)
    assert document.text == "ab"


BOMB = 48 << 20
BOMBS = {
    "a.txt": b"words \n",
    "a.jsonl": b'{"text": "words"}\n',
    "a.csv": b'text\n"',
    "a.warc": valid()["a.warc"],
    "a.xml": valid()["a.xml"][: -len("</mediawiki>")],
    "a.tar": valid()["a.tar"],
    "a.html": b"<html><p>",
}


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_neither_unpacked_nor_held(name: str, ending: str) -> None:
    data = PACK[ending](BOMBS[name] + b"x" * BOMB)
    tracemalloc.start()
    items = read(name + ending, data)  # which checks how much is unpacked
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "too-large" in {item.reason for item in items if isinstance(item, BadRecord)}
    assert peak < 32 << 20, "most of it the window of xz or zstd, and buffers"


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
