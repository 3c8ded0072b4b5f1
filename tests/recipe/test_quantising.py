"""A quantised model: what its manifest says of what was lost, and what can be done with it afterwards."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_steps import Silent
from typer.testing import CliRunner, Result

from underlay.cli import app
from underlay.data import Dataset, Rows
from underlay.errors import UserError
from underlay.formats.transfer import export_model, import_model
from underlay.library import Artifact, Exclusion, Library
from underlay.library.exclusions import EXCLUSIONS
from underlay.models.quantised_storage import read_notes
from underlay.models.storage import load_decoder, load_quantised
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.recipe import make_recipe
from underlay.train import CausalLM

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, dict[str, Artifact]]:
    library = Library(tmp_path_factory.mktemp("library"))
    return library, run_recipe(read_recipe(SMALL), library, Silent(), until="pretrain")


def underlay(library: Library, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"UNDERLAY_LIBRARY": str(library.root), "COLUMNS": "200"})


def quantised(library: Library, **settings: object) -> Artifact:
    values = {"name": "q", "stages": {"quantise": {"model": "model:small-base", "rows": 8} | settings}}
    return run_recipe(make_recipe(values, "test"), library, Silent())["quantise"]


@pytest.mark.parametrize("bits", [8, 4])
def test_the_manifest_says_what_was_lost(world: tuple[Library, dict[str, Artifact]], bits: int) -> None:
    library, made = world
    asked = ("model:small-base", "--bits", str(bits), "--set", "quantise.rows=8")
    result = underlay(library, "quantise", *asked, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    artifact = library.find(f"model:small-base-int{bits}")
    metrics = artifact.manifest.metrics
    assert said == {"model": artifact.reference, **{key: metrics[key] for key in said if key != "model"}}
    assert {parent.role: parent.hash for parent in artifact.manifest.parents} == {
        "model": made["pretrain"].manifest.hash,
        "dataset": made["pack"].manifest.hash,
    }
    # By an oracle of its own: the losses of both on all held-out rows, read from disk.
    rows = Rows(Dataset(made["pack"].folder, "heldout"), 192, 0)
    batch = rows.batch(0, min(128, rows.count))
    nats, logits = [], []
    for folder in (made["pretrain"].folder, artifact.folder):
        with torch.no_grad():
            loss = CausalLM(torch.float32)(load_decoder(folder), batch)
            logits.append(load_decoder(folder)(batch.tokens).flatten(0, 1))
        nats.append(float(loss.sum / loss.count))
    apart = F.kl_div(logits[1].log_softmax(-1), logits[0].softmax(-1), reduction="batchmean")
    assert metrics["divergence"] == pytest.approx(float(apart), rel=0.01)
    assert metrics["before"]["nats_per_token"] == pytest.approx(nats[0], rel=1e-5)
    assert metrics["after"]["nats_per_token"] == pytest.approx(nats[1], rel=1e-5)
    assert metrics["perplexity_lost"] == pytest.approx(math.exp(nats[1] - nats[0]) - 1, abs=1e-4)
    assert 0 < abs(metrics["perplexity_lost"]) < 0.02
    assert metrics["after"]["bytes"] < metrics["before"]["bytes"]
    assert metrics["before"]["bits_per_byte"] > 0
    notes = read_notes(artifact.folder)
    assert notes is not None
    assert (notes.bits, notes.method, notes.calibrated_on) == (bits, "gptq", made["pack"].reference)
    assert notes.perplexity_after == metrics["after"]["perplexity"]
    matrices = load_quantised(artifact.folder)
    assert matrices is not None
    assert {one.bits for one in matrices.values()} == {bits}


def test_people_see_a_table(world: tuple[Library, dict[str, Artifact]]) -> None:
    library, _ = world
    result = underlay(library, "quantise", "model:small-base", "--method", "nearest", "--name", "near")
    assert result.exit_code == 0, result.output
    for word in ("weights", "nats per token", "bits per byte", "perplexity", "Perplexity changed by"):
        assert word in result.output
    assert read_notes(library.find("model:near").folder).calibrated_on is None  # type: ignore[union-attr]


def test_it_generates_and_is_exported(world: tuple[Library, dict[str, Artifact]], tmp_path: Path) -> None:
    library, _ = world
    artifact = quantised(library, bits=4, name="goes-on")
    result = underlay(library, "generate", "model:goes-on", "import ", "--max-tokens", "3")
    assert result.exit_code == 0, result.output
    written = export_model(artifact, tmp_path / "hf", "hf")
    back = import_model(library, written.path, "back").artifact
    ours, theirs = load_decoder(artifact.folder).state_dict(), load_decoder(back.folder).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert export_model(artifact, tmp_path / "x.gguf", "gguf", "Q8_0").size > 0


def test_a_model_from_elsewhere_needs_a_corpus(world: tuple[Library, dict[str, Artifact]], tmp_path: Path) -> None:
    library, made = world
    export_model(made["pretrain"], tmp_path / "hf", "hf")
    import_model(library, tmp_path / "hf", "foreign")
    result = underlay(library, "quantise", "model:foreign")
    assert result.exit_code == 2
    assert "name a corpus or a dataset" in result.output
    with pytest.raises(UserError, match="name a corpus or a dataset"):
        quantised(library, model="model:foreign")
    artifact = quantised(library, model="model:foreign", corpus="corpus:small", name="of-corpus")
    assert abs(artifact.manifest.metrics["perplexity_lost"]) < 0.02
    assert {parent.role for parent in artifact.manifest.parents} == {"model", "corpus"}


def test_another_tokenizers_dataset_is_refused(world: tuple[Library, dict[str, Artifact]]) -> None:
    library, _ = world
    stages = {
        "tokenizer": {"corpus": "corpus:small", "vocabulary": 400, "name": "other"},
        "pack": {"corpus": "corpus:small", "tokenizer": "tokenizer", "name": "other"},
    }
    run_recipe(make_recipe({"name": "other", "stages": stages}, "test"), library, Silent())
    with pytest.raises(UserError, match="another tokenizer"):
        quantised(library, dataset="dataset:other")


def test_what_cannot_be_asked(world: tuple[Library, dict[str, Artifact]]) -> None:
    library, _ = world
    quantised(library, name="once")
    with pytest.raises(UserError, match="quantised already"):
        quantised(library, model="model:once", name="twice")
    with pytest.raises(UserError, match="set either dataset or corpus"):
        quantised(library, dataset="dataset:small", corpus="corpus:small")
    assert underlay(library, "quantise", "model:small-base", "--bits", "3").exit_code == 2


def test_excluded_documents_are_not_calibrated_on(world: tuple[Library, dict[str, Artifact]]) -> None:
    library, made = world
    id_ = Dataset(made["pack"].folder).ids[0]
    library.exclude([Exclusion(id=id_, forms=(id_,), reason="", date="2026-01-01")])
    try:
        with pytest.raises(UserError, match="excluded document"):
            quantised(library, name="never")
    finally:
        (library.root / EXCLUSIONS).unlink()
