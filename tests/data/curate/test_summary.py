"""What a data card counts: it adds up, it is the same each time, and it shows nothing private."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from underlay.data import Attributes, Corpus, CurateConfig, Document, TagConfig, curate, tag, write_corpus
from underlay.data.corpus import Entry
from underlay.data.curate import summary
from underlay.data.curate.decide import decide
from underlay.data.curate.shown import beginning
from underlay.data.curate.summary import Summary, place_of, summarize

PROSE = "The quick brown fox jumps over the lazy dog, and then she goes home to Kenya with {}.\nIt sleeps until {}.\n"


def documents() -> list[Document]:
    places = ["books/a.txt", "books/b.txt", "https://example.org/x", "https://example.org/y", "alone.txt"]
    found = [
        Document(PROSE.format(f"{name} {'x' * 40}", name * 9), source, 3, 9, "MIT", "text", 17, f"20{n:02d}-01-01")
        for n, (name, source) in enumerate(zip("abcde", places, strict=True))
    ]
    same = [Document(found[0].text, f"copy{n}.txt", 1, 2, "CC0-1.0", "text") for n in range(3)]
    short = [Document("tiny me@example.org", "tiny.txt", 1, 1, "MIT", "markdown")]
    private = Document(
        PROSE.format("somebody", "noon") + "Write to you@example.org or me@example.org.", "p", 1, 1, "MIT", "text"
    )
    return [*found, *same, *short, private]


def summarized(folder: Path, **settings: object) -> tuple[Summary, Corpus]:
    failed = Entry("", "broken.bin", 4, 12, "gather", "drop", "binary", "a zero byte at offset 3")
    raw = write_corpus(folder / "raw", documents(), [failed])
    attributes = tag(raw, TagConfig(), folder / "attributes")
    config = CurateConfig(near_duplicates=False, **settings)  # type: ignore[arg-type]
    verdicts = decide(raw, attributes, config)
    corpus = curate(raw, attributes, config, folder / "curated", verdicts=verdicts)
    return summarize(raw, attributes, verdicts, corpus), corpus


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return summarized(tmp_path_factory.mktemp("summary"))[0]


def test_the_funnel_adds_up(found: Summary) -> None:
    assert (found.found.found, found.found.kept) == (11, 6)
    drops = {drop.reason: drop.documents for drop in found.drops if drop.documents}
    assert drops == {"binary": 1, "too-short": 1, "duplicate": 3}
    assert found.found.found - sum(drops.values()) == found.found.kept
    assert found.found.found_bytes == sum(len(one.text.encode()) for one in documents()) + 12
    conditions = {drop.reason: drop.condition for drop in found.drops}
    assert conditions["too-short"] == "text.characters >= 100"
    assert next(drop.reason for drop in found.drops) == "binary"  # gathering comes first


def test_shares_are_of_what_was_found_and_kept(found: Summary) -> None:
    assert {name: (share.found, share.kept) for name, share in found.kinds.items()} == {
        "text": (9, 6),
        "markdown": (1, 0),
    }
    assert {name: (share.found, share.kept) for name, share in found.licences.items()} == {
        "MIT": (7, 6),
        "CC0-1.0": (3, 0),
    }
    assert {name: share.kept for name, share in found.places.items() if share.kept} == {
        "books/": 2,
        "example.org": 2,
        "alone.txt": 1,
        "p": 1,
    }
    assert {year: share.kept for year, share in found.years.items()} == {
        "2000": 1, "2001": 1, "2002": 1, "2003": 1, "2004": 1, "unknown": 1,
    }  # fmt: skip
    assert sum(share.found for share in found.sizes.values()) == 10
    assert sum(share.kept for share in found.sizes.values()) == 6
    assert all(share.kept <= share.found for share in found.sizes.values())


def test_terms_are_counted_before_and_after(found: Summary) -> None:
    assert (found.terms["female"].found, found.terms["female"].kept) == (9, 6)
    assert (found.terms["africa"].found, found.terms["africa"].kept) == (9, 6)
    assert found.terms["male"].found == 0
    assert (found.terms_in.found, found.terms_in.kept) == (10, 6)
    assert found.languages == {}  # nobody looked


def test_copies_and_private_data(found: Summary) -> None:
    assert found.copies == {"duplicate": 3}
    (cluster,) = found.largest
    assert (found.clusters, cluster.dropped, cluster.source) == (1, 3, "books/a.txt")
    assert found.private == {"EMAIL": 2}
    assert found.changes == {"private-data": 1}


def test_samples_show_why_and_nothing_private(found: Summary) -> None:
    assert set(found.samples) == {"binary", "too-short", "duplicate", "kept"}
    (short,) = found.samples["too-short"]
    assert (short.source, short.figure, short.text) == ("tiny.txt", "text.characters = 19", "tiny <EMAIL>")
    (broken,) = found.samples["binary"]
    assert (broken.id, broken.source, broken.line, broken.figure) == ("", "broken.bin", 4, "a zero byte at offset 3")
    assert len(found.samples["duplicate"]) == 2
    assert "@" not in str(found.samples)


def test_it_is_the_same_each_time(tmp_path: Path, found: Summary) -> None:
    assert summarized(tmp_path)[0] == found


def test_what_is_excluded_is_counted_and_not_shown(tmp_path: Path) -> None:
    raw = write_corpus(tmp_path / "raw", documents())
    attributes = tag(raw, TagConfig(), tmp_path / "attributes")
    config, out = CurateConfig(near_duplicates=False), {documents()[1].id}
    verdicts = decide(raw, attributes, config, out)
    corpus = curate(raw, attributes, config, tmp_path / "curated", verdicts=verdicts, out=out)
    found = summarize(raw, attributes, verdicts, corpus)
    assert {drop.reason: drop.documents for drop in found.drops}["excluded"] == 1
    assert "excluded" not in found.samples
    assert documents()[1].id not in str(found.samples)


def test_memory_holds_only_what_is_frequent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "_REMEMBERED", 2)
    found, _ = summarized(tmp_path)
    assert len(found.places) <= 4
    assert "books/" in found.places


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("https://Example.org:80/a/b", "example.org"),
        ("http://[broken", "unknown"),
        ("http://me:secret@[::1]:8/x", "[::1]"),
        ("file:///home/me/a.txt", "unknown"),
        ("s3://bucket", "bucket"),
        ("python-stdlib/json/decoder.py", "python-stdlib/json/"),
        ("a.txt", "a.txt"),
        ("crawl.warc.gz#https://example.org/a#b", "example.org"),
        ("s3://bucket/crawl.warc.gz#http://example.org/", "example.org"),
        ("wiki/dump.xml#Some/page", "wiki/dump.xml#Some/"),
        ("/a.txt", "/"),
    ],
)
def test_places(source: str, place: str) -> None:
    assert place_of(source) == place


def test_languages_are_counted_and_terms_in_english_alone(tmp_path: Path) -> None:
    raw = write_corpus(tmp_path / "raw", documents())
    tag(raw, TagConfig(), tmp_path / "attributes")
    path = tmp_path / "attributes" / "attributes" / "00000.parquet"
    table = pq.read_table(path)
    english = [row % 2 == 0 for row in range(len(table))]
    codes = pa.array(["en" if one else "de" for one in english])
    pq.write_table(table.append_column("language.code", codes), path)
    attributes, config = Attributes(tmp_path / "attributes"), CurateConfig(near_duplicates=False)
    verdicts = decide(raw, attributes, config)
    found = summarize(raw, attributes, verdicts, curate(raw, attributes, config, tmp_path / "out", verdicts=verdicts))
    stays = verdicts.codes == -1
    assert {name: (share.found, share.kept) for name, share in found.languages.items()} == {
        "en": (sum(english), sum(stays[english])),
        "de": (len(english) - sum(english), sum(stays) - sum(stays[english])),
    }
    assert (found.terms_in.found, found.terms_in.kept) == (sum(english), sum(stays[english]))
    counts = np.array(table.column("terms.female").to_pylist())
    assert found.terms["female"].found == counts[english].sum()
    assert found.terms["female"].kept == counts[english & stays].sum()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short", "short"),
        ("one\n" * 20, "one\n" * 13 + "one …"),
        ("x" * 695 + " jane@example.org", "x" * 695 + " <EMA …"),
        ("a\n", "a"),
        ("", ""),
        ("y" * 20_000, "y" * 700 + " …"),
    ],
)
def test_beginnings(text: str, shown: str) -> None:
    assert beginning(text) == shown
