"""WARC in, text out: `gather` in both of its modes against datatrove's WarcReader and Trafilatura, one core each.

The pages of `../shared/data/warc-samples` are real but few: three whole archives are read as they are, and their
three different pages (example.com, iana.org, an article of the Aragonese Wikipedia of 72 kB) are repeated, each time
under another address and with the text of another real document (pages of C4, Wikipedia, news) in their midst, up to
the size asked for. So markup is real and repeats itself; texts are real and do not. Every record is packed by itself,
between a request and a record of metadata, as Common Crawl does it.

Both sides have trafilatura in the same version and prefer precision. Ours is `underlay gather` from files to a corpus
on disk, with one worker; datatrove hands documents on and writes nothing. Processes that a side starts are counted,
start included. Beside datatrove as it comes it runs without its sandbox, which shows what that costs, and without
`deduplicate`, which drops paragraphs that earlier pages had: only then do texts depend on their page alone, and can be
compared. MB are those of unpacked HTML; seconds are those of the processor.
"""

import gzip
import importlib.metadata
import itertools
import json
import re
import shutil
import statistics
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from curation import texts
from curation.sides import DATA, DATATROVE, Check, Options, Outcome, Prepared, Side, need, rounds, table, times_faster

SAMPLES = DATA / "warc-samples"
WHOLE = ("whirlwind/whirlwind.warc.gz", "example-iana.org-chunked.warc", "example-resource.warc.gz")
"""Archives whose pages are repeated."""
PLACES = (rb"mw-parser-output[^>]*>", rb"<body[^>]*>\s*<div[^>]*>", rb"<body[^>]*>\s*<div[^>]*>")
"""Behind what in them a text is put."""
MEGABYTES, TURNS, WARM = 30.0, 3, 6
TARGETS = {"fast": 5.0, "quality": 1.0}
ALIKE = 0.99


# --- The archive ---------------------------------------------------------------------------------------------------


def real_pages() -> list[bytes]:
    """The HTML of the first page in each archive."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    pages = []
    for name in WHOLE:
        with (SAMPLES / name).open("rb") as file:
            kinds = WarcRecordType.response | WarcRecordType.resource
            record = next(iter(ArchiveIterator(file, record_types=kinds)))
            if record.is_http:
                record.parse_http(auto_decode="all")
            pages.append(record.reader.read())
    return pages


def made_pages(pages: list[bytes]) -> Iterator[bytes]:
    """Real pages in turn, each with another real text in it."""
    documents = itertools.chain.from_iterable(
        zip(texts.web(), texts.wikipedia(), texts.news(), strict=False)  # as many of each
    )
    places = [re.search(place, page) for page, place in zip(pages, PLACES, strict=True)]
    turns = itertools.cycle(zip(pages, [place.end() for place in places if place], strict=True))
    for text in documents:
        page, at = next(turns)
        paragraphs = "".join(f"<p>{escape(line.strip())}</p>\n" for line in text.split("\n") if line.strip())
        yield page[:at] + b"\n" + paragraphs.encode() + page[at:]


def record(kind: str, address: str, content_type: str, block: bytes, more: str = "") -> bytes:
    """One record, packed."""
    name = uuid.uuid5(uuid.NAMESPACE_URL, kind + address)
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2024-05-18T01:58:10Z\r\nWARC-Record-ID: <urn:uuid:{name}>\r\n"
        f"WARC-Target-URI: {address}\r\nContent-Type: {content_type}\r\n{more}Content-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", 6)


def write_archive(path: Path, pages: Iterator[bytes], megabytes: float) -> tuple[int, float]:
    """Write pages up to a size; how many they are, and their MB."""
    size = count = 0
    with path.open("wb") as file:
        for count, html in enumerate(pages, 1):
            size += len(html)
            address = f"https://site-{count % 97}.example/pages/{count}"
            asked = f"GET /pages/{count} HTTP/1.1\r\nUser-Agent: CCBot/2.0\r\nAccept-Encoding: br,gzip\r\n\r\n"
            answer = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=UTF-8\r\nContent-Length: {len(html)}\r\n\r\n"
            file.write(record("request", address, "application/http; msgtype=request", asked.encode()))
            payload = "WARC-Identified-Payload-Type: text/html\r\n"
            file.write(
                record("response", address, "application/http; msgtype=response", answer.encode() + html, payload)
            )
            file.write(record("metadata", address, "application/warc-fields", b"fetchTimeMs: 412\r\n"))
            if size > megabytes * 1e6:
                break
    return count, size / 1e6


# --- The sides -----------------------------------------------------------------------------------------------------


def prepare(side: str, folder: Path) -> Prepared:
    """Read all archives, by `fast`, `quality`, or datatrove in one of three ways."""
    return _ours(side, folder) if side in TARGETS else _theirs(side, folder)


def _ours(side: str, folder: Path) -> Prepared:
    from underlay.data import Corpus
    from underlay.data.gather import GatherConfig, gather

    made = folder / f"made-{side}"

    def work(name: str = "warc") -> Corpus:
        shutil.rmtree(made, ignore_errors=True)
        return gather(GatherConfig(source=(str(folder / name),), html=side), made, processes=1)

    def tell(corpus: Corpus) -> dict[str, Any]:
        found = {document.source.partition("#")[2]: document.text for document in corpus}
        bad = Counter(entry.reason for entry in corpus.entries() if entry.stage == "gather")
        return _told(folder, side, found) | {"lost": dict(bad)}

    tell(work("warm"))
    return work, tell


def _theirs(side: str, folder: Path) -> Prepared:
    import cchardet  # noqa: F401 - now, for otherwise each page's process would import it again
    import magic  # noqa: F401
    import trafilatura  # noqa: F401
    import warcio.archiveiterator  # noqa: F401
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.readers import WarcReader
    from loguru import logger

    logger.remove()

    def work(name: str = "warc") -> tuple[dict[str, str], dict[str, int]]:
        extractor = Trafilatura(deduplicate=side != "datatrove, not deduplicating")
        documents = WarcReader(str(folder / name)).run()
        if side == "datatrove without sandbox":
            found = {one.metadata["url"]: extractor.extract(one.text) or "" for one in documents}
        else:
            found = {one.metadata["url"]: one.text for one in extractor.run(documents)}
        lost = {key: extractor.stats.stats[key].total for key in ("timeout", "clean_error", "broken_process")}
        return found, {key: count for key, count in lost.items() if count}

    def tell(made: tuple[dict[str, str], dict[str, int]]) -> dict[str, Any]:
        return _told(folder, side, made[0]) | {"lost": made[1]}

    tell(work("warm"))
    return work, tell


def _told(folder: Path, side: str, found: dict[str, str]) -> dict[str, Any]:
    found = {address: text.strip() for address, text in found.items() if text.strip()}
    (folder / f"{side}.json").write_text(json.dumps(found), "utf-8")
    return {"texts": len(found), "trafilatura": importlib.metadata.version("trafilatura")}


# --- The comparison ------------------------------------------------------------------------------------------------


def overlap(one: str, other: str) -> float:
    """Words that two texts share, by the mean of their words."""
    a, b = Counter(one.split()), Counter(other.split())
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def measure(options: Options) -> Outcome:
    """Make the archive, let the sides read it in turns, compare what they read."""
    need(SAMPLES, DATATROVE)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pages = real_pages()
        for name in ("warm", "warc"):
            (folder / name).mkdir()
            for file in WHOLE:
                shutil.copy(SAMPLES / file, folder / name)
        write_archive(folder / "warm" / "made.warc.gz", itertools.islice(made_pages(pages), WARM), 1.0)
        count, size = write_archive(folder / "warc" / "made.warc.gz", made_pages(pages), MEGABYTES * options.size)
        count, size = count + len(pages), size + sum(map(len, pages)) / 1e6
        ours = [Side("warc", name, folder) for name in TARGETS]
        theirs = [Side("warc", name, folder, DATATROVE) for name in ("datatrove", "datatrove without sandbox")]
        rounds([*ours, *theirs], options.turns or TURNS)
        reference = Side("warc", "datatrove, not deduplicating", folder, DATATROVE)
        rounds([reference], 1)
        sides = [*ours, *theirs, reference]
        read = {side.name: json.loads((folder / f"{side.name}.json").read_text("utf-8")) for side in sides}
    versions = {side.turns[-1]["trafilatura"] for side in sides}
    print(f"{count:,} pages, {size:.1f} MB of HTML; trafilatura {' and '.join(sorted(versions))}")
    rows, figures = [], {}
    for side in sides:
        both = read[side.name].keys() & read[reference.name].keys()
        equal = sum(read[side.name][one] == read[reference.name][one] for one in both) / max(1, len(both))
        alike = statistics.fmean(overlap(read[side.name][one], read[reference.name][one]) for one in both)
        last = side.turns[-1]
        lost = ", ".join(f"{n} {why}" for why, n in last["lost"].items())
        speed = [f"{side.rate(size):.2f}", f"{1e3 / side.rate(count):.2f}"]
        rows.append([side.name, *speed, last["texts"], f"{equal:.4f}", f"{alike:.3f}", lost])
        figures[side.name] = {"processor_seconds": side.processor(), "MB/s": side.rate(size), "texts": last["texts"]}
        figures[side.name] |= {"equal": equal, "alike": alike, "lost": last["lost"]}
    table(["side", "MB/s", "ms a page", "texts", "equal", "words alike", "lost"], rows)
    sandbox = 1e3 / theirs[0].rate(count) - 1e3 / theirs[1].rate(count)
    print(f"texts are compared with those of `{reference.name}`; datatrove's sandbox takes {sandbox:.2f} ms a page")
    checks = [
        Check(f"MB/s, {side.name} / datatrove", times_faster(side, theirs[0]), TARGETS[side.name]) for side in ours
    ]
    checks.append(Check("texts equal to datatrove's, quality", figures["quality"]["equal"], ALIKE))
    told = {"pages": count, "megabytes": size, "trafilatura": sorted(versions), "sandbox_ms": sandbox, "sides": figures}
    return Outcome(told, checks)
