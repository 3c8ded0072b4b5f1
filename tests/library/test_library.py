"""The library: equal orders are made once, nothing half-made is ever seen, and lineage leads both ways."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.errors import UserError
from underlay.library import Artifact, Draft, Library, Manifest, Order, Reference


def writing(text: str, calls: list[str] | None = None):
    def work(draft: Draft) -> None:
        if calls is not None:
            calls.append(text)
        (draft.folder / "a.txt").write_text(text)
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "b.txt").write_text(text * 2)
        draft.metrics["length"] = len(text)

    return work


def make(library: Library, name: str, text: str, parents: dict[str, Artifact] | None = None, kind="corpus") -> Artifact:
    order = Order(kind, name, "write", {"text": text}, parents or {})
    return library.make(order, writing(text)).artifact


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


def test_equal_orders_are_made_once(library: Library) -> None:
    calls: list[str] = []
    order = Order("corpus", "x", "write", {"n": 1})
    first = library.make(order, writing("hello", calls))
    second = library.make(order, writing("hello", calls))
    assert (first.reused, second.reused, calls) == (False, True, ["hello"])
    assert first.artifact == second.artifact


@pytest.mark.parametrize(
    "change",
    [{"config": {"n": 2}}, {"seed": 1}, {"revision": 2}, {"verb": "other"}],
)
def test_every_part_of_an_order_counts(library: Library, change: dict) -> None:
    base = {"kind": "corpus", "name": "x", "verb": "write", "config": {"n": 1}}
    assert not library.make(Order(**base), writing("a")).reused
    assert not library.make(Order(**(base | change)), writing("a")).reused


def test_changed_parents_make_a_new_artifact(library: Library) -> None:
    one, two = make(library, "p", "1"), make(library, "p", "2")
    first, second = make(library, "c", "x", {"corpus": one}), make(library, "c", "x", {"corpus": two})
    assert first.manifest.hash != second.manifest.hash


def test_same_content_has_the_same_version_in_every_library(tmp_path: Path) -> None:
    a, b = (make(Library(tmp_path / name), "x", "text") for name in "ab")
    assert a.manifest.hash == b.manifest.hash
    assert a.folder.name == a.manifest.version == a.manifest.hash[:12]


def test_a_failing_work_leaves_nothing(library: Library) -> None:
    def work(draft: Draft) -> None:
        (draft.folder / "half.txt").write_text("half")
        raise RuntimeError("power cut")

    order = Order("corpus", "x", "write", {})
    with pytest.raises(RuntimeError):
        library.make(order, work)
    assert list(library.artifacts()) == []
    artifact = library.make(order, writing("whole")).artifact
    assert sorted(p.name for p in artifact.folder.iterdir()) == ["a.txt", "deep", "manifest.json"]


def test_a_failed_order_can_be_made_while_its_error_is_held(library: Library) -> None:
    def fail(_: Draft) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError) as held:  # as notebooks do
        library.make(Order("corpus", "x", "write", {"n": 1}), fail)
    assert held.value.__traceback__ is not None
    assert not library.make(Order("corpus", "x", "write", {"n": 1}), writing("hello")).reused


def test_scratch_survives_a_failure(library: Library) -> None:
    order = Order("corpus", "x", "write", {})

    def fail(draft: Draft) -> None:
        (draft.scratch / "checkpoint").write_text("17")
        raise RuntimeError

    def go_on(draft: Draft) -> None:
        (draft.folder / "result").write_text((draft.scratch / "checkpoint").read_text())

    with pytest.raises(RuntimeError):
        library.make(order, fail)
    artifact = library.make(order, go_on).artifact
    assert (artifact.folder / "result").read_text() == "17"
    assert list((library.root / ".staging").iterdir()) == []


def test_a_reference_means_the_version_asked_for_last(library: Library) -> None:
    first = make(library, "x", "1")
    second = make(library, "x", "2")
    assert library.find("corpus:x") == second
    make(library, "x", "1")  # reused, and now the latest again
    assert library.find("corpus:x") == first
    assert library.find("x") == first
    assert library.find(f"corpus:x@{second.manifest.version[:6]}") == second


def test_what_cannot_be_found_is_explained(library: Library) -> None:
    with pytest.raises(UserError, match="it is empty"):
        library.find("model:x")
    one = make(library, "quickstart", "1")
    make(library, "quickstart", "2", kind="model")
    with pytest.raises(UserError, match="did you mean corpus:quickstart"):
        library.find("corpus:quikstart")
    with pytest.raises(UserError, match="ambiguous: corpus:quickstart, model:quickstart"):
        library.find("quickstart")
    with pytest.raises(UserError, match="is a corpus; this needs a model"):
        library.find("corpus:quickstart", "model")
    with pytest.raises(UserError, match=f"no such version.*{one.manifest.version}"):
        library.find("corpus:quickstart@" + "0" * 20)


def test_an_ambiguous_version_is_an_error(library: Library) -> None:
    made = [make(library, "x", str(n)) for n in range(17)]  # 17 versions: two share their first digit
    firsts = [artifact.manifest.hash[0] for artifact in made]
    digit = next(d for d in firsts if firsts.count(d) > 1)
    with pytest.raises(UserError, match="is ambiguous: corpus:x@"):
        library.find(f"corpus:x@{digit}")


@given(st.text(max_size=30))
def test_references_never_leave_the_library(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UserError:
        return
    assert not set(reference.name) & set("/\\\0: ")
    assert reference.name not in (".", "..")
    assert str(reference) == text


@pytest.mark.parametrize("text", ["", "model:", "../x", "model:../x", "model:a/b", "nokind:x", "model:x@", "x\n", ".x"])
def test_bad_references(text: str) -> None:
    with pytest.raises(UserError):
        Reference.parse(text)


def test_lineage_leads_both_ways(library: Library) -> None:
    raw = make(library, "raw", "r")
    clean = make(library, "clean", "c", {"corpus": raw})
    data = make(library, "data", "d", {"corpus": clean}, "dataset")
    model = make(library, "m", "m", {"dataset": data, "corpus": clean}, "model")
    assert [a.manifest.name for a in library.ancestors(model)] == ["clean", "data", "raw"]
    assert {a.manifest.name for a in library.descendants(raw)} == {"clean", "data", "m"}
    assert library.ancestor(model, "dataset") == data
    library.remove("dataset:data", force=True)
    assert library.parents(model)["dataset"] is None


def test_removing_what_others_need_is_refused(library: Library) -> None:
    raw = make(library, "raw", "r")
    make(library, "clean", "c", {"corpus": raw})
    with pytest.raises(UserError, match="is what corpus:clean@"):
        library.remove("corpus:raw")
    library.remove("corpus:clean")
    library.remove("corpus:raw")
    assert list(library.artifacts()) == []


def test_verify_finds_every_kind_of_damage(library: Library) -> None:
    for name in ("whole", "changed", "shorter", "missing", "extra", "lying", "garbled"):
        make(library, name, name)
    folder = {a.manifest.name: a.folder for a in library.artifacts()}
    (folder["changed"] / "a.txt").write_text("chanGed")
    (folder["shorter"] / "a.txt").write_text("s")
    (folder["missing"] / "deep" / "b.txt").unlink()
    (folder["extra"] / "c.txt").write_text("c")
    manifest = folder["lying"] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"text": "lying"', '"text": "truth"'))
    (folder["garbled"] / "manifest.json").write_text("{")
    problems = {name.split("@")[0].removeprefix("corpus:"): found for name, found in library.verify()}
    assert problems["whole"] == []
    assert problems["changed"] == ["a.txt: its bytes have changed"]
    assert problems["shorter"] == ["a.txt: 1 bytes, expected 7"]
    assert problems["missing"] == ["deep/b.txt: missing"]
    assert problems["extra"] == ["c.txt: not in the manifest"]
    assert problems["lying"] == ["the manifest does not fit its own hash"]
    assert any("damaged manifest.json" in found[0] for found in problems.values() if found)


def test_a_damaged_artifact_is_made_again(library: Library) -> None:
    artifact = make(library, "x", "text")
    (artifact.folder / "a.txt").unlink()
    again = make(library, "x", "text")
    assert (again.folder / "a.txt").read_text() == "text"


def test_a_newer_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "library.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="newer Underlay"):
        Library(tmp_path)
    (tmp_path / "library.json").write_text("[]")
    with pytest.raises(UserError, match="damaged"):
        Library(tmp_path)


def test_a_newer_manifest_is_named(library: Library) -> None:
    artifact = make(library, "x", "text")
    path = artifact.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    assert [found for _, found in library.verify()] == [["made by a newer Underlay (manifest format 2): upgrade"]]


def test_manifests_fit_their_schema(library: Library) -> None:
    artifact = make(library, "x", "text")
    document = json.loads((artifact.folder / "manifest.json").read_text())
    jsonschema.validate(document, Manifest.model_json_schema())
    assert document["metrics"] == {"length": 4}
    assert document["cost"]["wall_seconds"] >= 0


def test_collecting_spares_what_is_being_made(library: Library) -> None:
    def work(draft: Draft) -> None:
        (draft.scratch / "checkpoint").write_text("precious")
        context = multiprocessing.get_context("spawn")
        other = context.Process(target=_collect, args=(str(library.root),))
        other.start()
        other.join()
        assert (draft.scratch / "checkpoint").read_text() == "precious"
        (draft.folder / "done").write_text("")

    library.make(Order("corpus", "x", "write", {}), work)


def _collect(root: str) -> None:
    Library(Path(root)).collect()


def test_collecting_removes_leftovers_and_superseded(library: Library) -> None:
    old = make(library, "x", "1")
    child = make(library, "kept", "k", {"corpus": old})
    make(library, "x", "2")
    make(library, "x", "3")
    leftover = library.root / ".staging" / ("0" * 64)
    leftover.mkdir()
    (leftover / "file").write_text("12345")
    assert library.collect() == 5
    library.collect(superseded=True)
    assert {a.manifest.config["text"] for a in library.artifacts()} == {"1", "3", "k"}
    assert library.parents(child)["corpus"] == old


_SLOW = """
import sys, time
from pathlib import Path
from underlay.library import Library, Order
def work(draft):
    with open(sys.argv[2], "a") as log: log.write("working\\n")
    (draft.folder / "a").write_text("a" * 1000)
    time.sleep(float(sys.argv[3]))
    (draft.folder / "b").write_text("b")
made = Library(Path(sys.argv[1])).make(Order("corpus", "x", "slow", {}), work)
print(made.reused)
"""


def test_two_processes_make_one_artifact(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SLOW, str(tmp_path / "library"), str(tmp_path / "log"), "0.5"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outcomes = sorted(process.communicate(timeout=60)[0].strip() for process in both)
    assert outcomes == ["False", "True"]
    assert (tmp_path / "log").read_text() == "working\n"


def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SLOW, str(tmp_path / "library"), str(tmp_path / "log"), "30"]
    process = subprocess.Popen(command)
    while not (tmp_path / "log").exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    library = Library(tmp_path / "library")
    assert list(library.artifacts()) == []
    assert not library.make(Order("corpus", "x", "slow", {}), writing("again")).reused


def test_removing_one_version_spares_those_it_cannot_read(library: Library) -> None:
    make(library, "x", "1")
    newer = make(library, "x", "2")
    path = newer.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    library.remove("corpus:x")
    assert path.exists()


def test_nothing_superseded_goes_while_a_manifest_is_damaged(library: Library) -> None:
    make(library, "x", "1")
    make(library, "x", "2")
    damaged = make(library, "y", "3")
    (damaged.folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="what it needs is unknown"):
        library.collect(superseded=True)
    assert len(list(library.artifacts())) == 2


def test_a_garbled_pointer_is_written_again(library: Library) -> None:
    artifact = make(library, "x", "1")
    (artifact.folder.parent / "latest").write_bytes(b"\xff\xfe")
    assert make(library, "x", "1") == artifact
    assert (artifact.folder.parent / "latest").read_text().strip() == artifact.manifest.version


def test_a_library_inside_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be a library"):
        make(Library(tmp_path / "file" / "sub"), "x", "1")
