"""Pretraining from the weights of a model: where it starts, what it reads again, what it forgets, what is refused."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_recipe import Log
from typer.testing import CliRunner

from underlay.cli import app
from underlay.data import Dataset
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.models.storage import load_decoder, load_model
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.recipe import make_recipe
from underlay.recipe.stages import PretrainStage
from underlay.recipe.steps import read_in
from underlay.recipe.story import tell
from underlay.recipe.transferring import data_recipe, replay_of, transfer_recipe
from underlay.train import watch

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
QUICK = ("pretrain.train.steps=60", "pretrain.train.precision=float32", "tokenizer.mask=true")
FLOAT = ("pretrain.train.precision=float32", "pretrain.train.compile=false")
STEPS = 48
"""Of 4 rows: three whole blocks of the mixture."""


@pytest.fixture(scope="module", autouse=True)
def _machine() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "products", lambda dtype: 1e11)
        yield


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prose")
    (folder / "LICENSE").write_text("Creative Commons Attribution 4.0 International")
    for day in range(60):
        hours = [f"On day {day} of the journey, at {hour} o'clock, it rained upon the hills." for hour in range(14)]
        (folder / f"{day}.txt").write_text("\n".join(hours))
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def base(library: Library) -> Artifact:
    return run_recipe(read_recipe(SMALL, QUICK), library, Log(), until="pretrain")["pretrain"]


def moved(
    library: Library, base: Artifact, prose: Path, share: float | None, *changes: str, log: Log | None = None
) -> Artifact:
    name = f"moved-{share}"
    again = replay_of(library, base, share)
    packed = run_recipe(raw(library, base, prose, again, name), library, Log())["pack"]
    recipe = transfer_recipe(library, base, packed, again.share, name, 1, STEPS, [*FLOAT, *changes])
    return run_recipe(recipe, library, log or Log())["pretrain"]


def raw(library: Library, base: Artifact, prose: Path, again: Any, name: str) -> Any:
    """The recipe of the data, in which days that differ by numbers alone are no copies."""
    recipe = data_recipe(library, base, [str(prose)], again, name)
    stages = recipe.stages | {"domain": recipe.stages["domain"].model_copy(update={"near_duplicates": False})}
    return recipe.model_copy(update={"stages": stages})


def evaluations(made: Artifact) -> list[dict[str, float]]:
    return [json.loads(line) for line in (made.folder / "evaluations.jsonl").read_text().splitlines()]


def test_it_starts_as_the_model_that_it_starts_from(library: Library, base: Artifact) -> None:
    """On the model's own data, what is measured before the first step is what the model was measured by at its end."""
    dataset = library.parents(base)["dataset"]
    assert dataset is not None
    examined = run_recipe(
        read_recipe(SMALL, (*QUICK, "pretrain.name=examined", "pretrain.train.examine_steps=60")), library, Log(),
        until="pretrain",
    )["pretrain"]  # fmt: skip
    train = {**base.manifest.config["train"], "steps": 2, "passes": None, "minutes": None}
    stage = {"verb": "pretrain", "dataset": dataset.reference, "start": examined.reference, "train": train}
    log = Log()
    made = run_recipe(make_recipe({"name": "same", "stages": {"pretrain": stage}}, "test"), library, log)["pretrain"]
    first, last = evaluations(made)
    assert (first["step"], last["step"]) == (0, 2)
    assert first["heldout_loss"] == evaluations(examined)[-1]["heldout_loss"]
    assert first["heldout_loss"] != last["heldout_loss"]
    assert made.manifest.metrics["transfer"]["before"] == {"new": first["heldout_bits_per_byte"]}
    assert not any("by chance it would be" in line for line in log.lines)


def test_parts_are_read_in_their_shares_and_come_from_where_they_did(
    library: Library, base: Artifact, prose: Path
) -> None:
    made = moved(library, base, prose, 0.25)
    parts = made.manifest.metrics["parts"]
    tokens = {name: part["tokens"] for name, part in parts.items()}
    assert tokens == {"domain": 192 * 192 * 3 // 4, "replay": 192 * 192 // 4}
    assert set(made.manifest.metrics["transfer"]["after"]) == set(tokens)  # and nothing is measured twice
    # What was held out from the model is held out again.
    old, new = library.parents(base)["dataset"], library.parents(made)["dataset"]
    assert old is not None
    assert new is not None
    heldout = Dataset(new.folder, "heldout")
    assert set(heldout.ids[heldout.inside(heldout.parts["replay"])]) == set(Dataset(old.folder, "heldout").ids)
    assert library.parents(made)["start"] == base
    # By default all new text is read once: what is read again makes the run longer.
    recipe = transfer_recipe(library, base, new, 0.25, "once").stages["pretrain"]
    assert isinstance(recipe, PretrainStage)
    assert recipe.train.steps == math.ceil(len(Dataset(new.folder).parts["domain"]) // 192 / (4 * 0.75))
    assert recipe.train.optimizer.model_dump(mode="json") == base.manifest.config["train"]["optimizer"]
    assert {read.part for step in (1, 2, 3, 4) for read in read_in(library, made, step).documents} == set(tokens)
    both = {*base.manifest.licences, *new.manifest.licences}
    assert set(made.manifest.licences) == both >= {"PSF-2.0", "CC-BY-4.0"}
    document = Dataset(new.folder).ids[0]
    assert any(one.model == made.reference for one in tell(library, document).models)


def test_replay_keeps_what_would_be_forgotten(library: Library, base: Artifact, prose: Path) -> None:
    log = Log()
    without = moved(library, base, prose, 0, log=log).manifest.metrics["transfer"]
    again = moved(library, base, prose, 0.25).manifest.metrics["transfer"]
    # The same text, measured as what the model was trained on, and as a part of the new dataset.
    assert without["before"]["base"] == pytest.approx(again["before"]["replay"], rel=1e-6)
    assert without["before"]["domain"] == pytest.approx(again["before"]["domain"], rel=1e-6)
    for found in (without, again):
        assert found["unit"] == "bits per byte"
        assert found["after"]["domain"] < 0.7 * found["before"]["domain"]
        assert found["forgotten"]["domain"] == 0
    assert without["forgotten"]["base"] == without["after"]["base"] - without["before"]["base"]
    assert without["forgotten"]["base"] > 0.15
    assert again["forgotten"]["replay"] < 0.5 * without["forgotten"]["base"]
    told = [line for line in log.lines if line.startswith("held out base: ")]
    assert len(told) == 1
    assert "forgotten" in told[0]


def test_all_that_was_read_before_is_replayed_by_its_size(library: Library, base: Artifact, prose: Path) -> None:
    """What was transferred once has read two kinds of text."""
    once = moved(library, base, prose, 0.25)
    again = replay_of(library, once, 0.4)
    assert set(again.corpora) == {"replay-domain", "replay-replay"}
    packed = run_recipe(raw(library, once, prose, again, "twice"), library, Log())["pack"]
    recipe = transfer_recipe(library, once, packed, again.share, "twice", 1, 1, FLOAT).stages["pretrain"]
    assert isinstance(recipe, PretrainStage)
    weights, tokens = recipe.mixture[0].weights, {k: len(v) for k, v in Dataset(packed.folder).parts.items()}
    assert weights["domain"] == pytest.approx(0.6, abs=1e-3)
    assert weights["replay-replay"] / weights["replay-domain"] == pytest.approx(
        tokens["replay-replay"] / tokens["replay-domain"], rel=1e-2
    )


class Stop(Log):
    """Interrupts a run at a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def moved(self, done: float, total: float | None, **facts: float | str) -> None:
        if total == STEPS and done >= self._at:
            raise InterruptedError


def test_stopped_and_resumed_equals_never_stopped(
    library: Library, base: Artifact, prose: Path, tmp_path: Path
) -> None:
    changes = ("pretrain.train.checkpoint_seconds=0.000001", "pretrain.train.examine_steps=15")
    whole = moved(library, base, prose, 0.5, *changes)
    other = Library(tmp_path / "library")
    shutil.copytree(library.root, other.root)
    shutil.rmtree(other.find(whole.reference).folder)
    for at in (1, 20):
        with pytest.raises(InterruptedError):
            moved(other, base, prose, 0.5, *changes, log=Stop(at))
    again = moved(other, base, prose, 0.5, *changes)
    assert [row["step"] for row in evaluations(whole)] == [0, 15, 30, 45, 48]
    assert again.manifest.files == whole.manifest.files
    assert again.manifest.metrics["transfer"] == whole.manifest.metrics["transfer"]


def test_an_encoder_goes_on_too(library: Library, prose: Path) -> None:
    shape = "pretrain.model={family: bert, width: 32, depth: 1}"
    base = run_recipe(
        read_recipe(SMALL, (*QUICK, shape, "pretrain.name=masked", "pretrain.train.steps=20")), library, Log(),
        until="pretrain",
    )["pretrain"]  # fmt: skip
    made = moved(library, base, prose, None, "pretrain.name=masked-moved")
    found = made.manifest.metrics["transfer"]
    assert (found["unit"], set(found["before"])) == ("nats a target", {"domain", "replay"})
    assert found["after"]["domain"] < found["before"]["domain"]
    assert load_model(made.folder).config == load_model(base.folder).config
    assert made.manifest.metrics["parts"]["replay"]["tokens"] > 0


def test_a_longer_run_from_the_same_start_is_the_one_made_at_once(
    library: Library, base: Artifact, prose: Path
) -> None:
    short = moved(library, base, prose, 0.1)
    longer = ("pretrain.train.steps=60", "pretrain.train.schedule.warmup_steps=10")
    extended = moved(library, base, prose, 0.1, *longer, f"pretrain.extend={short.reference}", "pretrain.name=a")
    whole = moved(library, base, prose, 0.1, *longer, "pretrain.name=b")
    assert extended.manifest.files == whole.manifest.files
    assert extended.manifest.metrics["transfer"] == whole.manifest.metrics["transfer"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": {"depth": 2}}, "model: not with start, whose own it is"),
        ({"params": "1M"}, "params: not with start"),
        ({"embedding": "random"}, "embedding: not with start"),
        ({"train": {"steps": 1, "context": 999}}, "reads 192 tokens, pretrain.train.context is 999"),
        ({"start": "model:other"}, "has other tokens than dataset:small"),
        ({"start": "model:told"}, "model.task: a base model is pretrained without a head"),
        ({"start": "model:masked", "isolate": True}, "isolate: not for encoders, and bert is one"),
        ({"start": "model:nothing"}, "no such artifact"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    library: Library, base: Artifact, changes: dict[str, Any], complaint: str
) -> None:
    if changes.get("start") == "model:other":
        other = (*QUICK, "tokenizer.vocabulary=300", "tokenizer.name=o", "pack.name=o", "pretrain.name=other")
        run_recipe(read_recipe(SMALL, (*other, "pretrain.train.steps=1")), library, Log(), until="pretrain")
    if changes.get("start") == "model:masked":
        shape = ("pretrain.model={family: bert, width: 32, depth: 1}", "pretrain.name=masked")
        run_recipe(read_recipe(SMALL, (*QUICK, *shape, "pretrain.train.steps=20")), library, Log(), until="pretrain")
    if changes.get("start") == "model:told":
        path = library.root / "labels.jsonl"
        path.write_text("".join(json.dumps({"text": f"n {n}", "label": str(n % 2)}) + "\n" for n in range(20)))
        labels = {"verb": "examples", "source": [str(path)]}
        told = {"verb": "adapt", "model": base.reference, "examples": "labels", "train": {"steps": 1, "context": 64}}
        told["train"] |= {"batch_rows": 4, "micro_rows": 4, "compile": False}  # type: ignore[operator]
        run_recipe(make_recipe({"name": "told", "stages": {"labels": labels, "adapt": told}}, "test"), library, Log())
    dataset = library.parents(base)["dataset"]
    assert dataset is not None
    stage = {"dataset": dataset.reference, "start": base.reference, "train": {"steps": 1, "context": 64}, **changes}
    with pytest.raises(UserError, match=complaint) as caught:
        run_recipe(make_recipe({"name": "never", "stages": {"pretrain": stage}}, "test"), library, Log())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "model:small-base", "corpus": "corpus:small"}, "set one of corpus, corpora and model"),
        ({"model": "model:small-base", "vocabulary": 300}, "vocabulary: a model's tokenizer is taken as it is"),
        ({}, "set one of corpus, corpora and model"),
    ],
)
def test_a_tokenizer_is_learned_or_taken(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make_recipe({"name": "never", "stages": {"tokenizer": changes}}, "test")


def test_one_command(library: Library, base: Artifact, prose: Path, tmp_path: Path) -> None:
    def typed(*words: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*words, "--library", str(library.root)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    (tmp_path / "tales").mkdir()
    chance, words = random.Random(0), prose.joinpath("1.txt").read_text().split()
    for number in range(60):
        told = ".\nThe ".join(" ".join(chance.choices(words, k=12)) for _ in range(20))
        (tmp_path / "tales" / f"{number}.txt").write_text(f"The {told}.\n")
    fast = [word for change in FLOAT for word in ("--set", change)]
    code, out, err = typed("transfer", base.reference, "--data", str(tmp_path / "tales"), "--steps", "3", *fast)
    assert code == 0, err
    shown = out[out.index("held out, bits per byte") :].splitlines()
    assert shown[0].split()[-3:] == ["before", "after", "forgotten"]
    assert [line.split()[0] for line in shown[1:3]] == ["domain", "replay"]
    made = library.find("model:small-base-tales")
    assert made.manifest.metrics["parts"]["replay"]["tokens"] > 0
    assert load_decoder(made.folder)(torch.zeros(1, 4, dtype=torch.int64)).shape[-1] == 512
    # Of a model from elsewhere nothing is known: it learns without, or is told.
    code, _, err = typed("library", "export", base.reference, str(tmp_path / "out"), "--format", "hf")
    assert code == 0, err
    code, _, err = typed("library", "import", str(tmp_path / "out"), "--name", "foreign")
    assert code == 0, err
    corpus = ("--data", "corpus:small-base-tales", *fast, "--steps", "2", "--json")
    code, _, err = typed("transfer", "model:foreign", *corpus, "--replay", "0.2")
    assert code == 2
    assert "does not know what it was trained on; name some such text as --replay-data" in err
    code, out, err = typed("transfer", "model:foreign", *corpus)
    assert code == 0, err
    assert "nothing is replayed" in err
    assert set(json.loads(out)["before"]) == {"domain"}
    code, out, err = typed("transfer", "model:foreign", *corpus, "--replay-data", "corpus:small", "--name", "third")
    assert code == 0, err
    assert set(json.loads(out)["before"]) == {"domain", "replay"}
    code, _, err = typed("transfer", base.reference, *corpus, "--replay-data", "corpus:x")
    assert (code, "error: corpus:x: no such artifact" in err) == (2, True)
    code, _, err = typed("transfer", base.reference, *corpus, "--replay", "0", "--replay-data", "corpus:small")
    assert (code, "--replay-data has no meaning beside it" in err) == (2, True)
    code, _, err = typed("transfer", base.reference, *corpus, "--replay", "1.5")
    assert code == 2
    assert "a share of at least 0 and less than 1" in err
