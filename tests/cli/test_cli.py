"""The command line as a person meets it: exit codes, what stands where, one line where something is wrong.

What a process alone can show runs in one of its own; the rest goes without, since a process takes seconds to start.
"""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from underlay.cli import app
from underlay.library import Library
from underlay.recipe import read_recipe, run_recipe

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
QUICK = ("pretrain.train.steps=6", "adapt.train.steps=3", "pretrain.train.precision=float32")


class Quiet:
    """Listens to a run and says nothing."""

    def started(self, stage: str, number: int, of: int) -> None: ...
    def moved(self, done: float, total: float | None, **facts: float | str) -> None: ...
    def said(self, line: str) -> None: ...
    def ended(self, artifact: object, reused: bool) -> None: ...


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    run_recipe(read_recipe(SMALL, QUICK), Library(root), Quiet())
    return root


class Ran(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def underlay(*arguments: str, library: Path | None = None, typed: str | None = None) -> Ran:
    environment = {"UNDERLAY_LIBRARY": str(library)} if library else {}
    result = CliRunner().invoke(app, arguments, prog_name="underlay", input=typed, env=environment)
    return Ran(result.exit_code, result.stdout, result.stderr)


def process(
    *arguments: str, library: Path | None = None, said: str = "", **more: object
) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"UNDERLAY_LIBRARY": str(library)} if library else {})
    command = [sys.executable, "-m", "underlay", *arguments]
    # Not as text, in which every kind of line end becomes the same one; a model may write any.
    done = subprocess.run(
        command, input=said.encode(), capture_output=True, env=environment, timeout=300, check=False, **more
    )
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def complained(result: "Ran | subprocess.CompletedProcess[str]", complaint: str, code: int = 2) -> None:
    assert result.returncode == code, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert complaint in errors[0]
    assert "Traceback" not in result.stderr


def wrong(complaint: str, *arguments: str, library: Path | None = None, code: int = 2) -> None:
    complained(underlay(*arguments, library=library), complaint, code)


def test_help_reads_like_a_manual() -> None:
    for arguments in (
        [],
        ["run"],
        ["generate"],
        ["library"],
        ["library", "lineage"],
        ["gather"],
        ["curate"],
        ["data"],
        ["data", "why"],
        ["data", "forget"],
        ["trace"],
        ["trace", "batch"],
        ["serve"],
        ["doctor"],
    ):
        result = underlay(*arguments, "--help")
        assert result.returncode == 0
        assert "Usage: underlay" in result.stdout
    assert process("--version").stdout.startswith("underlay ")


def test_generate_continues_and_repeats(library: Path) -> None:
    command = ("generate", "model:small", "def dumps(", "--max-tokens", "12", "--seed", "3")
    first, second = process(*command, library=library), underlay(*command, library=library)
    assert first.returncode == 0
    assert first.stdout.startswith("def dumps(")
    assert first.stdout == second.stdout
    result = json.loads(underlay(*command, "--json", "--trace", library=library).stdout)
    assert result["prompt"] + result["text"] == first.stdout.removesuffix("\n")
    assert result["tokens"]["completion"] == 12
    assert result["trace"]["text"] == result["prompt"] + result["text"]


def test_generate_holds_answers_to_a_form(library: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["red", "green"]}')
    for options, allowed in (
        (("--json-schema", str(schema)), {'"red"', '"green"'}),
        (("--choice", "fox", "--choice", "dog"), {"fox", "dog"}),
        (("--regex", "[01]{3}", "--presence", "1", "--frequency", "0.5", "--repetition", "1.2"), None),
    ):
        result = underlay("generate", "model:small", "x = ", "--n", "2", *options, "--json", library=library)
        answers = json.loads(result.stdout)["answers"]
        assert len(answers) == 2
        for answer in answers:
            assert answer["text"] in allowed if allowed else re.fullmatch("[01]{3}", answer["text"])
    shown = underlay("generate", "model:small", "x = ", "--n", "2", "--choice", "fox", library=library).stdout
    assert shown == "--- 1\nx = fox\n--- 2\nx = fox\n"
    wrong("constraint", "generate", "model:small", "x", "--regex", "(a", library=library)
    wrong("constraint", "generate", "model:small", "x", "--regex", "a", "--choice", "b", library=library)
    wrong("cannot be read", "generate", "model:small", "x", "--json-schema", str(tmp_path / "none"), library=library)
    wrong("--trace", "generate", "model:small", "x", "--n", "2", "--trace", library=library)


def test_generate_reads_standard_input(library: Path) -> None:
    result = underlay("generate", "model:small", "-", "--max-tokens", "3", library=library, typed="import ")
    assert result.stdout.startswith("import ")


def test_chat_answers_each_turn_and_ends_with_its_input(library: Path) -> None:
    result = process("chat", "model:small", "--max-tokens", "4", library=library, said="def f(x):\n\n/new\nagain\n\n")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("> ") >= 3


def test_bytes_that_are_no_text_are_replaced(library: Path) -> None:
    command = [sys.executable, "-m", "underlay", "generate", "model:small", "-", "--max-tokens", "3"]
    environment = os.environ | {"UNDERLAY_LIBRARY": str(library)}
    result = subprocess.run(command, input=b"a\xff", capture_output=True, env=environment, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode().startswith("a\ufffd")


def test_a_long_chat_forgets_its_oldest_turns(library: Path) -> None:
    turns = "def f(x):\n    return x\n\n" * 8
    result = underlay("chat", "model:small", "--max-tokens", "40", library=library, typed=turns)
    assert result.returncode == 0, result.stderr
    assert "oldest turn is dropped" in result.stdout
    assert "context holds" not in result.stdout


def test_trace_names_the_documents_of_a_step(library: Path) -> None:
    command = ("trace", "batch", "model:small-base", "--step", "2")
    found = json.loads(underlay(*command, "--json", library=library).stdout)
    assert found["log"]["step"] == 2
    assert sum(document["tokens"] for document in found["documents"]) == 4 * 192
    shown = underlay(*command, "--limit", "1", library=library).stdout
    assert shown.startswith("step 2: loss ")
    assert f"{found['documents'][0]['source']}:" in shown
    assert f"and {len(found['documents']) - 1} more" in shown
    wrong("there is no step 99", "trace", "batch", "model:small-base", "--step", "99", library=library)


def test_trace_names_file_line_and_licence(library: Path) -> None:
    corpus = next(iter(Library(library).artifacts("dataset")))
    from underlay.data import Dataset
    from underlay.text import Tokenizer

    dataset = Dataset(corpus.folder)
    document = dataset.document(0)
    tokenizer = Tokenizer.load(next(iter(Library(library).artifacts("tokenizer"))).folder)
    text = tokenizer.decode(dataset.tokens[document.start + 20 : document.start + 80].tolist())
    found = json.loads(underlay("trace", "model:small", text, "--json", library=library).stdout)
    assert found["coverage"] > 0.9
    matches = [match for span in found["spans"] for match in span["matches"]]
    assert document.source in {match["source"] for match in matches}
    shown = underlay("trace", "model:small", text, library=library).stdout
    assert f"{document.source}:" in shown
    assert "(PSF-2.0)" in shown
    assert "evidence" in shown


def test_library_verbs(library: Path) -> None:
    rows = json.loads(underlay("library", "ls", "--json", library=library).stdout)
    assert {row["reference"].split("@")[0] for row in rows} >= {"model:small", "report:small", "corpus:small-raw"}
    manifest = json.loads(underlay("library", "show", "report:small", "--json", library=library).stdout)
    assert manifest["metrics"]["heldout_bits_per_byte"] > 0
    lineage = json.loads(underlay("library", "lineage", "corpus:small", "--json", library=library).stdout)
    assert any(reference.startswith("corpus:small-raw@") for reference in lineage["ancestors"])
    assert any(reference.startswith("model:small@") for reference in lineage["descendants"])
    assert underlay("library", "verify", library=library).returncode == 0
    for verb in ("ls", "verify"):
        assert "model:small" in underlay("library", verb, library=library).stdout
    for verb in ("show", "lineage"):
        assert "model:small-adapted" in underlay("library", verb, "model:small", library=library).stdout


def test_doctor_measures() -> None:
    found = json.loads(underlay("doctor", "--json").stdout)
    assert found["rates"]["float32_flops"] > 1e8
    assert found["rates"]["bandwidth"] > 1e8
    assert found["machine"]["cores"] >= 1


def test_what_the_user_did_wrong_is_one_line(library: Path, tmp_path: Path) -> None:
    complained(process("generate", "model:nothere", "x", library=library), "no such artifact")
    wrong("is a corpus; this needs a model", "generate", "corpus:small", "x", library=library)
    wrong("did you mean model:small", "chat", "model:smal", library=library)
    wrong("temperature", "generate", "model:small", "x", "--temperature", "-1", library=library)
    wrong("context", "generate", "model:small", "x " * 500, library=library)
    wrong("no such file", "run", str(tmp_path / "none.yaml"), library=tmp_path)
    wrong("no such file or folder", "run", str(SMALL), "--source", str(tmp_path / "none"), library=tmp_path)
    wrong("no such stage", "run", str(SMALL), "--until", "bake", library=tmp_path)
    wrong("did you mean 'steps'", "run", str(SMALL), "--set", "pretrain.train.step=1", library=tmp_path)
    assert underlay("generate").returncode == 2


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    library = tmp_path / "library"
    complained(process("run", str(SMALL), library=library, preexec_fn=limit), "the disk is full", code=1)
    made = [artifact.manifest.verb for artifact in Library(library).artifacts()]
    assert "curate" not in made
    assert all(problems == [] for _, problems in Library(library).verify())
    assert underlay("run", str(SMALL), "--until", "curate", library=library).returncode == 0


def test_what_the_machine_says_is_explained(tmp_path: Path) -> None:
    from underlay.cli import _explain

    expected = {errno.EROFS: "no permission", errno.EACCES: "no permission", errno.ENOSPC: "disk is full"}
    for number, words in expected.items():
        said = _explain(OSError(number, os.strerror(number), str(tmp_path)))
        assert said is not None
        assert words in said
        assert str(tmp_path) in said
    assert _explain(OSError(errno.ECONNRESET, "who knows")) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold for root")
def test_a_read_only_library(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    wrong("no permission", "run", str(SMALL), library=tmp_path / "library", code=1)


def test_control_c_says_how_to_go_on(tmp_path: Path) -> None:
    environment = os.environ | {"UNDERLAY_LIBRARY": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "underlay", "run", str(SMALL), "--set", "pretrain.train.steps=100000"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".staging/*/scratch/step-*")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Run the same command again to go on" in errors
    assert "Traceback" not in errors


def test_a_newer_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "library.json").write_text('{"format": 7}')
    wrong("newer Underlay", "library", "ls", library=tmp_path)


def test_a_defect_keeps_its_traceback_only_on_request(tmp_path: Path) -> None:
    result = process("--debug", "library", "show", "model:x", library=tmp_path)
    assert "Traceback" in result.stderr
    assert result.returncode != 0
