"""Going on: a run that was killed makes the corpus of one that was not, and reads nothing twice that was kept."""

import bz2
import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gather_world import PARAGRAPH, contents, page, response
from test_dumps import HEAD, article
from test_media_files import PNG, tar

from underlay.data import Corpus, GatherConfig, gather
from underlay.data.gather import run
from underlay.data.gather.items import Mark
from underlay.data.gather.opening import zstd
from underlay.data.gather.parts import Parts


def words(number: int) -> str:
    rng = random.Random(number)
    return f"{number} " + " ".join(rng.choice(["river", "stone", "moss", "cat", "über"]) for _ in range(60))


def rows(count: int) -> bytes:
    return b"".join(
        json.dumps({"text": words(number)}).encode() + b"\n" if number % 50 else b"{broken\n" for number in range(count)
    )


def sources(folder: Path) -> Path:
    """A file of each kind that is read record by record, each with something broken in it."""
    folder.mkdir()
    pages = [response(page(words(number)), uri=f"http://a.example/{number}") for number in range(200)]
    pages[77] = pages[77].replace(b"Content-Length: ", b"Content-Length: 1")
    articles = [article(f"Page {number}", words(number), ns=number % 7 == 3) for number in range(400)]
    table = pa.table({"text": [words(number) if number % 9 else None for number in range(900)]})
    pq.write_table(table, folder / "d.parquet", row_group_size=100)
    with pa.ipc.new_stream(str(folder / "e.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    members = {
        f"{number:04d}.{ending}": data
        for number in range(150)
        for ending, data in (("png", PNG + bytes([number])), ("txt", words(number).encode() if number % 8 else b""))
    }
    files = {
        "a.jsonl": rows(600),
        "b.jsonl.gz": gzip.compress(rows(300)) + gzip.compress(rows(900)),
        "c.jsonl.zst": zstd.compress(rows(500))[:-10],
        "f.warc.gz": b"".join(map(gzip.compress, pages)),
        "g.xml.bz2": bz2.compress((HEAD + "".join(articles) + "</mediawiki>").encode()),
        "h.tar": tar(members),
        "i.csv": b"n,text\n" + b"".join(f'{n},"{words(n)}"\n'.encode() for n in range(500)),
        "j.txt": "\n\n".join(words(number) for number in range(700)).encode() + b"\n\ncaf\xe9\n",
        "k.html": page(PARAGRAPH),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_killed_anywhere_and_still_the_same(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(Path(__file__).with_name("killed_gather.py")),
        str(tmp_path),
        str(sources(tmp_path / "s")),
    ]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    found = json.loads(result.stdout)
    assert found["same"]
    assert found["files"] >= 2
    assert found["killed"] >= 8
    assert found["places"] == sorted(found["places"]), "what was kept was lost"
    assert len({tuple(place) for place in found["places"]}) >= 5
    assert found["left"] == []


class StoppedError(Exception):
    pass


def test_reading_goes_on_within_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after each part in turn, a run reads each record about once, and makes the same corpus."""
    config = GatherConfig(source=(str(sources(tmp_path / "s")),), piece_bytes=2048)
    gather(config, tmp_path / "calm", part_bytes=70_000)
    calm = contents(tmp_path / "calm")
    taken = 0
    add, write = Parts.add, Parts._write

    def counting(self: Parts, document: object) -> None:
        nonlocal taken
        taken += 1
        add(self, document)  # type: ignore[arg-type]

    def once(self: Parts, place: object) -> None:
        write(self, place)  # type: ignore[arg-type]
        raise StoppedError

    monkeypatch.setattr(Parts, "add", counting)
    monkeypatch.setattr(Parts, "_write", once)
    stops = 0
    while True:
        try:
            corpus = gather(config, tmp_path / f"try-{stops}", scratch=tmp_path / "scratch", part_bytes=70_000)
            break
        except StoppedError:
            stops += 1
            assert stops < 500, "it never gets further"
    assert stops > 20
    assert contents(corpus.folder) == calm
    assert taken == len(corpus), "nothing that was kept is read again"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_every_mark_leads_to_the_rest(tmp_path: Path) -> None:
    """Whatever the format: from any mark on, a reader yields what it yielded behind that mark."""
    config = GatherConfig(source=(str(sources(tmp_path / "s")),), piece_bytes=2048)
    for found in run.find(config):
        items = list(run.Reading(found, config).items(Mark()))
        places = [place for place, item in enumerate(items) if isinstance(item, Mark)]
        assert len(places) >= 7 or found.kind.reader == "html", found.file.name
        for place in places[:: max(1, len(places) // 12)]:
            mark = items[place]
            assert isinstance(mark, Mark)
            rest = [item for item in run.Reading(found, config).items(mark) if not isinstance(item, Mark)]
            assert rest == [item for item in items[place:] if not isinstance(item, Mark)], found.file.name


def test_where_parts_end_does_not_show_in_the_ledger(tmp_path: Path) -> None:
    """Nor where documents are excluded, which the ledger tells too."""
    source = tmp_path / "rows.jsonl"
    source.write_bytes(rows(500))
    config = GatherConfig(source=(str(source),))
    every = [document.id for document in gather(config, tmp_path / "all")]
    for name, size in (("whole", 1 << 30), ("parts", 10_000)):
        gather(config, tmp_path / name, part_bytes=size, excluded=frozenset(every[::7]))
    reasons = [entry.reason for entry in Corpus(tmp_path / "parts").ledger()]
    assert set(reasons) == {"bad-json", "excluded"}
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_short_texts_under_long_names_end_a_part_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held is bounded by what documents take in memory, of which their texts may be the least."""
    source = tmp_path / "rows.jsonl"
    named = [{"text": f"{number}", "url": f"http://a.example/{number}/{'x' * 1500}"} for number in range(100)]
    source.write_text("\n".join(map(json.dumps, named)))
    held: list[int] = []
    write = Parts._write

    def counting(self: Parts, place: object) -> None:
        held.append(len(self._documents))
        write(self, place)  # type: ignore[arg-type]

    monkeypatch.setattr(Parts, "_write", counting)
    assert len(gather(GatherConfig(source=(str(source),)), tmp_path / "made", part_bytes=20_000)) == 100
    assert held
    assert max(held) <= 20


def test_parts_of_another_run_are_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(rows(500))
    config = GatherConfig(source=(str(source),))

    write = Parts._write

    def once(self: Parts, place: object) -> None:
        write(self, place)  # type: ignore[arg-type]
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "_write", once)
        with pytest.raises(StoppedError):
            gather(config, tmp_path / "a", scratch=tmp_path / "scratch", part_bytes=10_000)
    source.write_bytes(rows(100))
    corpus = gather(config, tmp_path / "b", scratch=tmp_path / "scratch", part_bytes=10_000)
    assert len(corpus) == 98
