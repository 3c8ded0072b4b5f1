"""Fuzz the readers, guided by which branches of them an input reaches (`make fuzz`; https://github.com/google/atheris).

An input's first byte picks one of the group's files, the second how it is packed; the rest is the file. So what is
packed can be changed within. What must be true of any file is in `tests/data/gather/hostile.py`. The first input for
which it is not is kept under `.fuzz`, with all that found new branches; `--again FILE` runs one once more.
"""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "data" / "gather")]
PROCESSOR_SECONDS = 20
with atheris.instrument_imports(include=["underlay.data.gather"]):
    from hostile import PACK, survived, valid

    from underlay.data.gather.workers import Workers

GROUPS = {
    "text": ("a.txt", "b.txt", "a.html"),
    "records": ("a.jsonl", "a.csv", "a.tsv"),
    "columns": ("a.parquet", "a.arrow", "b.arrow"),
    "web": ("a.warc", "a.xml"),
    "archives": ("a.tar", "a.zip"),
    "packed": ("a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst", "a.warc.gz", "a.tar.gz"),
    "unnamed": ("noending",),
    "pdf": ("a.pdf",),
}
ENDINGS = tuple(PACK)
CHECKSUMS = 0x80
"""Set in the second byte: the headers of a tar get checksums that are right."""


class HangError(BaseException):
    """Reading takes longer than it may. No Exception, so that nothing catches it."""


def late(_signal: int, _frame: FrameType | None) -> None:
    raise HangError


def one(data: bytes, group: str, workers: Workers) -> None:
    """Read one input. Raises what the readers should not."""
    if len(data) < 2:
        return
    names = GROUPS[group]
    name, options, content = names[data[0] % len(names)], data[1], data[2:]
    if name == "a.tar" and options & CHECKSUMS:
        content = checked(content)
    ending = "" if group == "packed" else ENDINGS[(options & ~CHECKSUMS) % len(ENDINGS)]
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    survived(name + ending, PACK[ending](content), workers)
    signal.setitimer(signal.ITIMER_PROF, 0)


def checked(content: bytes) -> bytes:
    """A tar in which the checksum of every header is right."""
    blocks = [content[at : at + 512] for at in range(0, len(content), 512)]
    for number, block in enumerate(blocks):
        if block[257:262] == b"ustar" and len(block) == 512:
            total = sum(block[:148]) + 8 * 32 + sum(block[156:])
            blocks[number] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz one group of readers.")
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--seconds", type=int, default=60, help="how long")
    parser.add_argument("--again", type=Path, help="an input to run once more")
    given = parser.parse_args()
    signal.signal(signal.SIGPROF, late)
    with Workers(1, PROCESSOR_SECONDS) as workers:
        if given.again:
            one(given.again.read_bytes(), given.group, workers)
            return
        folder = ROOT / ".fuzz" / given.group
        folder.mkdir(parents=True, exist_ok=True)
        for place, name in enumerate(GROUPS[given.group]):
            options = CHECKSUMS if name == "a.tar" else 0
            (folder / f"valid-{place}").write_bytes(bytes([place, options]) + valid()[name])
        flags = [f"-max_total_time={given.seconds}", "-max_len=16384", "-rss_limit_mb=3000", "-timeout=300"]
        more = [f"-artifact_prefix={folder}-", "-print_final_stats=1", "-verbosity=1"]
        atheris.Setup([sys.argv[0], str(folder), *flags, *more], lambda data: one(data, given.group, workers))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
