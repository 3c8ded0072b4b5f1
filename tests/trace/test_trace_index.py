"""Building and opening the index, and what it refuses."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from underlay.errors import MachineError, UserError
from underlay.trace import index as trace_index
from underlay.trace.index import TraceIndex, build

TOKENS = np.array([0, 5, 6, 7, 1, 0, 6, 7, 5, 1], dtype=np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(TOKENS, tmp_path, separators={0, 1}, vocabulary=8)
    return tmp_path


def test_what_was_built_opens_and_finds(folder: Path):
    index = TraceIndex.open(folder, TOKENS, verify=True)
    first, last = index.find([6, 7])
    assert sorted(index.suffixes[first:last].tolist()) == [2, 6]
    assert isinstance(index.suffixes, np.memmap)
    assert index.vocabulary == 8
    assert index.separators == {0, 1}


def test_no_match_holds_a_separator(folder: Path):
    index = TraceIndex.open(folder, TOKENS)
    assert index.longest_matches(TOKENS).lengths.tolist() == [0, 3, 2, 1, 0, 0, 3, 2, 1, 0]
    assert index.find([7, 1]) == (0, 0)
    assert index.find([1]) == (0, 0)


def test_progress_reaches_the_number_of_tokens(tmp_path: Path):
    heard = []
    build(TOKENS, tmp_path, lambda done, total, **facts: heard.append((done, total)), separators={0}, vocabulary=8)
    assert heard[-1] == (10, 10)


def test_other_tokens_of_the_same_number_are_found_out_by_their_hash(folder: Path):
    other = TOKENS.copy()
    other[3] = 5
    TraceIndex.open(folder, other)
    with pytest.raises(UserError, match=r"other tokens.*build the index again"):
        TraceIndex.open(folder, other, verify=True)


def test_the_hash_is_that_of_little_endian_tokens(folder: Path):
    header = json.loads((folder / "index.json").read_text())
    assert header["sha256"] == hashlib.sha256(TOKENS.astype("<u2").tobytes()).hexdigest()


def test_the_hash_does_not_depend_on_the_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trace_index, "_CHUNK", 3)
    TraceIndex.open(folder, TOKENS, verify=True)


def edit(folder: Path, **fields: object) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


DAMAGE = {
    "no header": (lambda f: (f / "index.json").unlink(), "cannot be read"),
    "no suffixes": (lambda f: (f / "suffixes.npy").unlink(), "cannot be read"),
    "cut header": (lambda f: (f / "index.json").write_text('{"format"'), "cannot be read"),
    "cut suffixes": (
        lambda f: (f / "suffixes.npy").write_bytes((f / "suffixes.npy").read_bytes()[:-4]),
        "cannot be read",
    ),
    "empty suffixes": (lambda f: (f / "suffixes.npy").write_bytes(b""), "cannot be read"),
    "not an object": (lambda f: (f / "index.json").write_text("[]"), "format"),
    "later format": (lambda f: edit(f, format="underlay.trace/2"), "underlay.trace/2"),
    "text for a number": (lambda f: edit(f, tokens="10"), "lacks fields or has wrong ones"),
    "text for a separator": (lambda f: edit(f, separators=["0"]), "lacks fields or has wrong ones"),
    "other width": (lambda f: np.save(f / "suffixes.npy", np.zeros(10, np.int64)), "not uint32"),
    "other length": (lambda f: np.save(f / "suffixes.npy", np.zeros(9, np.uint32)), "not uint32"),
    "pickled": (lambda f: np.save(f / "suffixes.npy", np.array([{}]), allow_pickle=True), "cannot be read"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_index_is_refused_in_one_line(folder: Path, damage, says):
    damage(folder)
    with pytest.raises(UserError) as caught:
        TraceIndex.open(folder, TOKENS)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_number_of_tokens_is_refused(folder: Path):
    with pytest.raises(UserError, match="built from 10 tokens, the dataset has 9"):
        TraceIndex.open(folder, TOKENS[:9])


def test_nothing_to_index_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="no tokens"):
        build(TOKENS[:0], tmp_path, separators=(), vocabulary=8)


def test_a_token_outside_the_vocabulary_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="token 7 is outside the vocabulary of 7"):
        build(TOKENS, tmp_path, separators=(), vocabulary=7)


def test_too_little_memory_is_said_before_sorting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Full:
        available = 10

    monkeypatch.setattr(trace_index.psutil, "virtual_memory", Full)
    with pytest.raises(MachineError, match="are free"):
        build(TOKENS, tmp_path, separators=(), vocabulary=8)
    assert list(tmp_path.iterdir()) == []
