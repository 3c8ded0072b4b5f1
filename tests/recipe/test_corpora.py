"""Several corpora in one model: inputs by name, the order of their rows, and what is known of it afterwards."""

import json
from collections import Counter
from pathlib import Path

import pytest
from test_recipe import Log
from typer.testing import CliRunner

from underlay.cli import app
from underlay.data import Dataset
from underlay.errors import UserError
from underlay.library import Artifact, Draft, Library
from underlay.progress import silent
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.job import Job
from underlay.recipe.stages import PackStage
from underlay.recipe.steps import read_in
from underlay.recipe.verbs import VERBS
from underlay.train.world import alone

RECIPE = Path(__file__).parents[2] / "recipes" / "mixture.yaml"
TRAIN = "{steps: 12, context: 64, batch_rows: 8, micro_rows: 4, compile: false, precision: float32}"


def settings(prose: Path) -> list[str]:
    """The recipe on a small scale; 20 of its rows are prose alone, then a quarter of them."""
    return [
        "gather-code.exclude=['[!c]*', 'c[!o]*', 'concurrent/*']",
        f"gather-prose.source=['{prose}']",
        "tokenizer.vocabulary=400",
        "prose.near_duplicates=false",  # days differ by numbers alone
        f"pretrain.train={TRAIN}",
        "pretrain.mixture=[{tokens: 1280, weights: {prose: 1}}, {weights: {prose: 1, code: 3}}]",
    ]


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prose")
    (folder / "LICENSE").write_text("Creative Commons Attribution 4.0 International")
    for number in range(30):
        lines = [f"On day {number} of the journey, at {hour} o'clock, it rained." for hour in range(3 + number % 9)]
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def said() -> Log:
    return Log()


@pytest.fixture(scope="module")
def made(library: Library, prose: Path, said: Log) -> dict[str, Artifact]:
    return run_recipe(read_recipe(RECIPE, settings(prose)), library, said)


def test_inputs_by_name_are_parents(made: dict[str, Artifact], library: Library) -> None:
    for stage in ("tokenizer", "pack"):
        parents = library.parents(made[stage])
        assert parents["corpora.code"] == made["code"]
        assert parents["corpora.prose"] == made["prose"]
    assert made["gather-prose"] in library.ancestors(made["pretrain"])
    assert made["pretrain"] in library.descendants(made["gather-code"])


def test_licences_of_all_corpora_reach_the_model(made: dict[str, Artifact]) -> None:
    both = made["code"].manifest.licences | made["prose"].manifest.licences
    assert set(both) >= {"PSF-2.0", "CC-BY-4.0"}
    for stage in ("pack", "pretrain", "trace"):
        assert made[stage].manifest.licences == both


def test_the_order_of_names_is_no_setting(made: dict[str, Artifact], library: Library, prose: Path) -> None:
    changed = [*settings(prose), "pack.corpora={prose: prose, code: code}"]
    log = Log()
    assert run_recipe(read_recipe(RECIPE, changed), library, log, until="pack")["pack"] == made["pack"]
    assert log.reused["pack"]


def test_corpora_come_by_name(made: dict[str, Artifact], library: Library, tmp_path: Path) -> None:
    def corpora(**inputs: Artifact) -> list[str]:
        named = {role.replace("_", "."): one for role, one in inputs.items()}
        job = Job("", None, {}, named, 0, Draft(tmp_path, tmp_path), library, silent, print, alone())
        return list(job.corpora())

    assert corpora(corpora_prose=made["prose"], corpora_code=made["code"], tokenizer=made["tokenizer"]) == [
        "code",
        "prose",
    ]
    assert corpora(corpus=made["prose"], tokenizer=made["tokenizer"]) == [""]


def test_each_step_names_its_documents_and_their_parts(made: dict[str, Artifact], library: Library) -> None:
    dataset = Dataset(made["pack"].folder)
    total: Counter[str | None] = Counter()
    for step in range(1, 13):
        read = read_in(library, made["pretrain"], step).documents
        parts = {id_: name for name, one in dataset.parts.items() for id_ in dataset.ids[dataset.inside(one)]}
        assert all(document.part == parts[document.document] for document in read)
        if step <= 2:
            assert {document.part for document in read} == {"prose"}
        for document in read:
            total[document.part] += document.tokens
    metrics = made["pretrain"].manifest.metrics["parts"]
    # 20 rows of prose, and of the 76 after them about a quarter; positions that hold nothing are counted as read.
    assert (
        metrics["prose"]["tokens"] + metrics["code"]["tokens"] == made["pretrain"].manifest.cost.tokens == 12 * 8 * 64
    )
    assert 36 * 64 <= metrics["prose"]["tokens"] <= 42 * 64
    for name, tokens in dataset.parts.items():
        assert 0.9 * metrics[name]["tokens"] < total[name] <= metrics[name]["tokens"]
        assert metrics[name]["passes"] == pytest.approx(metrics[name]["tokens"] / len(tokens), rel=0.1)


def test_the_table_of_a_step_shows_parts(made: dict[str, Artifact], library: Library) -> None:
    asked = ["trace", "batch", made["pretrain"].reference, "--step", "12", "--library", str(library.root)]
    shown = CliRunner().invoke(app, asked).output.splitlines()
    assert shown[1].split() == ["read", "document", "licence", "part"]
    assert {line.split()[-1] for line in shown[2:]} == {"code", "prose"}


def test_a_run_tells_how_well_it_is_packed(made: dict[str, Artifact], said: Log) -> None:
    padding = made["pretrain"].manifest.metrics["padding"]
    assert 0 <= padding < 0.1
    assert any(line.startswith(f"best fit: {padding:.2%} of positions are padding") for line in said.lines)


def test_a_longer_run_reads_the_same_at_first(made: dict[str, Artifact], library: Library, prose: Path) -> None:
    longer = [*settings(prose), "pretrain.train.steps=15"]
    model = run_recipe(read_recipe(RECIPE, longer), library, Log(), until="pretrain")["pretrain"]
    for step in (1, 3, 12):
        assert read_in(library, model, step).documents == read_in(library, made["pretrain"], step).documents


def more(folder: Path, stages: str) -> Path:
    path = folder / "more.yaml"
    path.write_text(f"name: more\nstages:\n{stages}")
    return path


def evaluation(made: dict[str, Artifact], corpus: str) -> str:
    model = made["pretrain"].reference
    given = f"base: '{model}', models: {{adapted: '{model}'}}, corpus: '{made[corpus].reference}', functions: 0, "
    given += "max_tokens: 8"
    return f"  evaluate: {{{given}}}\n"


def test_each_corpus_is_evaluated_on_what_was_held_out_of_it(
    made: dict[str, Artifact], library: Library, tmp_path: Path
) -> None:
    heldout = Dataset(made["pack"].folder, "heldout")
    for name in ("code", "prose"):
        recipe = read_recipe(more(tmp_path, evaluation(made, name)))
        report = run_recipe(recipe, library, Log())["evaluate"]
        files = json.loads((report.folder / "evaluation.json").read_text())["files"]
        numbers = range(len(heldout.ids))[heldout.inside(heldout.parts[name])]
        assert {file["source"] for file in files} == {heldout.document(number).source for number in numbers}
    with pytest.raises(UserError, match="is not the corpus"):
        run_recipe(read_recipe(more(tmp_path, evaluation(made, "gather-code"))), library, Log())


def test_a_model_of_several_corpora_is_adapted(made: dict[str, Artifact], library: Library, tmp_path: Path) -> None:
    model, corpus = made["pretrain"].reference, made["code"].reference
    train = "{steps: 2, context: 64, batch_rows: 2, micro_rows: 2, compile: false}"
    stage = f"  examples: {{corpus: '{corpus}', pairs: passages}}\n"
    stage += f"  adapt: {{model: '{model}', examples: examples, train: {train}}}\n"
    path = more(tmp_path, stage.replace("context: 64", "context: 512"))
    with pytest.raises(UserError, match="longer than the model's 64"):
        run_recipe(read_recipe(path), library, Log())


def test_a_report_shows_one_corpus(made: dict[str, Artifact], library: Library, tmp_path: Path) -> None:
    recipe = read_recipe(more(tmp_path, evaluation(made, "code")))
    measured = run_recipe(recipe, library, Log())["evaluate"]
    inputs = {"raw": "gather-code", "corpus": "code", "base": "pretrain", "index": "trace"}
    given = "".join(f"{role}: '{made[stage].reference}', " for role, stage in inputs.items())
    stage = f"  report: {{{given}evaluation: '{measured.reference}'}}\n"
    with pytest.raises(UserError, match=r"a report shows one corpus, but dataset:mixture@.* from code, prose"):
        run_recipe(read_recipe(more(tmp_path, stage)), library, Log())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("pack.corpus=code", "set either corpus or corpora"),
        ("pack.corpora={}", "set either corpus or corpora"),
        ("pack.corpora.co de=code", "pattern"),
        ("pretrain.mixture=[{weights: {code: 1}}, {weights: {prose: 1}}]", "stage 1 of 2 needs its length in tokens"),
        ("pretrain.mixture=[{tokens: 5, weights: {code: 1}}]", "stage 1 of 1 lasts to the end, so it has no tokens"),
        ("pretrain.mixture=[{weights: {code: 0}}]", "at least one part more than 0"),
        ("pretrain.packing=best", "packing"),
        (
            "stages.pretrain={dataset: pack, packing: best_fit, model: {family: bert}, train: {steps: 2}}",
            "for encoders",
        ),
    ],
)
def test_impossible_settings_are_refused_when_read(change: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        read_recipe(RECIPE, [change])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("pack.corpora.prose=pack", "its corpora.prose is pack, which comes later"),
        ("pack.corpora.prose=tokenizer", "its corpora.prose is tokenizer, which makes a tokenizer; it needs a corpus"),
        ("pack.corpora.prose=corpus:nothere", "no such artifact"),
        ("pretrain.mixture=[{weights: {code: 1, poems: 1}}]", "no part 'poems' in the dataset; there are code, prose"),
        ("pretrain.mixture=[{weights: {code: 1}}]", "part 'prose' has no weight in any stage"),
    ],
)
def test_impossible_recipes_are_refused_before_any_work(tmp_path: Path, change: str, complaint: str) -> None:
    library = Library(tmp_path / "library")
    with pytest.raises(UserError, match=complaint):
        run_recipe(read_recipe(RECIPE, [change]), library, Log())
    assert list(library.artifacts()) == []


def test_a_stage_asks_for_one_input_or_several() -> None:
    recipe = read_recipe(RECIPE)
    assert VERBS["pack"].inputs(recipe.stages["pack"]) == {
        "corpora.code": ("code", "corpus"),
        "corpora.prose": ("prose", "corpus"),
        "tokenizer": ("tokenizer", "tokenizer"),
    }
    one = PackStage(corpus="a", tokenizer="b")
    assert VERBS["pack"].inputs(one) == {"corpus": ("a", "corpus"), "tokenizer": ("b", "tokenizer")}


def test_a_part_smaller_than_a_row_is_named(library: Library, prose: Path) -> None:
    small = [*settings(prose), "pretrain.packing=windows", "gather-prose.exclude=['[!2]*', '2[1-9].*']"]
    with pytest.raises(UserError, match="part 'prose' of the dataset has not even one row of 1,024 tokens"):
        run_recipe(read_recipe(RECIPE, [*small, "pretrain.train.context=1024"]), library, Log(), until="pretrain")
