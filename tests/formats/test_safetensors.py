"""Safetensors from strangers: either the tensors that the format's own library reads, or one line that says why not."""

import json
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from underlay.errors import UserError
from underlay.formats import safetensors as ours
from underlay.formats.checkpoint import INDEX, Checkpoint

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.randn(5).to(torch.bfloat16),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "truth": torch.tensor([True, False, True]),
}
VALID = save(TENSORS, {"format": "pt"})
LENGTH = struct.unpack("<Q", VALID[:8])[0]


def file_of(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape: object = (2,), offsets: object = (0, 8), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def read(path: Path) -> dict[str, torch.Tensor]:
    return dict(Checkpoint.open(path).tensors())


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].reshape(-1).view(torch.uint8).equal(right[name].reshape(-1).view(torch.uint8))
        for name in left
    )


def refused_or_same(raw: bytes, path: Path) -> bool:
    """Whether it was read; fails where it was read otherwise than the library does, or refused by more than a line."""
    path.write_bytes(raw)
    found: dict[str, torch.Tensor] | None = None
    reason = ""
    try:
        found = read(path)
    except UserError as error:
        reason = str(error)
    if found is None:
        assert str(path) in reason
        assert "\n" not in reason
        return False
    assert same(found, load_file(path))
    return True


def test_every_dtype_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = {name: torch.arange(8, dtype=torch.uint8).view(dtype).clone() for name, dtype in ours.DTYPES.items()}
    tensors["BOOL"] = torch.tensor([True, False])
    save_file(tensors | TENSORS, tmp_path / "x.safetensors")
    checkpoint = Checkpoint.open(tmp_path / "x.safetensors")
    expected = load_file(tmp_path / "x.safetensors")
    assert same(dict(checkpoint.tensors()), expected)
    assert checkpoint.shapes == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert checkpoint.dtypes == {name: tensor.dtype for name, tensor in expected.items()}
    assert checkpoint.tensor("a").equal(TENSORS["a"])


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    assert not refused_or_same(raw, tmp_path_factory.getbasetemp() / "random.safetensors")


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_header_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 8 + LENGTH))
        match data.draw(st.sampled_from(["change", "insert", "remove", "digit"])):
            case "change":
                raw[place] = data.draw(st.integers(0, 255))
            case "insert":
                raw[place:place] = data.draw(
                    st.sampled_from([b"0", b"[", b"{", b'"', b",", b"-", b"e", b"\\", b"\xff"])
                )
            case "remove":
                del raw[place]
            case "digit":
                digits = [index for index in range(8, 8 + LENGTH) if chr(raw[index]).isdigit()]
                if digits:
                    raw[data.draw(st.sampled_from(digits))] = data.draw(st.sampled_from(b"0123456789"))
    refused_or_same(bytes(raw), tmp_path_factory.getbasetemp() / "mutated.safetensors")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__"]),
        JSON
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "U8", "Q9"]) | JSON,
                "shape": st.lists(st.integers(0, 4), max_size=3) | JSON,
                "data_offsets": st.lists(st.sampled_from([0, 4, 8, 16]), min_size=2, max_size=2) | JSON,
            }
        ),
    )
)
def test_any_header_is_refused_or_read_alike(tmp_path_factory: pytest.TempPathFactory, header: object) -> None:
    refused_or_same(file_of(header, bytes(16)), tmp_path_factory.getbasetemp() / "any.safetensors")


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
QUOTES = b'{"' + b'\\"' * 500_000
TWICE = json.dumps({"a": entry()})[:-1] + "," + json.dumps({"a": entry()})[1:]
HOSTILE = {
    "header longer than the file": (struct.pack("<Q", 1 << 40) + b"{}", "claims"),
    "header a little longer": (struct.pack("<Q", 3) + b"{}", "claims 3 bytes, the file has 10"),
    "header of the greatest length": (struct.pack("<Q", (1 << 64) - 1) + b"{}", "claims"),
    "nested deep": (file_of(DEEP), "deep"),
    "only quotes": (file_of(QUOTES), "JSON"),
    "a name twice": (file_of(TWICE.encode(), bytes(8)), "twice"),
    "a key twice": (
        file_of(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "twice",
    ),
    "not UTF-8": (file_of(b'{"\xff":0}'), "UTF-8"),
    "half a character": (file_of(b'{"\\ud800":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x"), "half"),
    "a list": (file_of([]), "object"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "text to text"),
    "unknown dtype": (file_of({"a": entry(dtype="F4")}, bytes(8)), "'a': dtype 'F4'"),
    "dtype no text": (file_of({"a": entry(dtype=["F32"])}, bytes(8)), "dtype"),
    "negative size": (file_of({"a": entry(shape=[-2])}, bytes(8)), "negative"),
    "size of a truth": (file_of({"a": entry(shape=[True, 2])}, bytes(8)), "shape"),
    "size with a point": (file_of(b'{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', bytes(8)), "whole"),
    "size of many digits": (file_of(b'{"a":{"dtype":"F32","shape":[' + b"9" * 9999 + b"]}}"), "long"),
    "sizes that overflow": (file_of({"a": entry(shape=[2**62, 4])}, bytes(8)), "memory"),
    "nothing of endless width": (file_of({"a": entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}), "memory"),
    "too many dimensions": (file_of({"a": entry(shape=[1] * 17, offsets=[0, 4])}, bytes(4)), "at most 16"),
    "begin after end": (file_of({"a": entry(offsets=[8, 0])}, bytes(8)), "begin"),
    "three offsets": (file_of({"a": entry(offsets=[0, 4, 8])}, bytes(8)), "begin"),
    "size and place differ": (file_of({"a": entry(offsets=[0, 4])}, bytes(4)), "takes 8 bytes, has 4"),
    "beyond the file": (file_of({"a": entry()}, bytes(7)), "copy it again"),
    "overlap": (file_of({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)), "'b' overlaps"),
    "hole": (file_of({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)), "'b' leaves 4 bytes"),
    "trailing bytes": (file_of({"a": entry()}, bytes(9)), "1 bytes after"),
    "further keys": (file_of({"a": entry() | {"more": 1}}, bytes(8)), "exactly"),
    "space before": (file_of(b" {}"), "begin with"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    raw, reason = HOSTILE[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=reason) as caught:
        Checkpoint.open(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_header_of_nothing_but_brackets_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"))
    tracemalloc.start()
    with pytest.raises(UserError):
        Checkpoint.open(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * path.stat().st_size


def test_a_file_cut_short_after_opening_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(VALID)
    checkpoint = Checkpoint.open(path)
    path.write_bytes(VALID[:-4])
    with pytest.raises(UserError, match="shorter"):
        list(checkpoint.tensors())


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="not a regular file"):
        Checkpoint.open(tmp_path / "x.safetensors")


# --- folders ---


def sharded(folder: Path) -> dict[str, str]:
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, folder / "model-1.safetensors")
    save_file({"c": TENSORS["a"] + 1}, folder / "model-2.safetensors")
    listed = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    write_index(folder, listed)
    return listed


def write_index(folder: Path, listed: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 58}, "weight_map": listed}))


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    sharded(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    assert {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors()} == checkpoint.shapes
    assert checkpoint.tensor("c").equal(TENSORS["a"] + 1)
    assert [name for name, _ in checkpoint.tensors(["c", "a"])] == ["a", "c"]
    with pytest.raises(UserError, match="no tensor 'd'"):
        checkpoint.tensor("d")


def test_a_hub_cache_with_links_is_read(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    sharded(tmp_path / "blobs")
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(Path("..") / "blobs" / file.name)
    assert len(read(tmp_path / "snapshot")) == 3


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/x.safetensors",
        "a\\x.safetensors",
        "C:x.safetensors",
        "..",
        "",
        "x.bin",
        ".safetensors",
        "x\n.safetensors",
        "x\0.safetensors",
        7,
        None,
    ],
)
def test_a_shard_outside_the_folder_is_refused(name: object, tmp_path: Path) -> None:
    write_index(tmp_path, {"a": name})
    with pytest.raises(UserError, match="no plain name"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder, listed: (folder / "model-2.safetensors").unlink(), "shard model-2.safetensors is missing"),
        (lambda folder, listed: write_index(folder, listed | {"d": "model-2.safetensors"}), "'d' .* in no shard"),
        (lambda folder, listed: write_index(folder, listed | {"a": "model-2.safetensors"}), "'a' .* in model-1"),
        (lambda folder, listed: write_index(folder, {"a": listed["a"]}), "not listed: 'b'"),
        (lambda folder, listed: save_file({"c": TENSORS["a"], "a": TENSORS["b"]}, folder / listed["c"]), "two shards"),
        (lambda folder, listed: save_file(TENSORS, folder / "model.safetensors"), "the one that is meant"),
        (lambda folder, listed: write_index(folder, {}), "weight_map"),
        (lambda folder, listed: (folder / INDEX).write_text("[" * 50_000), "deep"),
    ],
)
def test_shards_that_disagree_are_refused(
    change: Callable[[Path, dict[str, str]], object], reason: str, tmp_path: Path
) -> None:
    change(tmp_path, sharded(tmp_path))
    with pytest.raises(UserError, match=reason):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "weights.pkl"])
def test_pickled_weights_are_refused_and_never_read(name: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=r"can run any code.*save them as safetensors"):
            Checkpoint.open(path)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_without_weights_and_one_with_other_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.safetensors and no"):
        Checkpoint.open(tmp_path)
    save_file(TENSORS, tmp_path / "adapter.safetensors")
    with pytest.raises(UserError, match=r"adapter\.safetensors"):
        Checkpoint.open(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        Checkpoint.open(tmp_path / "none")
