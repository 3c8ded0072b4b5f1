"""The options of the verbs that generate, in one process: which engine they make of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serve import fake_vllm
from serve.world import make_adapter, make_model
from underlay.cli import app
from underlay.cli.engines import as_bytes
from underlay.errors import UserError
from underlay.generate.speculate import Draft, Lookup
from underlay.library import Library
from underlay.plan.machine import find_compiler

PROMPT = "The quick brown fox jumps over"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("options") / "library"
    library = Library(root)
    make_model(library)
    make_model(library, "small", width=16)
    make_model(library, "strange", vocabulary=290)
    make_adapter(root.parent / "one", 1)
    return root


@pytest.fixture
def serving(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine and the server that `underlay serve` would have run with some options."""
    made: list[Any] = []
    monkeypatch.setattr("underlay.serve.serve", lambda server, *_: made.append(server))

    def serve(*options: str) -> Any:
        result = run(root, "serve", "model:tiny", *options)
        assert result.exit_code == 0, result.output
        server = made.pop()
        return server.state.worker.engine, server

    return serve


def run(root: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--library", str(root)])


def wrong(root: Path, complaint: str, *arguments: str) -> None:
    result = run(root, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_serve_makes_the_engine_that_was_asked_for(serving: Any, root: Path) -> None:
    plain, server = serving()
    assert (plain.slots, plain.adapters, plain._guesser) == (8, [], None)
    assert "bfloat16" in plain.runner.describe()
    assert {route.path for route in server.routes} >= {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
    engine, _ = serving("--slots", "3", "--memory", "1MB", "--precision", "float32", "--cache", "float32", "--guess")
    assert engine.slots == engine.scheduler.slots == 3
    assert "float32" in engine.runner.describe()
    assert engine.scheduler.pool.count == 10**6 // engine.runner.block_bytes
    assert isinstance(engine._guesser, Lookup)
    engine, _ = serving("--draft", "model:small", "--slots", "2", "--precision", "int8")
    assert isinstance(engine._guesser, Draft)
    assert "int8" in engine.runner.describe()
    engine, _ = serving("--adapter", f"one={root.parent / 'one'}", "--adapter", f"two={root.parent / 'one'}")
    assert engine.adapters == ["one", "two"]


def test_clients_may_load_adapters_where_a_folder_is_named(serving: Any, root: Path) -> None:
    from fastapi.testclient import TestClient

    body = {"lora_name": "one", "lora_path": "one"}
    for options, status in ((("--allow-adapters", str(root.parent)), 200), ((), 403)):
        _, server = serving(*options)
        with TestClient(server, base_url="http://localhost") as client:
            assert client.post("/v1/load_lora_adapter", json=body).status_code == status


def test_serve_hands_over_to_vllm(serving: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from underlay.serve.vllm import VllmEngine

    exports = root.parent / "library-exports"
    wrong(root, "pip install 'vllm", "serve", "model:tiny", "--engine", "vllm")
    assert not exports.exists()
    fake_vllm.install(monkeypatch)
    wrong(root, "--cache: not with --engine vllm", "serve", "model:tiny", "--engine", "vllm", "--cache", "int8")
    wrong(root, "--guess: not with", "serve", "model:tiny", "--engine", "vllm", "--guess")
    wrong(root, "--draft: not with", "serve", "model:tiny", "--engine", "vllm", "--draft", "model:small")
    wrong(root, "--precision int4: not with", "serve", "model:tiny", "--engine", "vllm", "--precision", "int4")
    one = f"one={root.parent / 'one'}"
    engine, _ = serving("--engine", "vllm", "--slots", "5", "--memory", "3 GB", "--adapter", one)
    assert isinstance(engine, VllmEngine)
    args = engine._engine.args
    assert (args.max_num_seqs, args.kv_cache_memory_bytes, args.dtype) == (5, 3 * 10**9, "bfloat16")
    assert (args.max_lora_rank, engine.adapters) == (8, ["one"])
    assert [path.name.partition("@")[0] for path in exports.iterdir()] == ["tiny"]
    assert Path(args.model).parent == exports
    grows, _ = serving("--engine", "vllm", "--allow-adapters", str(root.parent), "--precision", "float32")
    assert (grows._engine.args.max_lora_rank, grows._engine.args.dtype) == (64, "float32")


def test_generate_answers_by_an_adapter_and_guesses_without_another_answer(root: Path) -> None:
    def text(*options: str) -> str:
        result = run(root, "generate", "model:tiny", PROMPT, "--max-tokens", "24", "--seed", "2", *options)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    plain = text()
    assert text("--guess") == text("--draft", "model:small") == plain
    assert text("--memory", "1MB") == plain
    assert text("--adapter", str(root.parent / "one")) != plain
    assert text("--precision", "float32").startswith(PROMPT)
    assert text("--n", "2", "--guess") == text("--n", "2")


def test_chat_answers_by_an_adapter(root: Path) -> None:
    def said(*options: str) -> str:
        command = ["chat", "model:tiny", "--max-tokens", "12", "--temperature", "0", *options, "--library", str(root)]
        result = CliRunner().invoke(app, command, input="Hello\n\n")
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    assert said("--adapter", str(root.parent / "one")) != said() == said("--guess")


@pytest.mark.parametrize("verb", [("serve", "model:tiny"), ("generate", "model:tiny", PROMPT), ("chat", "model:tiny")])
def test_what_the_engine_cannot_be_made_of_is_one_line(root: Path, verb: tuple[str, ...]) -> None:
    for complaint, *options in (
        ("its tokens are not those of model:tiny", "--draft", "model:strange"),
        ("--guess, --draft: give one", "--draft", "model:small", "--guess"),
        ("--memory lots: a number is expected", "--memory", "lots"),
        ("--memory 0: is no room", "--memory", "0"),
        ("memory: 1,000 bytes hold 0 blocks", "--memory", "1kB"),
    ):
        wrong(root, complaint, *verb, *options)


def test_adapters_are_named_once(root: Path) -> None:
    one = root.parent / "one"
    wrong(root, f"--adapter {one}: write a name", "serve", "model:tiny", "--adapter", str(one))
    wrong(root, "two called x", "serve", "model:tiny", "--adapter", f"x={one}", "--adapter", f"x={one}")
    wrong(root, "adapter_config.json: no such file", "generate", "model:tiny", PROMPT, "--adapter", str(root))
    named = f"model:tiny={one}"
    wrong(root, "the model itself is called so", "serve", "model:tiny", "--adapter", named)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("2G", 2 * 10**9), ("1.5 MB", 1_500_000), ("300kB", 300_000), ("300KB", 300_000), ("77", 77)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert as_bytes("--memory", text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "2GiB", "1e9", "0.2", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--memory"):
        as_bytes("--memory", text)


def test_help_waits_for_nothing_heavy() -> None:
    told = (
        "import sys\nfrom typer.testing import CliRunner\nfrom underlay.cli import app\n"
        "result = CliRunner().invoke(app, ['serve', '--help'])\nassert result.exit_code == 0\n"
        "print(sorted({'torch', 'fastapi', 'vllm', 'numba'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_doctor_says_which_way_a_model_takes_and_how_fast_it_is(root: Path) -> None:
    result = run(root, "doctor", "--engine", "model:tiny", "--precision", "float32", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["path"].startswith("native: C++") if find_compiler() else "no C++ compiler" in found["path"]
    assert "float32" in found["path"]
    assert found["cache_bytes"] == found["token_bytes"] * found["cache_tokens"]
    speeds = ("prompt_tokens_per_second", "tokens_per_second", "batch_tokens_per_second")
    assert all(found[speed] > 0 for speed in speeds)
    shown = run(root, "doctor", "--engine", "model:tiny")
    assert found["path"][:6] in shown.stdout
    assert "bfloat16" in shown.stdout


def test_no_option_of_doctor_or_chat_is_ignored(root: Path) -> None:
    wrong(root, "--precision int8: only with --engine", "doctor", "--precision", "int8")
    wrong(root, "max_tokens: 0 is below 1", "chat", "model:tiny", "--max-tokens", "0")
    wrong(root, "temperature: -1.0 is not", "chat", "model:tiny", "--temperature", "-1")
