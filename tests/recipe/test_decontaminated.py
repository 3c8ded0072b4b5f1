"""A recipe that decontaminates, cuts copied passages and plants canaries: what its artifacts say of it."""

import json
from pathlib import Path

import pytest
from test_recipe import Log

from underlay.data import Corpus
from underlay.data.curate.canaries import read
from underlay.library import Artifact, Library
from underlay.recipe import read_recipe, run_recipe

QUESTION = "How many apples does Jane have left when she gives half of her fourteen apples to the neighbour's boy?"
RECIPE = """
name: clean
stages:
  gather: {{source: ['{source}'], name: raw}}
  tag:
    corpus: gather
    taggers: [text, minhash, contamination]
    contamination: {{files: [{{path: '{benchmark}', fields: [question]}}]}}
  curate:
    corpus: gather
    attributes: tag
    presets: [decontaminated]
    near_duplicates: false
    substrings: {{min_tokens: 20, min_left: 10}}
    canaries: {{count: 2, copies: [1, 3]}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    passage = " ".join(f"passage{number}" for number in range(30))
    (tmp_path / "notes").mkdir()
    for name in ("one", "two"):
        (tmp_path / "notes" / f"{name}.txt").write_text(
            f"This is what {name} says of it. {passage} So much for {name}."
        )
    (tmp_path / "notes" / "quiz.txt").write_text(f"The quiz had one question. {QUESTION}")
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text(json.dumps({"question": QUESTION}))
    path = tmp_path / "clean.yaml"
    path.write_text(RECIPE.format(source=tmp_path / "notes", benchmark=benchmark))
    return path


def run(recipe: Path, log: Log | None = None) -> dict[str, Artifact]:
    return run_recipe(read_recipe(recipe), Library(recipe.parent / "library"), log or Log())


def test_what_was_done_is_in_the_artifacts(recipe: Path) -> None:
    curated = run(recipe)["curate"]
    corpus = Corpus(curated.folder)
    assert curated.manifest.metrics["canaries"] == {"different": 2, "documents": 4}
    assert curated.manifest.metrics["dropped"] == {"test-questions": 1}
    assert "canaries.json" in {file.path for file in curated.manifest.files}
    assert sum(row["copies"] for row in read(curated.folder)) == 4
    reasons = [entry.reason for entry in corpus.ledger()]
    assert sorted(reasons) == ["canary"] * 4 + ["copied-text", "test-questions"]
    assert sum("passage7" in document.text for document in corpus) == 1


def test_another_benchmark_is_another_order(recipe: Path) -> None:
    first, again = run(recipe), run(recipe)
    assert first["tag"].reference == again["tag"].reference
    (recipe.parent / "benchmark.jsonl").write_text(json.dumps({"question": QUESTION.replace("apples", "pears")}))
    other = run(recipe)
    assert other["gather"].reference == first["gather"].reference
    assert other["tag"].reference != first["tag"].reference
