"""A disk that fills while texts are gathered, looked at or kept: one line, no half corpus, and the same run goes on."""

from pathlib import Path
from random import Random

import pytest
from test_recipe import Log
from typer.testing import CliRunner

from full_disks import files_up_to
from underlay.cli import app
from underlay.library import Library
from underlay.recipe import read_recipe, run_recipe

RECIPE = """
name: notes
stages:
  gather: {{name: notes-raw, source: ["{source}"]}}
  tag: {{corpus: gather}}
  curate: {{corpus: gather, attributes: tag, presets: []}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        chance = Random(number)
        words = ["".join(chance.choices("abcdefghijklmnop", k=8)) for _ in range(2000)]
        (source / f"{number}.txt").write_text(" ".join(words) + "\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(source=source))
    return path


@pytest.mark.parametrize("stage", ["gather", "tag", "curate"])
def test_a_full_disk_leaves_the_library_whole(recipe: Path, tmp_path: Path, stage: str) -> None:
    library = Library(tmp_path / "library")
    before = {"gather": None, "tag": "gather", "curate": "tag"}[stage]
    if before:
        run_recipe(read_recipe(recipe), library, Log(), until=before)
    made = [artifact.reference for artifact in library.artifacts()]
    limit = {"gather": 100_000, "tag": 4_000, "curate": 100_000}[stage]
    with files_up_to(limit):
        result = CliRunner().invoke(app, ["run", str(recipe), "--library", str(library.root)])
    assert result.exit_code == 1, result.output
    assert "disk" in result.output
    assert "Traceback" not in result.output
    assert [artifact.reference for artifact in library.artifacts()] == made
    assert not any(problems for _, problems in library.verify())
    whole = run_recipe(read_recipe(recipe), library, Log())
    once = run_recipe(read_recipe(recipe), Library(tmp_path / "other"), Log())
    assert [one.reference for one in whole.values()] == [one.reference for one in once.values()]
