"""Clustering the MinHash signatures of a million documents, against datatrove's stages 2 and 3.

Real documents, pieces of some 2,000 characters of books (`../shared/data/gutenberg`; where it is missing, of the
Python standard library), are signed once, with 14 bands of 8. Then signatures are drawn from theirs: half of the
million are new, each value another document's; half are relatives of one of the documents, with which they agree in
each value with a chance that is drawn between 0.5 and 1, as documents do that are so much alike. Both sides are given
the same signatures in the form that each of them keeps: ours in Parquet, a column a band, as `tag` writes them;
datatrove's in a sorted file a bucket, as its stage 1 writes them. Neither has to sign or to sort them first.

Each side runs in a process of its own on one core, ours from reading the columns to having written which document
stays for which. datatrove has one file a bucket, nothing to merge, and its buffer of lines at what was fastest.
Imports and compiling do not count, nor does what other processes take of the core: the ratio is that of processor
seconds. Both must find equally many documents to remove.

Needs `make bench-env`; without it ours runs alone. Prints a table, one line a target, and writes
`bench/results/clusters.json`. Exits non-zero where a target is missed. Run nothing else meanwhile.
"""

import argparse
import importlib.metadata
import json
import lzma
import os
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BOOKS = ROOT.parent / "shared" / "data" / "gutenberg" / "children.jsonl.xz"
OTHERS = ROOT / ".venv-datatrove" / "bin" / "python"
"""Where `make bench-env` installs datatrove."""
BANDS, ROWS = 14, 8
DOCUMENTS, SIGNED, PIECE = 1_000_000, 30_000, 2_000
GROUP, SHARD = 1024, 1 << 16
"""Documents in a row group and in a file of attributes, about as `tag` has them of such documents."""
TARGETS = {"documents per processor second, ours / datatrove": 10.0}


# The signatures, once. --------------------------------------------------------------------------------------------


def pieces() -> Iterator[str]:
    """Pieces of real texts."""
    if BOOKS.exists():
        with lzma.open(BOOKS, "rt", encoding="utf-8") as file:
            texts = (json.loads(line)["text"] for line in file)
            for text in texts:
                yield from (text[at : at + PIECE] for at in range(0, len(text) - PIECE, PIECE))
    else:
        for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
            text = path.read_text("utf-8", errors="replace")
            yield from (text[at : at + PIECE] for at in range(0, len(text), PIECE))


def signed() -> Any:
    """The signatures of some real documents, (n, 112) uint32."""
    import itertools

    import pyarrow as pa

    from underlay.data.curate.texts import Texts
    from underlay.kernels.minhash import functions

    chosen = list(itertools.islice(pieces(), SIGNED))
    return Texts(pa.array(chosen, pa.large_string())).batch.signatures(functions(BANDS * ROWS), shingle=5)


def drawn(real: Any, count: int) -> Any:
    """Signatures of `count` documents drawn from real ones: (count, 112) uint32."""
    import numpy as np

    chance = np.random.default_rng(0)
    found = np.empty((count, real.shape[1]), dtype=np.uint32)
    lanes = np.arange(real.shape[1])
    for start in range(0, count, SHARD):
        size = min(SHARD, count - start)
        relative = real[chance.integers(0, len(real), size)]
        other = real[chance.integers(0, len(real), (size, len(lanes))), lanes]
        alike = np.where(chance.random(size) < 0.5, chance.uniform(0.5, 1, size), 0)
        found[start : start + size] = np.where(chance.random(other.shape) < alike[:, None], relative, other)
    return found


def write_ours(folder: Path, signatures: Any) -> None:
    """As `tag` writes them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from underlay.data import TagConfig
    from underlay.data.curate.attributes import ATTRIBUTES, TAGS
    from underlay.kernels.minhash import bands

    (folder / ATTRIBUTES).mkdir(parents=True)
    config = TagConfig(taggers=("text", "minhash")).model_dump(mode="json")
    (folder / TAGS).write_text(json.dumps(config), "utf-8")
    worth = np.random.default_rng(1).integers(100, 10_000, len(signatures)).astype(np.float32)
    for number, start in enumerate(range(0, len(signatures), SHARD)):
        found = bands(signatures[start : start + SHARD], ROWS)
        columns = {f"minhash.band_{band:02d}": found[:, band] for band in range(BANDS)}
        table = pa.table({"text.characters": worth[start : start + SHARD], **columns})
        path = folder / ATTRIBUTES / f"{number:05d}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=GROUP)


def write_theirs(folder: Path, signatures: Any) -> None:
    """As datatrove's stage 1 writes them: eight values and the document's number, sorted, a file a bucket."""
    import numpy as np

    record = np.dtype([("values", "<u8", ROWS), ("document", "<u4")])
    for band in range(BANDS):
        values = signatures[:, band * ROWS : (band + 1) * ROWS]
        order = np.lexsort(values.T[::-1])
        records = np.empty(len(values), dtype=record)
        records["values"], records["document"] = values[order], order
        bucket = folder / f"bucket_{band:03d}"
        bucket.mkdir(parents=True)
        records.tofile(bucket / "00000.minhash.sig")


# The two sides, each in a process of its own. ---------------------------------------------------------------------


def peak_mib() -> float:
    """The most memory this process had at once."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def ours(folder: Path) -> dict[str, Any]:
    """Which document stays for which, by the columns of bands."""
    import numpy as np

    from underlay.data.curate.attributes import Attributes
    from underlay.data.curate.duplicates import nearly_same
    from underlay.kernels.clusters import Clusters, best_of

    compiled = Clusters(4)
    compiled.join(np.array([1, 1, 2, 3], dtype=np.uint64), np.arange(4))
    best_of(compiled.roots(), np.zeros(4, dtype=np.float32))
    before = peak_mib()
    start, spent = time.perf_counter(), time.process_time()
    attributes = Attributes(folder / "ours")
    worth = attributes.column("text.characters")
    best = nearly_same(attributes, np.arange(len(worth)), worth)
    np.save(folder / "kept.npy", best)
    took = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - spent}
    removed = int((best != np.arange(len(best))).sum())
    return {**took, "removed": removed, "peak_mib": peak_mib(), "before_mib": before}


def theirs(folder: Path, buffered: int) -> dict[str, Any]:
    """The same by datatrove's blocks, called one after the other, without what an executor adds."""
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from loguru import logger

    logger.remove()
    before = peak_mib()
    config = MinhashConfig(num_buckets=BANDS, hashes_per_bucket=ROWS)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        pairs, removed = Path(scratch, "pairs"), Path(scratch, "removed")
        start, spent = time.perf_counter(), time.process_time()
        buckets = MinhashDedupBuckets(str(folder / "theirs"), str(pairs), config=config, lines_to_buffer=buffered)
        for bucket in range(BANDS):
            buckets.run(None, bucket, BANDS)
        middle = time.perf_counter()
        MinhashDedupCluster(str(pairs), str(removed), config=config, lines_to_buffer=buffered).run(None, 0, 1)
        end, ended = time.perf_counter(), time.process_time()
        count = sum(path.stat().st_size for path in removed.rglob("*.remove")) // struct.calcsize("<I")
    took = {"seconds": end - start, "processor_seconds": ended - spent}
    stages = {"stage 2": middle - start, "stage 3": end - middle}
    return {**took, **stages, "removed": count, "peak_mib": peak_mib(), "before_mib": before}


def serve(side: str, folder: Path, buffered: int) -> None:
    """Run one side on one core, and say what it took."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    said = ours(folder) if side == "ours" else theirs(folder, buffered)
    print(json.dumps({"version": importlib.metadata.version("underlay" if side == "ours" else "datatrove"), **said}))


# The table. -------------------------------------------------------------------------------------------------------


def measured(side: str, folder: Path, buffered: int) -> dict[str, Any]:
    """Run a side in a process of its own."""
    python = sys.executable if side == "ours" else str(OTHERS)
    command = [python, __file__, "--serve", side, "--folder", str(folder), "--buffered", str(buffered)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> None:
    """Draw, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help=f"fewer than {DOCUMENTS:,} write no results")
    parser.add_argument("--rounds", type=int, default=3, help="of ours; the fastest counts. datatrove runs once")
    parser.add_argument("--buffered", type=int, default=-1, help="lines that datatrove reads at once; -1: whole files")
    parser.add_argument("--serve", choices=["ours", "datatrove"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.folder, arguments.buffered)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        signatures = drawn(signed(), arguments.documents)
        write_ours(folder / "ours", signatures)
        print(f"{arguments.documents:,} signatures drawn", file=sys.stderr)
        load = os.getloadavg()
        rounds = [measured("ours", folder, 0) for _ in range(arguments.rounds)]
        found = {"ours": min(rounds, key=lambda said: said["processor_seconds"])}
        if OTHERS.exists():
            write_theirs(folder / "theirs", signatures)
            found["datatrove"] = measured("datatrove", folder, arguments.buffered)
        else:
            print("datatrove is left out: `make bench-env` installs it", file=sys.stderr)
    print("| side | seconds | of the processor | documents/s of it | peak MiB | before the start | removed |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for side, said in found.items():
        print(
            f"| {side} {said['version']} | {said['seconds']:.2f} | {said['processor_seconds']:.2f} "
            f"| {arguments.documents / said['processor_seconds']:,.0f} | {said['peak_mib']:,.0f} "
            f"| {said['before_mib']:,.0f} | {said['removed']:,} |"
        )
    if "datatrove" not in found:
        return
    mine, other = found["ours"], found["datatrove"]
    if mine["removed"] != other["removed"]:
        sys.exit("the two sides do not agree on how many documents to remove")
    ratios = dict(zip(TARGETS, [other["processor_seconds"] / mine["processor_seconds"]], strict=True))
    print()
    for name, target in TARGETS.items():
        print(f"{name}  {ratios[name]:.2f}  {target}  {'met' if ratios[name] >= target else 'missed'}")
    if arguments.documents >= DOCUMENTS:
        path = ROOT / "bench" / "results" / "clusters.json"
        said = {"documents": arguments.documents, "load": load, "sides": found, "ratios": ratios, "targets": TARGETS}
        path.write_text(json.dumps(said, indent=2) + "\n", "utf-8")
    sys.exit(any(ratios[name] < target for name, target in TARGETS.items()))


if __name__ == "__main__":
    main()
