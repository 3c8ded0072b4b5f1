"""A model of another length from a recipe: what comes out, what it cost, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_recipe import Log

from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.steps import read_in
from underlay.train import watch

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
QUICK = ("pretrain.train.steps=8", "pretrain.train.precision=float32")
LONG = ("pretrain.train.steps=14", "pretrain.extend=model:small-base")


@pytest.fixture(scope="module", autouse=True)
def _machine() -> Iterator[None]:
    """How fast it is need not be measured for each of many runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "products", lambda dtype: 1e11)
        yield


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def short(library: Library) -> Artifact:
    return made(library, *QUICK)


def made(library: Library, *assignments: str, until: str = "pretrain", log: Log | None = None) -> Artifact:
    return run_recipe(read_recipe(SMALL, assignments), library, log or Log(), until=until)[until]


def files(artifact: Artifact) -> dict[str, str]:
    return {file.path: file.sha256 for file in artifact.manifest.files}


def test_an_extended_model_is_the_one_made_at_once(library: Library, short: Artifact) -> None:
    log = Log()
    longer = made(library, *QUICK, *LONG, log=log)
    whole = made(library, *QUICK, "pretrain.train.steps=14", "pretrain.name=whole")
    assert files(longer) == files(whole)
    assert {"resume/state.json", "resume/state.safetensors"} < set(files(whole))
    assert f"goes on from {short.reference}, where it stood after 4 steps" in log.lines
    assert library.parents(longer)["extend"] == short
    assert read_in(library, longer, 2) == read_in(library, whole, 2)
    assert read_in(library, longer, 14) == read_in(library, whole, 14)
    assert all(problems == [] for _, problems in library.verify())
    assert made(library, *QUICK) == short  # is still there, and is meant by the name again


def test_what_it_inherited_is_no_cost_of_its_own(library: Library, short: Artifact) -> None:
    made(library, *QUICK)
    longer, whole = made(library, *QUICK, *LONG).manifest, made(library, *QUICK, "pretrain.train.steps=14").manifest
    inherited, stable = longer.metrics["inherited"], short.manifest.metrics["stable"]
    assert {key: inherited[key] for key in stable} == stable
    assert (inherited["step"], inherited["tokens"]) == (4, 4 * 4 * 192)
    assert (longer.metrics["steps"], longer.cost.tokens) == (14, 10 * 4 * 192)
    assert inherited["tokens"] + longer.cost.tokens == whole.cost.tokens
    assert inherited["flops"] + longer.cost.flops == pytest.approx(whole.cost.flops)
    assert inherited["flops"] > 0
    assert whole.metrics["inherited"] is None
    # The time of the other run is in its own manifest.
    assert longer.metrics["stable"]["seconds"] > inherited["seconds"] > 0


def test_the_same_again_is_reused(library: Library, short: Artifact) -> None:
    made(library, *QUICK)
    log = Log()
    longer = made(library, *QUICK, *LONG)
    assert library.find("model:small-base") == longer
    assert made(library, *QUICK, *LONG, log=log) == longer
    assert log.reused["pretrain"]
    longest = made(library, *QUICK, *LONG, "pretrain.train.steps=20")
    assert library.parents(longest)["extend"] == longer
    made(library, *QUICK)


def test_an_extension_of_an_extension(library: Library, short: Artifact) -> None:
    made(library, *QUICK)
    middle = made(library, *QUICK, *LONG)
    last = made(library, *QUICK, *LONG, "pretrain.train.steps=18", f"pretrain.extend={middle.reference}")
    whole = made(library, *QUICK, "pretrain.train.steps=18", "pretrain.name=whole")
    assert files(last) == files(whole)
    assert last.manifest.metrics["inherited"]["step"] == 7
    made(library, *QUICK)


def test_stages_of_one_recipe_may_extend_each_other(library: Library, short: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "lengths.yaml"
    train = "context: 192, batch_rows: 4, micro_rows: 4, compile: false"
    common = f"verb: pretrain, dataset: '{library.parents(short)['dataset'].reference}', model: {{width: 32, depth: 1}}"
    path.write_text(
        f"name: lengths\nstages:\n  one: {{{common}, name: one, train: {{steps: 4, {train}}}}}\n"
        f"  two: {{{common}, name: two, extend: one, train: {{steps: 8, {train}}}}}\n"
        f"  three: {{{common}, name: three, train: {{steps: 8, {train}}}}}\n"
    )
    stages = run_recipe(read_recipe(path), library, Log())
    assert files(stages["two"]) == files(stages["three"])
    assert library.parents(stages["two"])["extend"] == stages["one"]


def test_what_was_adapted_is_extended_too(library: Library) -> None:
    quick = (*QUICK, "adapt.train.steps=4", "adapt.name=tuned")
    tuned = made(library, *quick, until="adapt")
    longer = made(library, *quick, "adapt.train.steps=6", f"adapt.extend={tuned.reference}", until="adapt")
    whole = made(library, *quick, "adapt.train.steps=6", until="adapt")
    assert files(longer) == files(whole)
    assert read_in(library, longer, 1) == read_in(library, tuned, 1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["seed=1"], "seed 0, not 1"),
        (["pretrain.train.batch_rows=8"], "train.batch_rows 4, not 8"),
        (["pretrain.train.optimizer.lr=0.01"], "train.optimizer.lr 0.02, not 0.01"),
        (["pretrain.train.schedule.warmup_steps=3"], "train.schedule.warmup_steps 10, not 3"),
        (["pretrain.train.schedule.kind=cosine"], 'train.schedule.kind "wsd", not "cosine"'),
        (["pretrain.train.context=96"], "train.context 192, not 96"),
        (["pretrain.train.average=0.9"], "train.average null, not 0.9"),
        (["pretrain.model.hidden=96"], "model.hidden 64, not 96"),
        (["pretrain.model={family: gpt2, depth: 2}"], "model."),
        (["pretrain.embedding=random"], 'embedding "spectral", not "random"'),
        (["pack.heldout=0.2"], "dataset "),
        (["pretrain.train.steps=7"], "stands at step 4; in a run of 7 steps the rate falls from step 3 on: ask for "),
        (["pretrain.train.schedule.decay=1"], "with train.schedule.decay 1 the rate falls from the beginning"),
        (["pretrain.train.minutes=0.00001"], "ask for more train.minutes, all in all"),
        (
            ["pretrain.train.short_rows=[[0.5, 4]]"],
            "up to step 4; the same in a run of 14 steps is train.short_rows=[]",
        ),
        (
            ["pretrain.train.short_rows=[[0.5, 4]]", "pretrain.train.minutes=1"],
            "so its length is needed: set train.steps",
        ),
        (["pretrain.extend=pack"], "its extend is pack, which makes a dataset; it needs a model"),
        (["pretrain.extend=model:nothere"], "no such artifact"),
    ],
)
def test_what_would_not_be_the_same_is_refused(
    library: Library, short: Artifact, changes: list[str], complaint: str
) -> None:
    extend = [f"pretrain.extend={short.reference}"] * (not any("extend" in change for change in changes))
    count = len(list(library.artifacts("model")))
    with pytest.raises(UserError) as caught:
        made(library, *QUICK, "pretrain.train.steps=14", *extend, *changes)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(list(library.artifacts("model"))) == count


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["pretrain.train.schedule={kind: cosine}"], "its rate fell from the warmup on (train.schedule.kind cosine)"),
        (["pretrain.train.schedule={decay: 1.0}"], "its rate was never stable (train.schedule.decay 1)"),
        (["pretrain.train.keep_stable=false"], "it was trained with train.keep_stable false"),
    ],
)
def test_what_keeps_no_such_moment_cannot_be_extended(library: Library, changes: list[str], complaint: str) -> None:
    parent = made(library, *QUICK, *changes, "pretrain.name=other", "pretrain.train.steps=3")
    with pytest.raises(UserError) as caught:
        made(library, *QUICK, *changes, f"pretrain.extend={parent.reference}")
    assert f"{parent.reference} cannot be extended: {complaint}" in str(caught.value)


def test_what_adapted_cannot_be_pretrained_on(library: Library) -> None:
    tuned = made(library, *QUICK, "adapt.train.steps=2", until="adapt")
    with pytest.raises(UserError, match=r"was made by adapt; name a model that was made by pretrain"):
        made(library, *QUICK, f"pretrain.extend={tuned.reference}")


def test_what_may_differ(library: Library, short: Artifact) -> None:
    changes = ("train.steps=9", "train.micro_rows=2", "train.schedule.final=0.1", "train.schedule.decay=0.25")
    others = ("train.checkpoint_seconds=9", "train.keep_stable=false")
    assignments = [f"pretrain.{change}" for change in (*changes, *others)]
    model = made(library, *QUICK, *assignments, f"pretrain.extend={short.reference}")
    assert model.manifest.metrics["steps"] == 9
    assert model.manifest.metrics["stable"] is None


def test_the_same_short_rows_in_other_shares(library: Library) -> None:
    rows = (*QUICK, "pretrain.name=rows", "pretrain.train.short_rows=[[0.25, 4], [0.75, 2]]")
    parent = made(library, *rows)
    extend = f"pretrain.extend={parent.reference}"
    with pytest.raises(UserError, match="up to step 4; the same in a run of 14 steps is ") as caught:
        made(library, *rows, "pretrain.train.steps=14", extend)
    _, _, hint = str(caught.value).rpartition(" steps is ")
    longer = made(library, *rows, "pretrain.train.steps=14", extend, f"pretrain.{hint}")
    whole = made(library, *rows, "pretrain.train.steps=14", f"pretrain.{hint}")
    assert files(longer) == files(whole)


def test_a_damaged_moment_is_not_gone_on_from(tmp_path: Path) -> None:
    library = Library(tmp_path)
    parent = made(library, *QUICK)
    path = parent.folder / "resume" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"is damaged: resume/state.safetensors: its bytes have changed"):
        made(library, *QUICK, *LONG)
