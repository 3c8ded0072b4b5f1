"""A large corpus through gather, tag and curate: speed of each stage, and whether memory stays bounded.

Makes JSON Lines of the size that is asked for: documents of some kilobytes, each put together anew, by a seeded
generator, of real paragraphs (books, web pages, Wikipedia, Python sources); in some stand addresses and numbers. One
in twenty is an exact copy of an earlier document under another address, and one in twenty a nearly exact one. Then
runs gather, tag and curate, with the rules of Gopher, C4 and FineWeb, duplicates, near-duplicates and private data,
each as `underlay run` does, in a process of its own.

Memory is that of the whole tree of processes, sampled: RSS summed counts twice what processes share, PSS does not.
Prints a table and whether the limit was kept; exits non-zero where it was not. A whole run (10 GB) writes
`bench/results/scale.json`. Needs about 2.5 bytes of disk for each byte of text, and deletes all of it afterwards. Needs
the data beside the project (`../shared/data`). Run nothing else meanwhile.
"""

import argparse
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "bench" / "results" / "scale.json"
WHOLE_GIGABYTES = 10.0
POOL_BYTES = 60_000_000
RECENT = 8_000
"""Documents that are remembered to be copied."""
DISK = 2.5
"""Bytes of disk for each byte of text, where sources are compressed; one more where they are not."""
STAGES = ("gather", "tag", "curate")
EVERY = 0.25
"""Seconds between two samples of memory."""


# --- The texts ----------------------------------------------------------------------------------------------------


def escaped(text: str) -> bytes:
    """A text as it stands within a string of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def rows(path: str) -> Iterator[Any]:
    with lzma.open(DATA / path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def prose() -> list[bytes]:
    """Paragraphs of books, web pages and Wikipedia, escaped; those of books without the breaks of their lines."""
    found, size = [], 0
    for row in rows("c4-wiki-demo/c4_demo.jsonl.xz"):
        found += [escaped(line) for line in row["text"].split("\n") if len(line) > 100]
    with lzma.open(DATA / "wikitext2" / "test.txt.xz", "rt", encoding="utf-8") as file:
        found += [escaped(line.strip()) for line in file if len(line) > 200]
    for book in rows("gutenberg/children.jsonl.xz"):
        for paragraph in book["text"].split("\n\n"):
            if 150 < len(paragraph) < 2500:
                found.append(escaped(" ".join(paragraph.split())))
                size += len(found[-1])
        if size > POOL_BYTES:
            break
    return found


def code() -> list[bytes]:
    """Functions of Python's own sources, escaped."""
    found, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for piece in re.split(r"\n(?=def |class |    def )", path.read_text("utf-8", errors="replace")):
            if 200 < len(piece) < 3000:
                found.append(escaped(piece))
                size += len(piece)
        if size > POOL_BYTES // 10:
            break
    return found


def private(number: int) -> bytes:
    """A sentence with something private in it."""
    return (
        b"Write to person%d@mail%d.com or call +1 212 555 %04d." % (number, number % 997, number % 10_000),
        b"The machine answers at 8.%d.%d.%d." % (number % 251, number % 241, number % 239),
        b"Her number is +44 20 7946 %04d, between nine and five." % (number % 10_000),
    )[number % 3]


def make(folder: Path, size: int, files: int, plain: bool, seed: int = 0) -> tuple[int, int]:
    """Write JSON Lines with `size` bytes of records; how many documents, and bytes of their texts, escapes counted."""
    import numpy as np

    from underlay.data.gather.opening import zstd

    chance = np.random.default_rng(seed)
    pools = {"prose": prose(), "code": code()}
    recent: list[tuple[bytes, ...]] = []
    documents = texts = 0
    for number in range(files):
        path = folder / f"part-{number:03d}.jsonl{'' if plain else '.zst'}"
        with path.open("wb") if plain else zstd.open(path, "wb", level=1) as file:
            written = 0
            while written < size // files:
                batch = []
                many = 1000
                kinds, counts = chance.random(many), np.maximum(1, chance.poisson(5, many))
                drawn = chance.random((many, int(counts.max())))
                where = chance.integers(0, RECENT, many)
                for kind, count, places, at in zip(
                    kinds.tolist(), counts.tolist(), drawn.tolist(), where.tolist(), strict=True
                ):
                    if kind < 0.1 and len(recent) == RECENT:
                        parts = recent[at]
                        if kind >= 0.05:  # nearly: one paragraph in which a word more stands
                            parts = (*parts[:-1], parts[-1] + b" Again, %d." % documents)
                    else:
                        pool = pools["code"] if kind > 0.95 else pools["prose"]
                        parts = tuple([pool[int(place * len(pool))] for place in places[:count]])
                        if kind > 0.85:
                            parts += (private(documents),)
                        if len(recent) < RECENT:
                            recent.append(parts)
                        else:
                            recent[at] = parts
                    text = b"\\n\\n".join(parts)
                    texts += len(text)
                    batch.append(
                        b'{"url": "https://site%d.example/%d", "date": "20%02d-03-01", "text": "%b"}\n'
                        % (at, documents, 10 + at % 15, text)
                    )
                    documents += 1
                data = b"".join(batch)
                written += len(data)
                file.write(data)
    return documents, texts


# --- The run ------------------------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Samples the memory of a process and all that it has started."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.rss = self.pss = 0
        self.at = 0.0
        """Seconds after the start at which PSS was largest."""
        self._process, self._ended = process, threading.Event()

    def run(self) -> None:
        import psutil

        tree, start = psutil.Process(self._process), time.monotonic()
        while not self._ended.wait(EVERY):
            rss = pss = 0
            try:
                family = [tree, *tree.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for one in family:
                try:
                    told = one.memory_full_info()
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
                rss += told.rss
                pss += getattr(told, "pss", told.rss)
            self.rss = max(self.rss, rss)
            if pss > self.pss:
                self.pss, self.at = pss, time.monotonic() - start

    def end(self) -> None:
        self._ended.set()
        self.join()


def underlay(library: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "underlay", *arguments, "--library", str(library)]


def recipe(folder: Path, stage: str) -> Path:
    """A recipe of one stage, so that each runs in a process of its own and nothing is asked twice."""
    settings: dict[str, Any] = {
        "gather": {"source": [str(folder / "source")]},
        "tag": {"corpus": "corpus:scale-raw", "taggers": ["text", "gopher", "c4", "fineweb", "minhash", "privacy"]},
        "curate": {
            "corpus": "corpus:scale-raw",
            "attributes": "attributes:scale",
            "presets": ["basic", "gopher", "c4", "fineweb"],
            "rules": {"long-line": None, "long-lines": None},  # web pages have a line a paragraph
        },
    }[stage]
    settings["name"] = "scale-raw" if stage == "gather" else "scale"
    path = folder / f"{stage}.yaml"
    path.write_text(json.dumps({"name": "scale", "stages": {stage: settings}}), "utf-8")
    return path


def run(folder: Path, stage: str) -> dict[str, Any]:
    """Run a stage; what it took."""
    library = folder / "library"
    path, said = recipe(folder, stage), folder / f"{stage}.log"
    start = time.monotonic()
    with said.open("wb") as log:
        process = subprocess.Popen(underlay(library, "run", str(path), "--json"), stdout=log, stderr=log, cwd=ROOT)
        watch = Watch(process.pid)
        watch.start()
        status = None
        try:
            _, status, used = os.wait4(process.pid, 0)
        finally:
            if status is None:  # stopped from outside: what was started is not left behind
                process.kill()
        seconds = time.monotonic() - start
        watch.end()
    if status:
        sys.exit(f"{stage} failed:\n{said.read_text('utf-8', 'replace')[-3000:]}")
    made = json.loads(re.findall(r"^\{.*?^\}", said.read_text("utf-8", "replace"), re.MULTILINE | re.DOTALL)[-1])
    shown = subprocess.run(
        underlay(library, "library", "show", made[stage], "--json"), check=True, capture_output=True, cwd=ROOT
    )
    manifest = json.loads(shown.stdout)
    return {
        "stage": stage,
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "rss_mib": watch.rss / 2**20,
        "pss_mib": watch.pss / 2**20,
        "peak_at": watch.at,
        "artifact": made[stage],
        "manifest": manifest,
    }


def main() -> None:
    """Make, run, print, write, delete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=WHOLE_GIGABYTES, help="of JSON Lines")
    parser.add_argument("--limit-gib", type=float, default=3.0, help="of PSS; more is a failure")
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--plain", action="store_true", help="sources that are not compressed")
    parser.add_argument("--folder", type=Path, help="where there is room; by default where temporary files are")
    parser.add_argument("--only-make", action="store_true", help="make the texts in --folder and stop")
    parser.add_argument("--keep", action="store_true", help="do not delete the library")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # then what was written is deleted
    if not DATA.is_dir():
        sys.exit(f"{DATA} is missing")
    size = int(arguments.gigabytes * 1e9)
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=arguments.folder))
    try:
        measure(folder, size, arguments)
    finally:
        if not (arguments.keep or arguments.only_make):
            shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, size: int, arguments: argparse.Namespace) -> None:
    needed, free = int((DISK + arguments.plain) * size), shutil.disk_usage(folder).free
    if free < needed:
        sys.exit(f"{folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed")
    (folder / "source").mkdir()
    start = time.monotonic()
    documents, texts = make(folder / "source", size, arguments.files, arguments.plain)
    seconds = time.monotonic() - start
    print(f"made {documents:,} documents, {texts / 1e9:.2f} GB, in {seconds:.0f} s ({texts / seconds / 1e6:.0f} MB/s)")
    if arguments.only_make:
        print(folder)
        return
    results, before = [], documents
    print("| stage | seconds | MB/s | cores busy | peak PSS, MiB | peak RSS, MiB | at, s | documents in | out |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for stage in STAGES:
        result = run(folder, stage)
        manifest = result.pop("manifest")
        after = manifest["metrics"]["documents"]
        result |= {"in": before, "out": after, "mb_per_second": texts / result["seconds"] / 1e6}
        print(
            f"| {stage} | {result['seconds']:.1f} | {result['mb_per_second']:.1f} "
            f"| {result['processor_seconds'] / result['seconds']:.2f} | {result['pss_mib']:,.0f} "
            f"| {result['rss_mib']:,.0f} | {result['peak_at']:.0f} | {before:,} | {after:,} |",
            flush=True,
        )
        before = after
        results.append(result)
    print(" ".join(result["artifact"] for result in results))
    whole = sum(result["seconds"] for result in results)
    print(f"all: {whole:.0f} s, {texts / whole / 1e6:.1f} MB/s")
    peak = max(result["pss_mib"] for result in results) / 1024
    met = peak <= arguments.limit_gib
    print(f"\npeak, GiB  {peak:8.2f}  {arguments.limit_gib:6.2f}  {'met' if met else 'missed'}")
    if arguments.gigabytes >= WHOLE_GIGABYTES:
        said = {"cores": len(os.sched_getaffinity(0)), "documents": documents, "bytes": texts, "stages": results}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(said, indent=2) + "\n", "utf-8")
    if not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
