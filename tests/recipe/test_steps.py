"""From a step of training to its documents: what is computed afterwards is what was read then."""

import json
from pathlib import Path

import pytest

from underlay.adapt import Conversations
from underlay.data import Corpus, Dataset, Rows
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.models import Batch
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.steps import read_in
from underlay.text import Tokenizer

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
QUICK = (
    "pretrain.train.steps=5",
    "pretrain.train.micro_rows=2",
    "adapt.train.steps=3",
    "adapt.train.batch_rows=2",
    "adapt.train.micro_rows=1",
)


class Silent:
    def started(self, stage: str, number: int, of: int) -> None: ...
    def moved(self, done: float, total: float | None, **facts: float | str) -> None: ...
    def said(self, line: str) -> None: ...
    def ended(self, artifact: object, reused: bool) -> None: ...


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, dict[str, Artifact], dict[str, list[Batch]]]:
    """A small run that remembers every batch it trained on; the first one of each stage is the preflight's.

    Conversations that are only measured on are fewer than those that are learned from; their batches are left out.
    """
    library = Library(tmp_path_factory.mktemp("library"))
    batches: dict[str, dict[int, list[Batch]]] = {"Rows": {}, "Conversations": {}}
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Rows, Conversations):

            def remember(self: object, first: int, count: int, kind: type = kind, real: object = kind.batch) -> Batch:
                batch = real(self, first, count)  # type: ignore[operator]
                held = len(self.numbers) if isinstance(self, Conversations) else 0
                batches[kind.__name__].setdefault(held, []).append(batch)
                return batch

            patch.setattr(kind, "batch", remember)
        made = run_recipe(read_recipe(SMALL, QUICK), library, Silent(), until="adapt")
    most = max(batches["Conversations"])
    return library, made, {"Rows": batches["Rows"][0], "Conversations": batches["Conversations"][most]}


def test_pretraining(world: tuple[Library, dict[str, Artifact], dict[str, list[Batch]]]) -> None:
    library, made, batches = world
    read = batches["Rows"][1:]
    assert len(read) == 10
    ids = Dataset(made["pack"].folder).ids
    for step in range(1, 6):
        found = read_in(library, made["pretrain"], step)
        assert found.log["step"] == step
        parts = read[2 * (step - 1) : 2 * step]
        assert sum(document.tokens for document in found.documents) == sum(batch.tokens.numel() for batch in parts)
        counts = [document.tokens for document in found.documents]
        assert counts == sorted(counts, reverse=True)
        rows = [row for batch in parts for row in batch.documents]
        named = {document.document for document in found.documents}
        # A row's last target may be of a document that none of its tokens is of.
        assert {ids[number] for row in rows for number in row[:-1] or row} <= named
        assert named <= {ids[number] for row in rows for number in row}


def test_a_model_whose_size_came_from_one_number(tmp_path: Path) -> None:
    library = Library(tmp_path)
    recipe = read_recipe(SMALL, ("pretrain.train.steps=2",), params="100k")
    model = run_recipe(recipe, library, Silent(), until="pretrain")["pretrain"]
    assert sum(read.tokens for read in read_in(library, model, 2).documents) == 4 * 192


def test_adapting(world: tuple[Library, dict[str, Artifact], dict[str, list[Batch]]]) -> None:
    library, made, batches = world
    read = batches["Conversations"][1:]
    assert len(read) == 6
    tokenizer = Tokenizer.load(made["adapt"].folder)
    texts = {document.id: document.text for document in Corpus(made["curate"].folder)}
    for step in range(1, 4):
        found = read_in(library, made["adapt"], step)
        rows = list(read[2 * (step - 1) : 2 * step])
        assert sum(document.tokens for document in found.documents) == sum(
            int(batch.segments.max()) + 1 for batch in rows if batch.segments is not None
        )
        named = " ".join(texts[document.document] for document in found.documents)
        for batch in rows:
            assert batch.weights is not None
            assert batch.segments is not None
            for segment in range(int(batch.segments.max()) + 1):
                here = (batch.segments[0] == segment) & (batch.weights[0] > 0)
                answer = tokenizer.decode(batch.targets[0][here].tolist()).strip().splitlines()[0].strip()
                assert answer
                assert answer in named


def test_what_cannot_be_asked_for(world: tuple[Library, dict[str, Artifact], dict[str, list[Batch]]]) -> None:
    library, made, _ = world
    for step in (0, -1, 6):
        with pytest.raises(UserError, match=f"was trained in 5 steps; there is no step {step}"):
            read_in(library, made["pretrain"], step)
    with pytest.raises(UserError, match="was not trained here, but made by gather"):
        read_in(library, made["gather"], 1)


def test_every_step_has_its_row(world: tuple[Library, dict[str, Artifact], dict[str, list[Batch]]]) -> None:
    _, made, _ = world
    rows = [json.loads(line) for line in (made["pretrain"].folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["kept"] == 1 for row in rows)
