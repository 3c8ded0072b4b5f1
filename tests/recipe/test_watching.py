"""A recipe that is watched: what it measures on held-out text is true, and what it trains stays the same."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_encoder import ENCODER
from test_steps import Silent

from underlay.adapt import instruct
from underlay.adapt.examples import Examples
from underlay.cli.display import headline
from underlay.data import Dataset, Masked, Rows
from underlay.errors import UserError
from underlay.generate import Engine, Request, Sampling
from underlay.library import Artifact, Library
from underlay.models import Batch
from underlay.models.storage import load_decoder, load_encoder
from underlay.recipe import adapting, read_recipe, run_recipe, training
from underlay.recipe.heldout import HeldOut
from underlay.recipe.steps import read_in
from underlay.text import Tokenizer
from underlay.train import CausalLM, Loss, TrainConfig

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
QUICK = ("pretrain.train.steps=6", "adapt.train.steps=4", "pretrain.train.precision=float32")
WATCHED = (
    *QUICK,
    "pretrain.train.examine_steps=4",
    "pretrain.train.examine_rows=7",
    'pretrain.samples=["def dumps(obj", ""]',
    "adapt.train.examine_steps=2",
    "adapt.train.examine_rows=4",
    "adapt.train.precision=float32",
)

World = tuple[Library, dict[str, Artifact], dict[str, Artifact]]


class Listening(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def said(self, line: str) -> None:
        self.lines.append(line)


def rows(artifact: Artifact, name: str) -> list[dict]:
    return [json.loads(line) for line in (artifact.folder / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small run that is watched, and the same without."""
    library = Library(tmp_path_factory.mktemp("library"))
    watched = run_recipe(read_recipe(SMALL, WATCHED), library, Silent(), until="adapt")
    plain = run_recipe(read_recipe(SMALL, (*QUICK, "adapt.train.precision=float32")), library, Silent(), until="adapt")
    return library, watched, plain


def test_the_models_are_the_same(world: World) -> None:
    _, watched, plain = world
    for stage in ("pretrain", "adapt"):
        one, other = (made[stage].folder / "model.safetensors" for made in (watched, plain))
        assert one != other
        assert one.read_bytes() == other.read_bytes()
        assert rows(watched[stage], "metrics.jsonl") == rows(plain[stage], "metrics.jsonl")
        files = {path.name for path in watched[stage].folder.iterdir()} - {"samples.jsonl"}
        assert files - {path.name for path in plain[stage].folder.iterdir()} == {"evaluations.jsonl"}
        assert "loss.png" in files


def test_the_held_out_loss_is_that_of_the_rows(world: World) -> None:
    _, watched, _ = world
    made = watched["pretrain"]
    model, tokenizer = load_decoder(made.folder), Tokenizer.load(made.folder)
    heldout = Dataset(watched["pack"].folder, "heldout")
    batch = Rows(heldout, 192, 0).batch(0, 7)
    with torch.no_grad():
        logits = model.logits(model.hidden(batch.tokens))
    nats = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum").item()
    text = b"".join(tokenizer.decode_bytes(row) for row in batch.targets.tolist())
    found = rows(made, "evaluations.jsonl")
    assert [(row["step"], row["tokens"]) for row in found] == [(4, 3072), (6, 4608)]
    assert found[-1]["heldout_loss"] == pytest.approx(nats / (7 * 192), rel=1e-5)
    assert found[-1]["heldout_bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)
    assert f", held out {found[-1]['heldout_loss']:.3f}, " in headline(made)
    for key in ("heldout_loss", "heldout_bits_per_byte"):
        assert made.manifest.metrics[key] == found[-1][key]
    ids = set(heldout.ids)
    assert ids.isdisjoint(Dataset(watched["pack"].folder).ids)


def test_samples_are_what_the_model_says(world: World) -> None:
    _, watched, _ = world
    made = watched["pretrain"]
    tokenizer = Tokenizer.load(made.folder)
    engine = Engine(load_decoder(made.folder), tokenizer, slots=2)
    said = rows(made, "samples.jsonl")
    prompts = ["def dumps(obj", ""]
    assert [(row["step"], row["prompt"]) for row in said] == [(step, prompt) for step in (4, 6) for prompt in prompts]
    requests = [
        Request(tokenizer.prompt(prompt), 48, Sampling(temperature=0.5, top_p=0.95, seed=number))
        for number, prompt in enumerate(prompts)
    ]
    assert [row["text"] for row in said[2:]] == [answer.text for answer in engine.generate(requests)]


def test_adapting_is_measured_on_pairs_that_were_held_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    library, watched, _ = world
    sources = []
    real = HeldOut.__init__

    def spy(self: HeldOut, model: object, objective: object, source: object, *rest: object) -> None:
        sources.append(source)
        real(self, model, objective, source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(HeldOut, "__init__", spy)
    made = run_recipe(read_recipe(SMALL, (*WATCHED, "adapt.train.steps=2")), library, Silent(), until="adapt")["adapt"]
    heldout = set(Dataset(watched["pack"].folder, "heldout").ids)
    (source,) = sources
    measured = [one for one in Examples(watched["examples"].folder) if one.document in heldout]
    assert len(source.numbers) + sum(source.left_out.values()) == len(measured) > 0
    assert [row["step"] for row in rows(made, "evaluations.jsonl")] == [2]
    assert made.manifest.metrics["heldout_loss"] > 0


def test_an_encoder_is_measured_by_what_it_guesses(tmp_path: Path) -> None:
    settings = (*ENCODER, "pretrain.train.steps=3", "pretrain.train.examine_steps=2", "pretrain.train.examine_rows=5")
    made = run_recipe(read_recipe(SMALL, settings), Library(tmp_path), Silent(), until="pretrain")
    model, tokenizer = load_encoder(made["pretrain"].folder), Tokenizer.load(made["pretrain"].folder)
    heldout = Dataset(made["pack"].folder, "heldout")
    stage = read_recipe(SMALL, settings).stages["pretrain"]
    batch = Masked(Rows(heldout, 192, 0), tokenizer, stage.masking).batch(0, 5)
    with torch.no_grad():
        loss = CausalLM(stage.train.dtype())(model.eval(), batch)
    found = made["pretrain"].manifest.metrics
    assert found["heldout_loss"] == pytest.approx(float(loss.sum / loss.count), rel=1e-4)
    assert "heldout_bits_per_byte" not in found
    assert [row["step"] for row in rows(made["pretrain"], "evaluations.jsonl")] == [2, 3]


def test_batches_of_any_size_measure_the_same() -> None:
    class Summing:
        """Weights are the row's number, losses its square: means of means would differ."""

        def batch(self, first: int, count: int) -> Batch:
            numbers = torch.arange(first + 1, first + count + 1)[:, None]
            return Batch(numbers, numbers, numbers.float())

    def objective(model: torch.nn.Module, batch: Batch) -> Loss:
        return Loss((batch.tokens**2).sum().float(), batch.weights.sum())

    model = torch.nn.Linear(1, 1)
    for at_once in (1, 2, 3, 8):
        config = TrainConfig(steps=1, batch_rows=at_once, micro_rows=at_once, examine_rows=5)
        assert HeldOut(model, objective, Summing(), 9, config)().figures == {"heldout_loss": pytest.approx(55 / 15)}
        few = HeldOut(model, objective, Summing(), 2, config)()
        assert few.figures["heldout_loss"] == pytest.approx(5 / 3)


def test_held_out_rows_may_be_few_and_short(world: World) -> None:
    heldout = Dataset(world[1]["pack"].folder, "heldout")
    whole = Rows(heldout, 10**9, 0)
    assert (whole.count, whole.context) == (1, len(heldout) - 1)
    assert whole.batch(0, 1).tokens[0].tolist() == heldout.tokens[:-1].tolist()
    with pytest.raises(UserError, match="too small to train on"):
        Rows(Dataset(world[1]["pack"].folder), 10**5, 0)


def test_models_of_earlier_versions_are_read(world: World) -> None:
    library, _, plain = world
    log = plain["pretrain"].folder / "metrics.jsonl"
    log.rename(log.with_name("log.jsonl"))
    try:
        assert read_in(library, plain["pretrain"], 3).log["step"] == 3
        with pytest.raises(UserError, match="there is no step 7"):
            read_in(library, plain["pretrain"], 7)
    finally:
        log.with_name("log.jsonl").rename(log)


def test_recorders_change_no_order(world: World, tmp_path: Path) -> None:
    library, watched, _ = world
    recorded = (*WATCHED, "pretrain.record=[tensorboard]", "adapt.record=[tensorboard]")
    again = run_recipe(read_recipe(SMALL, recorded), library, Silent(), until="adapt")
    assert again["adapt"].manifest.hash == watched["adapt"].manifest.hash
    assert not (library.root / "runs").exists()
    listening = Listening()
    fresh = Library(tmp_path)
    made = run_recipe(read_recipe(SMALL, recorded), fresh, listening, until="adapt")
    assert made["adapt"].manifest.hash == watched["adapt"].manifest.hash
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert [name.rsplit("-", 3)[0] for name in runs] == ["small-adapted", "small-base"]
    assert listening.lines.count(f"recorded: tensorboard --logdir {tmp_path / 'runs'}") == 2
    assert [found for _, found in fresh.verify() if found] == []


def test_steps_left_out_name_their_documents(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    library, _, plain = world

    class Bursting(CausalLM):
        """No loss on the third and the fifth call: the preflight is the first."""

        calls = [0]  # noqa: RUF012

        def __call__(self, model: torch.nn.Module, batch: Batch) -> Loss:
            self.calls[0] += 1
            loss = super().__call__(model, batch)
            return Loss(loss.sum * math.nan, loss.count) if self.calls[0] in (3, 5) else loss

    for module in (training, instruct):
        monkeypatch.setattr(module, "CausalLM", Bursting)
    for stage in ("pretrain", "adapt"):
        listening = Listening()
        Bursting.calls[0] = 0
        changes = (*QUICK, "adapt.train.precision=float32", f"{stage}.train.clip=0.9")
        made = run_recipe(read_recipe(SMALL, changes), library, listening, until=stage)[stage]
        told = [line for line in listening.lines if "left out: loss nan" in line]
        assert [line.split(" left out")[0] for line in told] == ["step 2", "step 4"]
        for line, step in zip(told, (2, 4), strict=True):
            named = [f"{d.source}:{d.first_line}-{d.last_line}" for d in read_in(library, made, step).documents]
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            assert line.endswith(f"; it read {', '.join(named[:3])}{more}")
    assert rows(plain["pretrain"], "metrics.jsonl")[1]["kept"] == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (('pretrain.samples=["a"]',), "samples: they are made when the run is examined; set train.examine_steps too"),
        ((*ENCODER, 'pretrain.samples=["a"]', "pretrain.train.examine_steps=2"), "samples: an encoder says nothing"),
        (("pretrain.train.examine_steps=0",), "examine_steps"),
        (("pretrain.record=[tensorbored]",), "record"),
    ],
)
def test_what_cannot_be_asked_for(changes: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read_recipe(SMALL, changes)


def test_what_turns_out_to_be_impossible(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    library = world[0]
    long = (*WATCHED, f"pretrain.samples=['{'word ' * 300}']")
    with pytest.raises(UserError, match=r"pretrain.samples: 'word word .* tokens, and the model's context holds 192"):
        run_recipe(read_recipe(SMALL, long), library, Silent(), until="pretrain")
    monkeypatch.setattr(adapting, "held_out_documents", lambda library, base: set())
    with pytest.raises(UserError, match=r"adapt.train.examine_steps: there are no examples to measure on"):
        run_recipe(read_recipe(SMALL, (*WATCHED, "adapt.train.steps=3")), library, Silent(), until="adapt")
    monkeypatch.setattr("underlay.train.record.find_spec", lambda name: None)
    nothing = Library(library.root / "nothing")
    with pytest.raises(UserError, match="wandb is not installed"):
        run_recipe(read_recipe(SMALL, ("adapt.record=[wandb]",)), nothing, Silent())
    assert not nothing.root.exists()  # told before anything is made
