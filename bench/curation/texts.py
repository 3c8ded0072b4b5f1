"""Real texts from `../shared/data` and from the standard library of this Python."""

import json
import lzma
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from curation.sides import DATA

BOOKS = DATA / "gutenberg" / "children.jsonl.xz"
PII = DATA / "pii-synthetic" / "synth_dataset_v2.json.xz"


def lines(path: Path) -> Iterator[Any]:
    """The records of a packed file of JSON lines."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def web() -> list[str]:
    """Texts of pages, from C4."""
    return [row["text"] for row in lines(DATA / "c4-wiki-demo" / "c4_demo.jsonl.xz")]


def wikipedia() -> list[str]:
    """Sections of Wikipedia."""
    found = []
    for name in ("valid", "test"):
        with lzma.open(DATA / "wikitext2" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            found += [f" = {article}" for article in file.read().split("\n = ") if len(article) > 500]
    return found


def news() -> list[str]:
    """News, each in three degrees of difficulty."""
    return [row["text"] for row in lines(DATA / "onestopenglish" / "onestop.jsonl.xz")]


def books() -> Iterator[str]:
    """Whole books."""
    return (row["text"] for row in lines(BOOKS))


def code(pattern: str = "**/*.py", without: Collection[str] = ()) -> Iterator[str]:
    """The standard library of this Python, file by file, but for folders of some names."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", *without}
    for path in sorted(folder.glob(pattern)):
        if not skipped & {*path.relative_to(folder).parts}:
            yield path.read_text("utf-8", errors="replace")
