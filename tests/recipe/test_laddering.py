"""A ladder: every way is gone on the same texts, found again, remembers what it is of, and refuses what it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest

from underlay.adapt.examples import Conversation, Examples
from underlay.adapt.ladder import RUNGS, RungName
from underlay.adapt.prompting import Task
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.models.storage import load_config
from underlay.recipe import comparing, read_recipe, run_recipe
from underlay.recipe.laddering import Ladder, climb, with_labels
from underlay.recipe.recipe import make_recipe

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
LABELS = Task(instruction="Even or odd?")
SUMS = Task.model_validate(
    {"instruction": "Add.", "scorer": "number", "output": {"pattern": r"[0-9]+"}, "decoding": {"max_tokens": 24}}
)
QUICK = ("train.steps=3", "train.batch_rows=4", "train.micro_rows=2", "train.context=64", "train.precision=float32")
CHANGES = tuple(f"{rung}.{one}" for rung in ("head", "lora", "full", "distilled") for one in QUICK)


class Heard:
    """What a listener hears."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.lines: list[str] = []
        self.reused: list[bool] = []

    def started(self, stage: str, number: int, of: int) -> None:
        assert number <= of
        self.stages.append(stage)

    def moved(self, done: float, total: float | None, **facts: float | str) -> None: ...

    def said(self, line: str) -> None:
        self.lines.append(line)

    def ended(self, artifact: Artifact, reused: bool) -> None:
        self.reused.append(reused)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("laddering")
    shelf = Library(folder / "library")
    run_recipe(read_recipe(SMALL, ("pretrain.train.steps=3", "pretrain.train.context=256")), shelf, Heard(), "pretrain")
    rows: dict[str, list[dict[str, Any]]] = {
        "labels": [{"text": f"number {n}", "label": "odd" if n % 2 else "even"} for n in range(24)],
        "labels-test": [{"text": f"number {n}", "label": "odd" if n % 2 else "even"} for n in range(20, 30)],
        "sums": [{"question": f"{n} + 1", "answer": f"One more than {n}.\n#### {n + 1}"} for n in range(12)],
        "sums-test": [{"question": f"{n} + 1", "answer": f"One more than {n}.\n#### {n + 1}"} for n in range(12, 15)],
    }
    for name, some in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
        stage: dict[str, Any] = {"source": [str(path)]} | ({"worked": True} if name.startswith("sums") else {})
        run_recipe(make_recipe({"name": name, "stages": {"examples": stage}}, "test"), shelf, Heard())
    return shelf


def ladder(library: Library, task: Task, data: str, rungs: list[RungName], name: str, **more: Any) -> Ladder:
    model = library.find("model:small-base")
    examples, test = library.find(f"examples:{data}"), library.find(f"examples:{data}-test")
    return Ladder(name, {"small": model}, task, examples, test, rungs, changes=CHANGES, **more)


def test_every_way_is_gone_and_found_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ladder(library, LABELS, "labels", list(RUNGS), "all", seeds=2, shots=2, votes=2)
    heard = Heard()
    made = climb(asked, library, heard)
    figures = json.loads((made.folder / "ladder.json").read_text())
    assert {trial["rung"] for trial in figures["trials"]} == set(RUNGS)
    seeds = {rung: sum(trial["rung"] == rung for trial in figures["trials"]) for rung in RUNGS}
    assert {rung: count for rung, count in seeds.items() if count == 1}.keys() == {
        "majority", "tfidf", "prompt", "chain_of_thought",
    }  # fmt: skip
    assert set(seeds.values()) == {1, 2}
    assert all(len(trial["answers"]) == len(trial["scores"]) == 10 for trial in figures["trials"])
    assert all(set(trial["answers"]) <= {"even", "odd", None} for trial in figures["trials"])
    assert figures["repeated"] == 4  # 20 to 23 are in both files
    page = (made.folder / "ladder.html").read_text()
    assert all(rung.title in page for rung in RUNGS.values())
    roles = {parent.role for parent in made.manifest.parents}
    assert {"models.small", "examples", "test", "trained.small.full.1", "trained.small.distilled.0"} <= roles
    small = library.find("model:all-small-distilled-0")
    assert load_config(small.folder).depth == 1
    assert library.parents(small)["teacher"] == library.find("model:all-small-full-0")
    again = Heard()
    assert climb(asked, library, again).manifest.hash == made.manifest.hash
    assert all(again.reused)
    assert heard.stages[-1] == "comparing"


def test_tasks_of_text_are_learned_in_their_own_words_and_worked(library: Library) -> None:
    rungs: list[RungName] = ["majority", "tfidf", "chain_of_thought", "head", "lora", "full", "distilled"]
    made = climb(ladder(library, SUMS, "sums", rungs, "sums", seeds=1, shots=2), library, Heard())
    figures = json.loads((made.folder / "ladder.json").read_text())
    assert {trial["rung"] for trial in figures["trials"]} == {
        "majority", "chain_of_thought", "lora", "full", "distilled",
    }  # fmt: skip
    assert figures["left_out"].keys() == {"small, TF-IDF, logistic regression", "small, head, frozen"}
    assert any(parent.role == "adapters.small.lora.0" for parent in made.manifest.parents)
    told = Examples(library.find("examples:sums-told").folder)
    body = told[0].body
    assert isinstance(body, Conversation)
    assert body.messages[-1].content == "One more than 0. The answer is 1"
    assert body.messages[0].content.startswith("Add.\n\n")


def test_what_was_measured_before_a_stop_is_not_measured_again(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ladder(library, LABELS, "labels", ["majority", "tfidf", "prompt"], "stopped", seeds=1)
    counted: list[str] = []
    real = comparing._Trials._prompted

    def stopped(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing._Trials, "_prompted", stopped)
    with pytest.raises(KeyboardInterrupt):
        climb(asked, library, Heard())
    monkeypatch.setattr(comparing._Trials, "_prompted", real)
    monkeypatch.setattr(comparing._Trials, "_baseline", lambda *_: counted.append("again"))
    made = climb(asked, library, Heard())
    assert not counted
    assert len(made.manifest.metrics["ways"]) == 3


def test_the_test_is_cut_by_hashes_not_from_the_top(library: Library) -> None:
    made = climb(ladder(library, LABELS, "labels", ["majority"], "cut", limit=4), library, Heard())
    assert made.manifest.metrics["texts"] == 4
    examples = list(Examples(library.find("examples:labels-test").folder))
    chosen = comparing._chosen(examples, 4)
    assert chosen != examples[:4]
    assert chosen == comparing._chosen(examples, 4)
    assert [one.line for one in chosen] == sorted(one.line for one in chosen)


def test_labels_are_those_of_the_examples_where_the_task_names_none(library: Library) -> None:
    examples = Examples(library.find("examples:labels").folder)
    assert with_labels(LABELS, examples).output.labels == ("even", "odd")
    own = Task.model_validate({"instruction": "?", "output": {"labels": ["odd", "even", "neither"]}})
    assert with_labels(own, examples) == own
    sums = Examples(library.find("examples:sums").folder)
    assert with_labels(SUMS, sums) == SUMS


@pytest.mark.parametrize("change", ["tfidf.train.steps=3", "train.steps=3", "full.train.steps"])
def test_only_ways_that_learn_have_settings(library: Library, change: str) -> None:
    asked = ladder(library, LABELS, "labels", ["majority"], "wrong")
    with pytest.raises(UserError, match=r"write RUNG\.KEY=VALUE"):
        climb(Ladder(**{**vars(asked), "changes": (change,)}), library, Heard())


def test_a_test_with_labels_that_nothing_learned_is_refused(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    rows = [{"text": "number 1", "label": "prime"}, {"text": "number 2", "label": "even"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {"examples": {"source": [str(path)]}}
    made = run_recipe(make_recipe({"name": "other-test", "stages": stage}, "test"), library, Heard())["examples"]
    asked = ladder(library, LABELS, "labels", ["majority"], "other")
    with pytest.raises(UserError, match="'prime' is none of the task's labels: even, odd"):
        climb(Ladder(**{**vars(asked), "test": made}), library, Heard())
