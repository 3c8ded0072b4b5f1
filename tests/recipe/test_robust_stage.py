"""Robustness as a stage: what it makes, measures, resumes and refuses."""

import json
from typing import Any

import pytest
from adapting_world import Silent, small_library

from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.recipe import run_recipe
from underlay.recipe.recipe import make_recipe

TRAIN = {"steps": 4, "context": 128, "batch_rows": 4, "micro_rows": 2, "compile": False, "precision": "float32"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "conversation": [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(12)],
    "preference": [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "I will not."} for n in range(12)],
    "label": [{"text": f"Is the number {n} lucky?", "label": "odd" if n % 2 else "even"} for n in range(12)],
    "tags": [{"tokens": ["number", str(n)], "tags": ["O", "B-odd" if n % 2 else "B-even"]} for n in range(12)],
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("robust")
    return small_library(folder, ROWS)


def adapted(library: Library, form: str, listener: Silent | None = None, **settings: Any) -> Artifact:
    stage = {"model": "model:small-base", "examples": f"examples:{form}", "train": TRAIN} | settings
    recipe = make_recipe({"name": "robust", "stages": {"adapt": stage}}, "test")
    return run_recipe(recipe, library, listener or Silent())["adapt"]


def test_what_is_hardened_is_attacked_by_the_same(library: Library) -> None:
    made = adapted(library, "label", robust=["spelling", "gradient"], heldout="examples:label")
    metrics = made.manifest.metrics
    assert {"heldout_attacked_clean", "heldout_attacked_spelling", "heldout_attacked_gradient"} <= metrics.keys()
    assert metrics["heldout_attacked_clean"] == metrics["heldout_accuracy"]
    assert all(metrics[f"heldout_attacked_{kind}"] <= metrics["heldout_accuracy"] for kind in ("spelling", "gradient"))
    rows = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row["attacked"] > 0 for row in rows)
    assert made.manifest.config["robust"]["kinds"] == ["spelling", "gradient"]


def test_a_model_that_is_not_hardened_can_be_attacked_too(library: Library) -> None:
    attack = {"kinds": ["spelling", "paraphrase"], "tries": 3, "texts": 6}
    train = {**TRAIN, "examine_steps": 2}
    made = adapted(library, "label", attack=attack, heldout="examples:label", train=train)
    plain = adapted(library, "label", heldout="examples:label", train=train)
    assert (made.folder / "model.safetensors").read_bytes() == (plain.folder / "model.safetensors").read_bytes()
    rows = [json.loads(line) for line in (made.folder / "evaluations.jsonl").read_text().splitlines()]
    assert all("heldout_attacked_paraphrase" in row for row in rows)
    assert "heldout_attacked_spelling" not in plain.manifest.metrics


def test_stopped_and_resumed_equals_never_stopped(library: Library) -> None:
    settings = {"robust": ["spelling", "paraphrase", "gradient"], "train": {**TRAIN, "checkpoint_seconds": 1e-9}}
    whole = adapted(library, "label", **settings)
    weights = (whole.folder / "model.safetensors").read_bytes()
    library.remove(whole.reference)
    with pytest.raises(KeyboardInterrupt):
        adapted(library, "label", Silent(stops_at=2), **settings)
    again = adapted(library, "label", **settings)
    assert (again.folder / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("method", ["full", "lora"])
def test_conversations_learn_with_moved_embeddings(library: Library, method: str) -> None:
    made = adapted(library, "conversation", robust="gradient", method=method, heldout="examples:conversation")
    assert made.manifest.kind == ("model" if method == "full" else "adapter")
    assert made.manifest.metrics["heldout_loss"] > 0


@pytest.mark.parametrize(
    ("form", "settings", "line"),
    [
        ("label", {"robust": ["spelling"], "objective": {"name": "head", "frozen": True}}, "reads each text once"),
        ("preference", {"robust": ["gradient"]}, "head and instruct can be hardened, not preference"),
        ("conversation", {"robust": ["spelling"]}, "spelling is for texts with labels"),
        ("tags", {"robust": ["paraphrase"]}, "paraphrase is for texts with labels"),
        ("label", {"attack": ["spelling"]}, "no examples to measure on"),
        ("tags", {"attack": ["spelling"], "heldout": "examples:tags"}, "tells labels of texts apart"),
        ("label", {"robust": ["noise"]}, "robust"),
        ("label", {"robust": ["spelling", "spelling"]}, "name each once"),
    ],
)
def test_what_cannot_be_hardened_or_attacked_is_refused(
    library: Library, form: str, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        adapted(library, form, **settings)
