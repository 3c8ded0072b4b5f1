"""Sources: folders, patterns, URLs, and what they are under."""

import json
from pathlib import Path

import fsspec
import pytest
from gather_world import PARAGRAPH, gathered, only, outcome, refusal

from underlay.data import GatherConfig, fingerprint
from underlay.data.gather.licences import licence_of_page, spdx


@pytest.fixture
def memory() -> object:
    system = fsspec.filesystem("memory")
    files = {
        "/bucket/a.txt": PARAGRAPH,
        "/bucket/deep/rows.jsonl": '{"text": "row"}\n',
        "/bucket/deep/LICENSE": "Apache License, Version 2.0",
        "/bucket/.hidden/b.txt": "hidden",
        "/bucket/lib/library.json": "{}",
        "/bucket/lib/c.txt": "a library of ours",
        "/bucket/logo.png": "\x89PNG",
    }
    for path, text in files.items():
        system.pipe(path, text.encode())
    yield system
    system.rm("/bucket", recursive=True)


def test_a_url(tmp_path: Path, memory: object) -> None:
    documents, ledger = outcome(tmp_path, "memory://bucket")
    assert {document.source: document.licence for document in documents} == {
        "memory://bucket/a.txt": "NOASSERTION",
        "memory://bucket/deep/rows.jsonl": "Apache-2.0",
    }
    assert not ledger
    assert only(gathered(tmp_path / "one", "memory://bucket/a.txt")).source == "memory://bucket/a.txt"
    pattern = only(gathered(tmp_path / "glob", "memory://bucket/**/*.jsonl"))
    assert pattern.source == "memory://bucket/deep/rows.jsonl"


def test_the_fingerprint_of_a_url_follows_its_bytes(memory: fsspec.AbstractFileSystem) -> None:
    config = GatherConfig(source=("memory://bucket",))
    before = fingerprint(config)
    assert fingerprint(config) == before
    memory.pipe("/bucket/a.txt", b"other")
    assert fingerprint(config) != before


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("memory://nowhere", "no such file or folder"),
        ("nonsense://bucket", "Protocol not known"),
        ("memory://bucket/*.nothing", "no readable files"),
        ("/nowhere/*.txt", "no readable files"),
    ],
)
def test_sources_that_are_not_there(tmp_path: Path, memory: object, source: str, complaint: str) -> None:
    line = refusal(tmp_path, source)
    assert complaint in line
    assert line.startswith(f"source {source}: ")
    assert "\n" not in line


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PARAGRAPH)
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    document = only(gathered(tmp_path, f"file://{tmp_path}/a.txt"))
    assert (document.source, document.licence) == (f"file://{tmp_path}/a.txt", "Apache-2.0")


def test_a_pattern_of_paths(tmp_path: Path) -> None:
    (tmp_path / "books" / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt", "deep/c.md", "deep/d.txt"):
        (tmp_path / "books" / name).write_text(f"{name} {PARAGRAPH}")
    documents, _ = outcome(tmp_path, tmp_path / "books" / "**" / "*.txt", exclude=["*/d.txt"])
    assert [document.source for document in documents] == [f"{tmp_path}/books/a.txt", f"{tmp_path}/books/deep/b.txt"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text(PARAGRAPH)
    assert only(gathered(tmp_path, tmp_path / "a[1].txt")).text == PARAGRAPH


@pytest.mark.parametrize(
    ("stated", "identifier"),
    [
        ("mit", "MIT"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("apache-2.0", "Apache-2.0"),
        ("all rights\nreserved", "all rights reserved"),
        ("x" * 1000, "x" * 100),
        ("", "NOASSERTION"),
    ],
)
def test_stated_licences(stated: str, identifier: str) -> None:
    assert spdx(stated) == identifier


def test_licences_of_pages() -> None:
    assert licence_of_page('<link href="https://creativecommons.org/licenses/by/4.0/" rel="license">') == "CC-BY-4.0"
    assert licence_of_page('<a href="https://creativecommons.org/licenses/by/4.0/">one picture</a>') is None
    assert licence_of_page("<!-- SPDX-License-Identifier: MIT -->") == "MIT"


def test_a_damaged_card_states_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "one"}))
    for card in ("{", "[]", '{"license": 5}', "[" * 100_000):
        (tmp_path / "dataset_info.json").write_text(card)
        folder = tmp_path.with_name(f"{tmp_path.name}-{len(card)}")
        assert only(gathered(folder, tmp_path / "rows.jsonl")).licence == "NOASSERTION"
