"""Curation by commands: the same stages as in a recipe, and questions to what they left."""

from pathlib import Path
from random import Random

import pytest
from test_recipe import Log

from underlay.data import Corpus
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.curation import BYTES_PER_TOKEN, as_mapping, ask, curate_recipe, gather_recipe

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def made(library: Library) -> dict[str, Artifact]:
    return run_recipe(read_recipe(SMALL), library, Log(), until="pack")


@pytest.fixture
def notes(tmp_path: Path) -> tuple[Library, Artifact]:
    folder, library = tmp_path / "notes", Library(tmp_path / "library")
    folder.mkdir()
    for number in range(10):
        chance = Random(number)
        lines = [" ".join("".join(chance.choices("aehinorst", k=6)) for _ in range(8)) for _ in range(3 + 2 * number)]
        (folder / f"{number}.txt").write_text(".\n".join(lines))
    raw = run_recipe(gather_recipe([str(folder)], "notes-raw"), library, Log())["gather"]
    return library, raw


def test_a_command_makes_what_a_recipe_makes(made: dict[str, Artifact], library: Library) -> None:
    log = Log()
    recipe = curate_recipe(library, made["gather"])
    assert recipe.name == "small"
    assert run_recipe(recipe, library, log)["curate"] == made["curate"]
    assert log.reused == {"curate": True}


def test_what_is_missing_is_tagged_first(notes: tuple[Library, Artifact]) -> None:
    library, raw = notes
    recipe = curate_recipe(library, raw, "prose", ["gopher"], ["stop-words=null", "few=fineweb.short_lines < 2"])
    run = run_recipe(recipe, library, Log())
    assert list(run) == ["tag", "curate"]
    assert "fineweb" in run["tag"].manifest.config["taggers"]
    assert run["curate"].reference.startswith("corpus:prose@")
    assert run["curate"].manifest.config["rules"] == {"stop-words": None, "few": "fineweb.short_lines < 2"}
    assert {"card.html", "card.md"} <= {file.path for file in run["curate"].manifest.files}
    assert list(curate_recipe(library, raw).stages) == ["curate"]
    assert list(curate_recipe(library, raw, presets=["c4"]).stages) == ["tag", "curate"]
    assert list(curate_recipe(library, raw, assignments=["tag.minhash.rows=4"]).stages) == ["tag", "curate"]


def test_settings_of_either_stage_can_be_set(notes: tuple[Library, Artifact]) -> None:
    library, raw = notes
    recipe = curate_recipe(library, raw, assignments=["curate.near_duplicates=false", "tag.minhash.bands=3"])
    assert recipe.stages["curate"].near_duplicates is False  # type: ignore[union-attr]
    assert recipe.stages["tag"].minhash.bands == 3  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"underlay curate: unknown key 'stages\.curate\.redac'; did you mean 'redact'"):
        curate_recipe(library, raw, assignments=["curate.redac=mask"])
    with pytest.raises(UserError, match="write it as name="):
        curate_recipe(library, raw, rules=["gopher.words >= 3"])


def test_a_question_is_put_beside_the_rules_of_what_was_curated(made: dict[str, Artifact], library: Library) -> None:
    before = list(library.artifacts())
    answer = ask(library, made["gather"], ["text.characters >= 3000"], Log())
    assert (answer.base, answer.attributes) == (made["curate"], made["tag"])
    assert answer.found.now.documents == len(Corpus(made["curate"].folder))
    assert answer.found.replaced == {"too-short": "text.characters >= 100"}
    assert answer.found.goes.documents > 0
    assert answer.dataset == made["pack"]
    assert answer.bytes_per_token == made["pack"].manifest.metrics["bytes_per_token"]
    again = ask(library, made["curate"], ["text.characters >= 3000"], Log())
    assert as_mapping(again) == as_mapping(answer)
    assert list(library.artifacts()) == before


def test_a_question_finds_the_attributes_that_it_needs(notes: tuple[Library, Artifact]) -> None:
    library, raw = notes
    answer = ask(library, raw, ["c4.sentences >= 9"], Log(), presets=["basic"])
    assert (answer.base, answer.dataset, answer.bytes_per_token) == (None, None, BYTES_PER_TOKEN)
    assert answer.found.found.documents == 10
    assert 0 < answer.found.then.documents < answer.found.now.documents
    assert "c4" in answer.attributes.manifest.config["taggers"]
    log = Log()
    assert ask(library, raw, ["c4.sentences >= 9"], log, presets=["basic"]).attributes == answer.attributes
    assert log.reused == {}


def test_a_question_about_nothing_known_is_named(made: dict[str, Artifact], library: Library) -> None:
    with pytest.raises(UserError, match=r"no attribute 'text\.charcters'; did you mean text\.characters"):
        ask(library, made["gather"], ["text.charcters >= 3"], Log())
