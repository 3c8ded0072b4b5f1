"""A decoder grown from a recipe with rearranged documents, and its gaps filled in the terminal."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from underlay.cli import app
from underlay.data import Dataset, Middles, Rows
from underlay.errors import UserError
from underlay.generate import Engine, Request, Sampling
from underlay.library import Artifact, Library
from underlay.models import Batch
from underlay.models.storage import load_decoder
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.steps import read_in
from underlay.text import Gap, Tokenizer

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
FIM = ("tokenizer.fim=true", "pretrain.fim={rate: 0.8}", "pretrain.train.steps=3")
TEXT = "def area(r):\n\t[MASK]\n    return a\n"


class Silent:
    def started(self, stage: str, number: int, of: int) -> None: ...
    def moved(self, done: float, total: float | None, **facts: float | str) -> None: ...
    def said(self, line: str) -> None: ...
    def ended(self, artifact: object, reused: bool) -> None: ...


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, Artifact, list[Batch]]:
    """A small run that remembers every batch it trained on; the first one is the preflight's."""
    library, batches = Library(tmp_path_factory.mktemp("library")), []
    with pytest.MonkeyPatch.context() as patch:

        def remember(self: Middles, first: int, count: int, real: Callable[..., Batch] = Middles.batch) -> Batch:
            batches.append(real(self, first, count))
            return batches[-1]

        patch.setattr(Middles, "batch", remember)
        made = run_recipe(read_recipe(SMALL, FIM), library, Silent(), until="pretrain")
    return library, made["pretrain"], batches[1:]


def underlay(*arguments: str, library: Library, typed: str | None = None) -> Result:
    environment = {"UNDERLAY_LIBRARY": str(library.root), "COLUMNS": "200"}
    return CliRunner().invoke(app, arguments, input=typed, env=environment)


def test_a_steps_documents_are_those_of_the_rows(world: tuple[Library, Artifact, list[Batch]]) -> None:
    library, model, batches = world
    dataset = Dataset(library.ancestor(model, "dataset").folder)
    assert model.manifest.config["fim"] == {"rate": 0.8, "spm": 0.5}
    gap = Gap(Tokenizer.load(model.folder))
    rows = Rows(dataset, 192, model.manifest.seed)
    for step, batch in enumerate(batches, 1):
        assert set(batch.tokens.flatten().tolist()) >= gap.marks
        named = {read.document: read.tokens for read in read_in(library, model, step).documents}
        assert batch.documents == rows.batch(4 * step - 4, 4).documents
        assert sum(named.values()) == batch.tokens.numel()
        assert set(named) <= {dataset.ids[number] for row in batch.documents for number in row}


def test_fill_shows_the_text_with_its_middle(world: tuple[Library, Artifact, list[Batch]]) -> None:
    library, model, _ = world
    engine = Engine(load_decoder(model.folder), Tokenizer.load(model.folder), slots=1)
    gap = Gap(engine.tokenizer)
    prompt = gap.prompt("def area(r):\n\t", "\n    return a\n")
    options = ("--max-tokens", "9", "--temperature", "1.5", "--seed", "3")
    for more, sampling, length in ((options, Sampling(1.5, seed=3), 9), ((), Sampling(0.0), 192 - len(prompt))):
        (wanted,) = engine.generate([Request(prompt, length, sampling, stop_ids=gap.stop_ids)])
        found = json.loads(underlay("fill", "model:small-base", TEXT, *more, "--json", library=library).stdout)
        assert found["middle"] == wanted.text
        assert found["text"] == TEXT.replace("[MASK]", wanted.text)
        assert (found["model"], found["finish"]) == (model.reference, wanted.finish)
        assert found["tokens"] == {"prompt": len(prompt), "completion": len(wanted.ids)}
        piped = underlay(
            "fill", "model:small-base", "-", *more, library=library, typed=TEXT.replace("[MASK]", "<mask>")
        )
        assert piped.stdout == found["text"] + "\n"
        assert ("--max-tokens allows more" in piped.stderr) == (wanted.finish == "length")


def test_a_middle_ends_where_the_gap_says(
    world: tuple[Library, Artifact, list[Batch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So many that one comes soon: a model of three steps hardly ever writes a mark.
    monkeypatch.setattr(Gap, "stop_ids", frozenset(range(0, 512, 2)))
    command = ("fill", "model:small-base", TEXT, "--temperature", "1", "--json")
    found = json.loads(underlay(*command, library=world[0]).stdout)
    assert found["finish"] == "stop"
    assert found["tokens"]["completion"] < 30


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("no gap",), "the text has 0 gaps; write [MASK] once, where a llama is to write"),
        (("[MASK] and <mask>",), "the text has 2 gaps"),
        (("[MASK]", "--top", "3"), "--top is for encoders, and a llama is none"),
        (("[MASK]", "--temperature", "-1"), "temperature: -1.0 is not a number of 0 or more"),
        (("[MASK]", "--max-tokens", "500"), "the model's context holds 192"),
    ],
)
def test_what_cannot_be_filled_in_says_why(
    world: tuple[Library, Artifact, list[Batch]], arguments: tuple[str, ...], complaint: str
) -> None:
    result = underlay("fill", "model:small-base", *arguments, library=world[0])
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_marks_are_asked_for(world: tuple[Library, Artifact, list[Batch]]) -> None:
    with pytest.raises(UserError, match="no tokens for prefix, suffix and middle; learn it with `fim: true`"):
        run_recipe(read_recipe(SMALL, FIM[1:]), world[0], Silent(), until="pretrain")
    with pytest.raises(UserError, match="fim: not for encoders, and bert is one"):
        read_recipe(SMALL, (*FIM, "pretrain.model={family: bert}"))
