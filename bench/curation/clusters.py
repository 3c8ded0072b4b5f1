"""Clustering the MinHash signatures of a million documents, against datatrove's stages 2 and 3, one core each.

Real documents, pieces of some 2,000 characters of books (`../shared/data/gutenberg`; where it is missing, of the
Python standard library), are signed once, with 14 bands of 8. Then signatures are drawn from theirs: half of the
million are new, each value another document's; half are relatives of one of the documents, with which they agree in
each value with a chance that is drawn between 0.5 and 1, as documents do that are so much alike. Both sides are given
the same signatures in the form that each of them keeps: ours in Parquet, a column a band, as `tag` writes them;
datatrove's in a sorted file a bucket, as its stage 1 writes them. Neither has to sign or to sort them first.

Ours is measured from reading the columns to having written which document stays for which. datatrove has one file a
bucket, nothing to merge, and reads whole files at once, which was fastest. Imports and compiling do not count, nor
does what other processes take of the core. Ours has a fresh process each turn, for its peak of memory, and its fastest
turn counts; datatrove runs once. Both must find equally many documents to remove.
"""

import importlib.metadata
import itertools
import json
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curation import texts
from curation.sides import DATATROVE, Check, Options, Outcome, Prepared, Side, need, rounds, table

BANDS, ROWS = 14, 8
DOCUMENTS, SIGNED, PIECE, TURNS = 1_000_000, 30_000, 2_000, 3
GROUP, SHARD = 1024, 1 << 16
"""Documents in a row group and in a file of attributes, about as `tag` has them of such documents."""
WHOLE_FILES = -1
TARGET = 10.0


# The signatures, once. --------------------------------------------------------------------------------------------


def pieces() -> Iterator[str]:
    """Pieces of real texts."""
    for text in texts.books() if texts.BOOKS.exists() else texts.code():
        yield from (text[at : at + PIECE] for at in range(0, len(text) - PIECE, PIECE))


def signed() -> Any:
    """The signatures of some real documents, (n, 112) uint32."""
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


# The two sides. ---------------------------------------------------------------------------------------------------


def prepare(side: str, folder: Path) -> Prepared:
    """Find which documents stay for which."""
    return _ours(folder) if side == "ours" else _theirs(folder)


def _ours(folder: Path) -> Prepared:
    import numpy as np

    from underlay.data.curate.attributes import Attributes
    from underlay.data.curate.duplicates import nearly_same
    from underlay.kernels.clusters import Clusters, best_of

    compiled = Clusters(4)
    compiled.join(np.array([1, 1, 2, 3], dtype=np.uint64), np.arange(4))
    best_of(compiled.roots(), np.zeros(4, dtype=np.float32))

    def work() -> Any:
        attributes = Attributes(folder / "ours")
        worth = attributes.column("text.characters")
        best = nearly_same(attributes, np.arange(len(worth)), worth)
        np.save(folder / "kept.npy", best)
        return best

    def tell(best: Any) -> dict[str, Any]:
        removed = int((best != np.arange(len(best))).sum())
        return {"removed": removed, "version": importlib.metadata.version("underlay")}

    return work, tell


def _theirs(folder: Path) -> Prepared:
    """The same by datatrove's blocks, called one after the other, without what an executor adds."""
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from loguru import logger

    logger.remove()
    config = MinhashConfig(num_buckets=BANDS, hashes_per_bucket=ROWS)
    pairs, removed = folder / "pairs", folder / "removed"

    def work() -> dict[str, float]:
        for made in (pairs, removed):
            shutil.rmtree(made, ignore_errors=True)
        start = time.perf_counter()
        source = str(folder / "theirs")
        buckets = MinhashDedupBuckets(source, str(pairs), config=config, lines_to_buffer=WHOLE_FILES)
        for bucket in range(BANDS):
            buckets.run(None, bucket, BANDS)
        middle = time.perf_counter()
        MinhashDedupCluster(str(pairs), str(removed), config=config, lines_to_buffer=WHOLE_FILES).run(None, 0, 1)
        return {"stage 2": middle - start, "stage 3": time.perf_counter() - middle}

    def tell(stages: dict[str, float]) -> dict[str, Any]:
        count = sum(path.stat().st_size for path in removed.rglob("*.remove")) // struct.calcsize("<I")
        return {**stages, "removed": count, "version": importlib.metadata.version("datatrove")}

    return work, tell


def turn(side: str, folder: Path, python: Path | str = sys.executable) -> dict[str, Any]:
    """What a side says that works once in a process of its own."""
    one = Side("clusters", side, folder, python)
    rounds([one], 1)
    return {**one.turns[0], "before_mib": one.before_mib}


def measure(options: Options) -> Outcome:
    """Draw signatures, let both sides cluster them."""
    need(DATATROVE)
    documents = int(DOCUMENTS * options.size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        signatures = drawn(signed(), documents)
        write_ours(folder / "ours", signatures)
        write_theirs(folder / "theirs", signatures)
        del signatures
        mine = [turn("ours", folder) for _ in range(options.turns or TURNS)]
        found = {
            "ours": min(mine, key=lambda said: said["processor"]),
            "datatrove": turn("datatrove", folder, DATATROVE),
        }
    rows = []
    for side, said in found.items():
        times = [f"{said['seconds']:.2f}", f"{said['processor']:.2f}", f"{documents / said['processor']:,.0f}"]
        memory = [f"{said['peak_mib']:,.0f}", f"{said['before_mib']:,.0f}"]
        rows.append([f"{side} {said['version']}", *times, *memory, f"{said['removed']:,}"])
    heads = ["side", "seconds", "of the processor", "documents/s of it", "peak MiB", "before the start", "removed"]
    table(heads, rows)
    mine_best, other = found["ours"], found["datatrove"]
    checks = [
        Check("documents/s, ours / datatrove", other["processor"] / mine_best["processor"], TARGET),
        Check("as many removed (1: yes)", float(mine_best["removed"] == other["removed"]), 1.0),
    ]
    return Outcome({"documents": documents, "sides": found}, checks)
