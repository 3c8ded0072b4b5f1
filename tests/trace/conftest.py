"""The training data that the tests of this folder share."""

import sysconfig
from pathlib import Path

import pytest
from trace_world import SCRIPTS, Bytes, World, open_world

MODULES = (
    *("argparse", "ast", "calendar", "configparser", "contextlib", "copy", "csv", "dataclasses", "difflib", "enum"),
    *("functools", "gzip", "heapq", "inspect", "ipaddress", "json/decoder", "json/encoder", "keyword", "mailbox"),
    *("pathlib", "pickle", "queue", "random", "shutil", "statistics", "string", "tarfile", "tempfile", "textwrap"),
    *("threading", "tokenize", "traceback", "uuid", "zipfile"),
)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The standard library's sample, in documents of at most 150 lines, so that most start in mid-file."""
    library = Path(sysconfig.get_path("stdlib"))
    files = {name: (library / f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    codec = Bytes([*files.values(), SCRIPTS], 2048)
    documents = [("scripts", SCRIPTS, 1)]
    for name, text in files.items():
        lines = text.splitlines(keepends=True)
        documents += [(name, "".join(lines[i : i + 150]), i + 1) for i in range(0, len(lines), 150)]
    return open_world(documents, codec, tmp_path_factory.mktemp("trace"))
