"""Images and recordings with their words: beside each other in folders, in tars, and named by records."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from gather_world import DATA, PARAGRAPH, gathered, only, outcome, real, refusal

from underlay.data import GatherConfig, fingerprint

PNG, WAV = b"\x89PNG\r\n\x1a\nnot much", b"RIFF\x04\0\0\0WAVE"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar(members: dict[str, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def test_captions_beside_images_and_recordings(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "cat.png").write_bytes(PNG)
    (folder / "cat.txt").write_text("A cat.\n")
    (folder / "sub" / "seven.wav").write_bytes(WAV)
    (folder / "sub" / "seven.txt").write_text("seven")
    (folder / "notes.txt").write_text(PARAGRAPH)
    documents, ledger = outcome(tmp_path, folder)
    assert {document.text: document.media for document in documents} == {
        "A cat.\n": f"{sha(PNG)}:{folder}/cat.png",
        "seven": f"{sha(WAV)}:{folder}/sub/seven.wav",
        PARAGRAPH: "",
    }
    assert not ledger


def test_the_same_words_for_other_pictures_are_other_documents(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, data in (("a", PNG), ("b", PNG + b"2"), ("c", PNG)):
        (folder / f"{name}.png").write_bytes(data)
        (folder / f"{name}.txt").write_text("A cat.")
    assert len({document.id for document in gathered(tmp_path, folder)}) == 2


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_records_name_what_they_describe(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "source" / "deep"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "cat.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    names = ["images/cat.png", "images/../images/cat.png", "images/dog.png", "../../secret.png", "/etc/x.png"]
    if ending == "jsonl":
        rows = [json.dumps({"file_name": name, "caption": f"{name}."}) for name in names]
    else:
        rows = ["file_name,caption", *(f"{name},{name}." for name in names)]
    (folder / f"metadata.{ending}").write_text("\n".join(rows))
    documents, ledger = outcome(tmp_path, tmp_path / "source")
    assert [document.text for document in documents] == [f"{name}." for name in names[:2]]
    assert {document.media for document in documents} == {f"{sha(PNG)}:{tmp_path}/source/deep/images/cat.png"}
    assert [entry.reason for entry in ledger] == ["no-media"] * 3


def test_the_fingerprint_follows_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "cat.txt").write_text("A cat.")
    config = GatherConfig(source=(str(folder),))
    prints = [fingerprint(config)]
    for data in (PNG, PNG + b"2"):
        (folder / "cat.png").write_bytes(data)
        prints.append(fingerprint(config))
    (folder / "other.png").write_bytes(PNG)
    prints.append(fingerprint(config))
    assert len(set(prints[:3])) == 3
    assert prints[3] == prints[2], "nothing reads a picture that nobody describes"


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_of_samples(tmp_path: Path, kind: int) -> None:
    deep = "f" * 90 if kind == tarfile.USTAR_FORMAT else "ü" * 60
    members = {
        f"{deep}/0001.png": PNG,
        f"{deep}/0001.txt": b"A cat.",
        "0002.json": json.dumps({"caption": "A dog.", "license": "MIT"}).encode(),
        "0002.png": PNG + b"2",
        "0003.png": PNG + b"3",
        "0004.wav": WAV,
        "0004.seg.txt": b"four",
        "notes.txt": PARAGRAPH.encode(),
        "rows.jsonl": b'{"text": "row one"}\n{"text": 2}\n',
        "._0001.png": b"hidden",
        "inner.tar": b"tar",
    }
    path = tmp_path / "shard.tar"
    path.write_bytes(tar(members, kind))
    documents, ledger = outcome(tmp_path, path)
    assert {document.text: document.media.partition(":")[::2] for document in documents} == {
        "A cat.": (sha(PNG), f"{deep}/0001.png"),
        "A dog.": (sha(PNG + b"2"), "0002.png"),
        "four": (sha(WAV), "0004.wav"),
        PARAGRAPH: ("", ""),
        "row one": ("", ""),
    }
    assert {document.source for document in documents} == {
        f"{path}/{name}" for name in (f"{deep}/0001.txt", "0002.json", "0004.seg.txt", "notes.txt", "rows.jsonl")
    }
    by_text = {document.text: document for document in documents}
    assert by_text["A dog."].licence == "MIT"
    with tarfile.open(path) as archive:
        assert by_text[PARAGRAPH].offset == archive.getmember("notes.txt").offset
    assert [(entry.source, entry.reason) for entry in ledger] == [
        (f"{path}/0003.png", "no-caption"),
        (f"{path}/rows.jsonl", "no-text"),
        (f"{path}/inner.tar", "archive"),
    ]


def test_a_large_member_is_read_in_pieces(tmp_path: Path) -> None:
    rows = b"".join(b'{"text": "row %d"}\n' % number for number in range(1000))
    path = tmp_path / "shard.tar.gz"
    path.write_bytes(gzip.compress(tar({"rows.jsonl": rows, "rows.csv": b"text\n" + b"x y z\n" * 1000})))
    documents, ledger = outcome(tmp_path, path, max_document_bytes=1024)
    assert len(documents) == 2000
    assert not ledger


def test_damaged_tars(tmp_path: Path) -> None:
    data = tar({f"{number}.txt": f"{number} {PARAGRAPH}".encode() * 20 for number in range(10)})
    size = 512 * 3
    path = tmp_path / "a.tar"
    path.write_bytes(data[: 5 * size + 700])
    documents, ledger = outcome(tmp_path, path)
    assert len(documents) == 5
    assert [(entry.reason, entry.offset) for entry in ledger] == [("truncated", 5 * size)]
    damaged = bytearray(data)
    damaged[5 * size + 3] ^= 1
    path.write_bytes(damaged)
    documents, ledger = outcome(tmp_path / "again", path)
    assert len(documents) == 9
    assert [(entry.reason, entry.offset) for entry in ledger] == [("bad-tar", 5 * size)]


def test_a_zip_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("texts/a.txt", PARAGRAPH)
        archive.writestr("0001.png", PNG)
        archive.writestr("0001.txt", "A cat.")
        archive.writestr("../../escape.txt", "outside")
    documents, _ = outcome(tmp_path, path)
    assert {document.text for document in documents} == {PARAGRAPH, "A cat."}
    assert not (tmp_path.parent / "escape.txt").exists()


def test_a_zip_that_is_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", PARAGRAPH)
        archive.writestr("b.txt", "x" * (100 << 20))
        archive.writestr("c.txt", PARAGRAPH + "2")
    documents, (entry,) = outcome(tmp_path, path)
    assert [document.text for document in documents] == [PARAGRAPH]
    assert entry.reason == "bomb"


def test_a_damaged_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", PARAGRAPH)
        archive.writestr("b.txt", PARAGRAPH + "2")
    data = path.read_bytes()
    path.write_bytes(data.replace(PARAGRAPH.encode() + b"2", PARAGRAPH.encode() + b"3"))
    _, (entry,) = outcome(tmp_path, path)
    assert entry.reason == "truncated"
    path.write_bytes(data[:-30])
    assert "not a zip archive" in refusal(tmp_path / "again", path)


@real("udhr2")
def test_a_real_zip_of_languages(tmp_path: Path) -> None:
    path = DATA / "udhr2" / "udhr2.zip"
    documents, ledger = outcome(tmp_path, path)
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if info.filename.endswith(".txt")]
    assert {document.source for document in documents} | {entry.source for entry in ledger} == {
        f"{path}/{name}" for name in names
    }
    assert len(documents) > 300


@real("fluent-emoji")
def test_real_pictures_with_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "emoji"
    folder.mkdir()
    with tarfile.open(DATA / "fluent-emoji" / "png72.tar") as archive:
        archive.extractall(folder, filter="data")
    (folder / "metadata.jsonl").write_bytes((DATA / "fluent-emoji" / "metadata.jsonl").read_bytes())
    corpus = gathered(tmp_path, folder, text_fields=["name"])
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert len(corpus) + len(corpus.ledger()) == len(rows)
    assert len(corpus) > 1500
    for document in list(corpus)[:20]:
        digest, _, name = document.media.partition(":")
        assert digest == sha(Path(name).read_bytes())


@real("free-spoken-digits")
def test_real_recordings_without_words_are_told(tmp_path: Path) -> None:
    path = DATA / "free-spoken-digits" / "recordings.tar"
    readme = DATA / "free-spoken-digits" / "README.md"
    documents, ledger = outcome(tmp_path, path, readme)
    assert len(documents) == 1
    assert [entry.reason for entry in ledger] == ["no-caption"] * 3000


def test_one_caption_alone(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    (tmp_path / "cat.txt").write_text("A cat.")
    assert only(gathered(tmp_path, tmp_path / "cat.txt")).media == "", "a file that is named itself stands for itself"


MIT = b"Permission is hereby granted, free of charge, to any person obtaining a copy of this software\n"
TREE = {
    "proj/a.py": b"print(1)\n",
    "proj/sub/deep/b.py": b"print(2)\n",
    "proj/vendor/c.py": b"print(3)\n",
    "proj/vendor/d.py": b"# SPDX-License-Identifier: ISC\nprint(4)\n",
    "other/e.py": b"print(5)\n",
    "/abs/f.py": b"print(6)\n",
    "proj/vendor/COPYING": b"CC0 1.0 Universal\n",
    "proj/LICENSE": MIT,
    "proj/LICENSE.other": b"CC0 1.0 Universal\n",
    "other/LICENSE": b"Words that are no licence.\n",
}


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("ending", "pack"), [("tar", tar), ("tar.gz", lambda m: gzip.compress(tar(m))), ("zip", zipped)]
)
def test_licence_files_in_archives_count_for_what_is_beside_and_below_them(
    tmp_path: Path, ending: str, pack: object
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "LICENSE").write_text("Apache License, Version 2.0\n")
    (source / f"a.{ending}").write_bytes(pack(TREE))  # type: ignore[operator]
    found = {one.source.partition(f".{ending}/")[2]: one.licence for one in gathered(tmp_path, source)}
    assert {name.strip("/"): licence for name, licence in found.items()} == {
        "proj/a.py": "MIT",
        "proj/sub/deep/b.py": "MIT",
        "proj/vendor/c.py": "CC0-1.0",
        "proj/vendor/d.py": "ISC",
        "other/e.py": "Apache-2.0",
        "abs/f.py": "Apache-2.0",
    }


@pytest.mark.parametrize("pack", [tar, zipped])
def test_a_licence_at_the_top_of_an_archive_counts_for_all_of_it(tmp_path: Path, pack: object) -> None:
    path = tmp_path / ("a.tar" if pack is tar else "a.zip")
    deep = "/".join("d" * 90) + "/x.txt"
    path.write_bytes(pack({"a.txt": b"one", deep: b"two", "LICENSE": MIT}))  # type: ignore[operator]
    assert {one.licence for one in gathered(tmp_path, path)} == {"MIT"}


def test_a_licence_that_cannot_be_read_states_nothing(tmp_path: Path) -> None:
    data = bytearray(zipped({"LICENSE": MIT, "a.txt": b"words"}))
    data[data.index(b"LICENSE") + 7] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    assert only(gathered(tmp_path, tmp_path / "a.zip")).licence == "NOASSERTION"
