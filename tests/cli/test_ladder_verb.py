"""`underlay ladder`, as people type it."""

import json
from pathlib import Path

import pytest
from test_adapt_verb import BASE, typed, world

from underlay.config.base import read_yaml

__all__ = ["world"]  # the fixture


def test_a_ladder_is_climbed_and_its_page_lies_where_it_says(world: Path) -> None:
    rows = [{"text": f"number {n}", "label": "odd" if n % 2 else "even"} for n in range(40, 48)]
    (world / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (world / "parity.yaml").write_text("instruction: Even or odd?\n")
    asked = ("ladder", BASE, "--task", "@parity.yaml", "--data", "@labels.jsonl", "--test", "@more.jsonl")
    code, out, err = typed(world, *asked, "--rungs", "majority,tfidf,prompt", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert {way["rung"] for way in made["ways"]} == {"majority", "tfidf", "prompt"}
    assert made["made"].startswith("report:parity-ladder@")
    assert "<h1" in Path(made["page"]).read_text("utf-8")
    code, out, err = typed(world, *asked, "--rungs", "majority,tfidf,prompt")
    assert code == 0, err
    assert "TF-IDF, logistic regression" in out
    assert "pays" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--rungs", "majority,magic"), "--rungs magic: there are majority, tfidf"),
        (("--test", "@labels.jsonl"), "--data: the task bare names no files; give some"),
        (("--data", "@labels.jsonl"), "--test: the task bare names no files; give some"),
    ],
)
def test_what_cannot_be_compared_is_one_line(world: Path, more: tuple[str, ...], message: str) -> None:
    (world / "bare.yaml").write_text("instruction: Even or odd?\n")
    code, _, err = typed(world, "ladder", BASE, "--task", "@bare.yaml", *more)
    assert code == 2
    assert message in " ".join(err.split())


def test_a_model_is_named_once(world: Path) -> None:
    (world / "bare.yaml").write_text("instruction: Even or odd?\n")
    code, _, err = typed(world, "ladder", BASE, BASE, "--task", "@bare.yaml")
    assert code == 2
    assert "model:small-base is named twice" in err


@pytest.mark.parametrize("name", ["gsm8k", "instructions", "children", "banking77"])
def test_the_recipes_of_data_that_people_bring_are_recipes(name: str) -> None:
    from underlay.recipe import read_recipe

    root = Path(__file__).parents[2]
    assert read_recipe(root / "recipes" / f"{name}.yaml").stages


@pytest.mark.parametrize("name", ["banking77", "gsm8k", "spam"])
def test_the_tasks_beside_them_are_tasks(name: str) -> None:
    from underlay.adapt.prompting import read_task

    path = Path(__file__).parents[2] / "recipes" / "tasks" / f"{name}.yaml"
    assert read_task(path).name == name
    assert read_yaml(path)["instruction"]
