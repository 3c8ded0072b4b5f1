"""`underlay adapt --robust` and `underlay attack`, as people type them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from underlay.cli import app

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
QUICK = [f"adapt.train.{one}" for one in ("context=128", "compile=false", "batch_rows=4", "micro_rows=4")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attack")
    quick = ("--set", "pretrain.train.steps=2", "--until", "pretrain")
    result = CliRunner().invoke(app, ["run", str(SMALL), "--library", str(folder / "library"), *quick])
    assert result.exit_code == 0, result.output
    rows = [{"text": f"Is the number {n} lucky?", "label": "odd" if n % 2 else "even"} for n in range(12)]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def typed(world: Path, *words: str) -> tuple[int, str, str]:
    given = [word.replace("@", f"{world}/") for word in words]
    result = CliRunner().invoke(app, [*given, "--library", str(world / "library")])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_model_is_hardened_measured_and_attacked_again(world: Path) -> None:
    words = ("adapt", "model:small-base", "--data", "@labels.jsonl", "--heldout", "@labels.jsonl", "--steps", "3")
    kinds = ("--robust", "spelling", "--robust", "gradient", "--name", "hard")
    sets = [word for one in QUICK for word in ("--set", one)]
    code, out, err = typed(world, *words, *kinds, *sets, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert {"heldout_accuracy", "heldout_attacked_spelling", "heldout_attacked_gradient"} <= made.keys()
    code, out, err = typed(world, "attack", "model:hard", "--data", "@labels.jsonl", "--kind", "spelling", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["texts"] == 12
    assert found["accuracy"]["spelling"] == pytest.approx(made["heldout_attacked_spelling"])
    assert found["accuracy"]["clean"] == pytest.approx(made["heldout_accuracy"])
    code, out, err = typed(world, "attack", "model:hard", "--data", "@labels.jsonl", "--limit", "4")
    assert code == 0, err
    assert all(name in out for name in ("clean", "spelling", "paraphrase", "gradient"))


def test_what_cannot_be_attacked_is_one_line(world: Path) -> None:
    code, _, err = typed(world, "attack", "model:small-base", "--data", "@labels.jsonl")
    assert code == 2
    assert "adapt one by labels first" in err
    code, _, err = typed(world, "attack", "model:small-base", "--data", "@labels.jsonl", "--kind", "noise")
    assert code == 2
    assert "attack: key 'kinds.0'" in err
