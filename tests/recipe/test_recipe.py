"""Recipes: what is refused before anything is made, what is reused, and what comes out at the end."""

import json
import math
from pathlib import Path

import pytest

from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.recipe import Recipe, read_recipe, run_recipe
from underlay.recipe.stages import PretrainStage
from underlay.recipe.verbs import VERBS

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = RECIPES / "small.yaml"
QUICK = ("pretrain.train.steps=6", "adapt.train.steps=3", "pretrain.train.precision=float32")


class Log:
    """Remembers what a run told it."""

    def __init__(self) -> None:
        self.reused: dict[str, bool] = {}
        self.lines: list[str] = []
        self.moves = 0
        self._stage = ""

    def started(self, stage: str, number: int, of: int) -> None:
        assert 1 <= number <= of
        self._stage = stage

    def moved(self, done: float, total: float | None, **facts: float | str) -> None:
        assert total is None or 0 <= done <= total
        self.moves += 1

    def said(self, line: str) -> None:
        self.lines.append(line)

    def ended(self, artifact: Artifact, reused: bool) -> None:
        self.reused[self._stage] = reused


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def made(library: Library) -> dict[str, Artifact]:
    return run_recipe(read_recipe(SMALL, QUICK), library, Log())


def test_every_stage_leaves_its_artifact(made: dict[str, Artifact], library: Library) -> None:
    assert {stage: artifact.manifest.kind for stage, artifact in made.items()} == {
        "gather": "corpus",
        "tag": "attributes",
        "curate": "corpus",
        "tokenizer": "tokenizer",
        "pack": "dataset",
        "pretrain": "model",
        "examples": "examples",
        "adapt": "model",
        "reinforce": "model",
        "evaluate": "report",
        "trace": "index",
        "report": "report",
    }
    assert all(problems == [] for _, problems in library.verify())


def test_the_report_holds_what_it_promises(made: dict[str, Artifact]) -> None:
    report = made["report"]
    metrics = report.manifest.metrics
    assert 0 < metrics["heldout_bits_per_byte"] < 9
    assert 0 < metrics["xz_solid_bits_per_byte"] < metrics["xz_bits_per_byte"] < 8
    valid, doing = metrics["valid_function_share"], metrics["doing_function_share"]
    assert list(valid) == list(doing) == ["base", "adapted", "reinforced"]
    assert all(0 <= doing[name] <= valid[name] <= 1 for name in valid)
    assert set(metrics["seconds"]) == set(made) - {"report", "reinforce"}  # whose verb is adapt
    assert all(seconds > 0 for seconds in metrics["seconds"].values())
    page = (report.folder / "report.html").read_text("utf-8")
    assert f"{metrics['heldout_bits_per_byte']:.2f}" in page
    completions = json.loads((report.folder / "completions.json").read_text("utf-8"))
    assert len(completions) == 3
    assert all(completion["text"].startswith(completion["prompt"]) for completion in completions)


def test_lineage_reaches_from_the_report_to_the_sources(made: dict[str, Artifact], library: Library) -> None:
    ancestors = {artifact.reference for artifact in library.ancestors(made["report"])}
    assert ancestors == {artifact.reference for artifact in made.values()} - {made["report"].reference}
    assert made["report"] in library.descendants(made["gather"])


def test_a_second_run_reuses_everything(made: dict[str, Artifact], library: Library) -> None:
    log = Log()
    assert run_recipe(read_recipe(SMALL, QUICK), library, log) == made
    assert set(log.reused.values()) == {True}


def test_a_change_redoes_what_depends_on_it(made: dict[str, Artifact], library: Library) -> None:
    log = Log()
    run_recipe(read_recipe(SMALL, [*QUICK, "adapt.train.steps=4"]), library, log, until="evaluate")
    assert log.reused == {
        "gather": True,
        "tag": True,
        "curate": True,
        "tokenizer": True,
        "pack": True,
        "pretrain": True,
        "examples": True,
        "adapt": False,
        "reinforce": False,
        "evaluate": False,
    }


def test_changed_sources_are_gathered_again(tmp_path: Path) -> None:
    source, library = tmp_path / "text", Library(tmp_path / "library")
    source.mkdir()
    log = Log()
    recipe = read_recipe(SMALL, sources=[str(source)])
    versions = []
    for text in ("one " * 30, "two " * 30):
        (source / "a.txt").write_text(text)
        versions.append(run_recipe(recipe, library, log, until="gather")["gather"].manifest.version)
        assert log.reused["gather"] is False
    assert versions[0] != versions[1]


def test_prose_runs_the_whole_path_too(tmp_path: Path) -> None:
    source = tmp_path / "prose"
    source.mkdir()
    for number in range(40):
        weather = ("thunderstorms crossed mountainous countries", "sunshine brightened cultivated fields")
        lines = [f"On day {number} {weather[hour % (number % 7 + 2) > 0]} at {hour}." for hour in range(60)]
        (source / f"{number}.txt").write_text("\n\n".join(lines))
    recipe = read_recipe(
        SMALL, [*QUICK, "report.prompts=[]", "adapt.train.context=192", "curate.near_duplicates=false"], [str(source)]
    )
    log = Log()
    made = run_recipe(recipe, Library(tmp_path / "library"), log)
    assert made["examples"].manifest.metrics["pairs_from"] == "passages"
    assert made["report"].manifest.metrics["valid_function_share"] is None
    assert made["reinforce"] == made["adapt"], "no reward can tell what prose is worth"
    assert any(line.endswith(f"so {made['adapt'].reference} goes on as it is") for line in log.lines)


def test_held_out_documents_are_never_learned_from(made: dict[str, Artifact]) -> None:
    from underlay.adapt import find_pairs
    from underlay.data import Corpus, Dataset

    train, heldout = (set(Dataset(made["pack"].folder, split).ids) for split in ("train", "heldout"))
    assert heldout
    assert not train & heldout
    _, pairs = find_pairs(document for document in Corpus(made["curate"].folder) if document.id in train)
    metrics = made["adapt"].manifest.metrics
    different = {(pair.prompt, pair.answer) for pair in pairs}
    assert 0 < metrics["examples"] < made["examples"].manifest.metrics["examples"]
    assert metrics["examples"] + sum(metrics["left_out"].values()) == len(different)


def refuses(complaint: str, *assignments: str) -> None:
    with pytest.raises(UserError) as caught:
        read_recipe(SMALL, assignments)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_keys_name_their_neighbour() -> None:
    refuses("unknown key 'stages.pretrain.train.stepz'; did you mean 'steps'?", "pretrain.train.stepz=3")
    refuses("unknown key 'stages.curate.redac'; did you mean 'redact'?", "curate.redac=false")
    refuses("unknown key 'stages.tag.minhash.band'; did you mean 'bands'?", "tag.minhash.band=3")
    refuses("unknown key 'stages.pack.foo'", "pack.foo=1")
    refuses("unknown key 'sed'; did you mean 'seed'?", "sed=1")


def test_wrong_values_name_their_key() -> None:
    refuses("key 'stages.pretrain.train.steps': input should be a valid integer", "pretrain.train.steps=many")
    refuses(
        "key 'stages.pretrain.train': set one of steps, minutes and passes", "pretrain.train={steps: 3, minutes: 3}"
    )
    refuses("key 'stages.pretrain.dataset'", "pretrain.dataset=null")
    refuses("stages.bake", "stages.bake={a: 1}")


def test_a_length_in_minutes_replaces_one_in_steps_and_back() -> None:
    def length(*assignments: str) -> tuple[int | None, float | None]:
        stage = read_recipe(SMALL, assignments).stages["pretrain"]
        assert isinstance(stage, PretrainStage)
        return stage.train.steps, stage.train.minutes

    assert length() == (40, None)
    assert length("pretrain.train.minutes=3") == (None, 3.0)
    assert length("pretrain.train.minutes=3", "pretrain.train.steps=5") == (5, None)


def test_sources_replace_what_was_left_out_too() -> None:
    from underlay.recipe.stages import GatherStage

    def exclude(*assignments: str) -> tuple[str, ...]:
        stage = read_recipe(SMALL, assignments, ["a", "b"]).stages["gather"]
        assert isinstance(stage, GatherStage)
        assert stage.source == ("a", "b")
        return stage.exclude

    assert exclude() == ()
    assert exclude("gather.exclude=['*.md']") == ("*.md",)


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("curate.corpus=pack", "its corpus is pack, which comes later"),
        ("pretrain.dataset=gather", "its dataset is gather, which makes a corpus; it needs a dataset"),
        ("curate.corpus=corpus:nothere", "no such artifact"),
        ("curate.attributes=gather", "its attributes is gather, which makes a corpus; it needs attributes"),
        ("curate.name=small-raw", "stages gather and curate both make corpus:small-raw"),
    ],
)
def test_impossible_recipes_are_refused_before_any_work(tmp_path: Path, assignment: str, complaint: str) -> None:
    library = Library(tmp_path / "library")
    with pytest.raises(UserError, match=complaint):
        run_recipe(read_recipe(SMALL, [assignment]), library, Log())
    assert list(library.artifacts()) == []


def test_an_input_may_come_from_the_library(made: dict[str, Artifact], library: Library, tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(f"name: more\nstages:\n  tokenizer: {{corpus: '{made['curate'].reference}', vocabulary: 300}}\n")
    tokenizer = run_recipe(read_recipe(path), library, Log())["tokenizer"]
    assert library.parents(tokenizer)["corpus"] == made["curate"]


def test_every_verb_can_be_a_stage_and_has_its_inputs() -> None:
    schema = Recipe.model_json_schema()
    tags = schema["properties"]["stages"]["additionalProperties"]["discriminator"]["mapping"]
    assert set(tags) == set(VERBS)
    for name, verb in VERBS.items():
        fields = schema["$defs"][tags[name].rsplit("/", 1)[-1]]["properties"]
        assert set(verb.takes) <= set(fields)
        assert all("description" in field for key, field in fields.items() if key != "verb")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem


def test_the_quickstart_model_has_the_promised_size() -> None:
    from underlay.models.storage import parameter_count

    recipe = read_recipe(RECIPES / "quickstart.yaml")
    stage = recipe.stages["pretrain"]
    assert isinstance(stage, PretrainStage)
    vocabulary = recipe.stages["tokenizer"].vocabulary  # type: ignore[union-attr]
    model = stage.model.model_copy(update={"vocabulary": vocabulary, "context": stage.train.context}).build()
    assert 5e6 <= parameter_count(model) <= 10e6


def pretraining(**dials: int | str) -> PretrainStage:
    stage = read_recipe(SMALL, **dials).stages["pretrain"]  # type: ignore[arg-type]
    assert isinstance(stage, PretrainStage)
    return stage


def test_one_dial_sets_all_sizes() -> None:
    deep = pretraining(depth=5).model
    assert (deep.depth, deep.width, deep.heads, deep.hidden) == (5, 320, 5, 832)
    stage = pretraining(params="1.5M")
    assert stage.parameters() == 1_500_000
    assert not stage.model.model_fields_set & {"width", "depth", "heads"}
    for params, number in (("7", 7), ("3k", 3000), ("2G", 2_000_000_000)):
        assert pretraining(params=params).parameters() == number


@pytest.mark.parametrize(
    ("assignments", "dials", "problem"),
    [
        ([], {"depth": 2, "params": "1M"}, "give one of them"),
        (["pretrain.model.width=64"], {"params": "1M"}, "either params or model.width"),
        ([], {"params": "many"}, "pattern"),
        (["pretrain.model.family=lama"], {}, "family"),
        (["pretrain.model.task={kind: text, labels: [a]}"], {}, "without a head"),
    ],
)
def test_dials_that_contradict_are_named(assignments: list[str], dials: dict[str, int | str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read_recipe(SMALL, assignments, **dials)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [["pretrain.model={family: gpt2, depth: 1, width: 32}"], ["pretrain.isolate=true"]])
def test_other_families_and_isolation_are_pretrained(library: Library, changes: list[str]) -> None:
    made = run_recipe(read_recipe(SMALL, [*QUICK, *changes]), library, Log(), until="pretrain")
    metrics = made["pretrain"].manifest.metrics
    assert metrics["steps"] > 0
    assert math.isfinite(metrics["loss"])


def test_a_size_in_parameters_is_met(library: Library) -> None:
    recipe = read_recipe(SMALL, QUICK, params="200k")
    made = run_recipe(recipe, library, Log(), until="pretrain")
    assert 180_000 < made["pretrain"].manifest.metrics["parameters"] < 220_000
