"""`underlay adapt`, `merge` and `prompt`, as people type them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from underlay.cli import app

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
BASE = "model:small-base"
QUICK = ("--set", "adapt.train.context=128", "--set", "adapt.train.compile=false", "--set", "adapt.train.batch_rows=4")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with a small model, and files beside it."""
    folder = tmp_path_factory.mktemp("adapt")
    quick = ("--set", "pretrain.train.steps=2", "--until", "pretrain")
    result = CliRunner().invoke(app, ["run", str(SMALL), "--library", str(folder / "library"), *quick])
    assert result.exit_code == 0, result.output
    chats = [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(20)]
    labels = [{"text": f"number {n}", "label": "odd" if n % 2 else "even"} for n in range(20)]
    for name, rows in (("chats", chats), ("labels", labels)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def typed(world: Path, *words: str) -> tuple[int, str, str]:
    given = [word.replace("@", f"{world}/") for word in words]
    result = CliRunner().invoke(app, [*given, "--library", str(world / "library")])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def micro(*more: str) -> tuple[str, ...]:
    return (*QUICK, "--set", "adapt.train.micro_rows=4", *more)


def test_an_adapter_is_made_served_and_merged(world: Path) -> None:
    code, out, err = typed(
        world,
        "adapt",
        BASE,
        "--data",
        "@chats.jsonl",
        "--method",
        "lora",
        "--rank",
        "2",
        *micro(),
        "--json",
    )
    assert code == 0, err
    made = json.loads(out)
    assert made["made"].startswith("adapter:small-base-chats@")
    assert made["objective"] == "instruct"
    assert made["examples"] == 20
    code, out, err = typed(world, "generate", BASE, "Say", "--adapter", "adapter:small-base-chats", "--max-tokens", "3")
    assert code == 0, err
    assert out.startswith("Say")
    code, out, err = typed(world, "merge", "adapter:small-base-chats", "--json")
    assert code == 0, err
    assert json.loads(out)["drift"]["divergence"] < 1e-6
    code, _, err = typed(
        world, "generate", "model:small-base-chats", "Say", "--adapter", "adapter:small-base-chats", "--max-tokens", "3"
    )
    assert code == 2
    assert "changes model:small-base@" in err


def test_labels_are_learned_by_a_head_and_measured(world: Path) -> None:
    words = ("--data", "@labels.jsonl", "--heldout", "@labels.jsonl", "--method", "head", "--name", "parity")
    code, out, err = typed(world, "adapt", BASE, *words, *micro("--steps", "3"))
    assert code == 0, err
    assert "held out: accuracy" in out
    assert "learning" in out


def test_a_task_is_put_to_a_model_or_measured(world: Path) -> None:
    task = world / "parity.yaml"
    task.write_text("instruction: Odd or even?\noutput: {labels: [odd, even]}\ndecoding: {max_tokens: 8}\n")
    code, out, err = typed(world, "prompt", BASE, "@parity.yaml", "number 3")
    assert code == 0, err
    assert out.strip() in ("odd", "even")
    code, out, err = typed(world, "prompt", BASE, "@parity.yaml", "--data", "@labels.jsonl", "--limit", "6", "--json")
    assert code == 0, err
    figures = json.loads(out)["figures"]
    assert figures["accuracy"]["examples"] == 6
    assert 0 <= figures["accuracy"]["low"] <= figures["accuracy"]["value"] <= figures["accuracy"]["high"] <= 1
    code, out, err = typed(world, "prompt", BASE, "list")
    assert (code, "summarise" in out.split()) == (0, True)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("adapt", BASE, "--data", "@missing.jsonl"), "missing.jsonl"),
        (
            ("adapt", BASE, "--data", "@labels.jsonl", "--method", "lora", "--steps", "1"),
            "--objective head",
        ),
        (("adapt", BASE, "--data", "@chats.jsonl", "--passes", "1", "--steps", "1"), "give one of them"),
        (("adapt", BASE, "--data", "@chats.jsonl", "--reward", "parses"), "only with --objective grpo"),
        (
            ("adapt", BASE, "--data", "@chats.jsonl", "--method", "head", "--objective", "dpo"),
            "learns a head",
        ),
        (("adapt", BASE, "--data", "@chats.jsonl", "--rank", "2"), "lora: only with method lora"),
        (("prompt", BASE, "summarise"), "give either a text"),
        (("prompt", BASE, "nothing", "a text"), "no such task"),
        (("merge", "adapter:nothing"), "no such artifact"),
    ],
)
def test_what_cannot_be_is_one_line(world: Path, words: tuple[str, ...], complaint: str) -> None:
    code, out, err = typed(world, *words)
    assert code == 2
    line = [one for one in err.splitlines() if one.startswith("error:")]
    assert len(line) == 1, (out, err)
    assert complaint in line[0]
