"""The stage `answer` and its verb: what it remembers of teacher and prompts, and the way to a student."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_recipe import Log
from typer.testing import CliRunner

from underlay.adapt.examples import Conversation, Examples, Label
from underlay.cli import app
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.recipe import make_recipe

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
TRAIN = {"steps": 60, "context": 128, "batch_rows": 8, "micro_rows": 8, "compile": False, "precision": "float32"}
TASK = "instruction: Odd or even?\noutput: {labels: [odd, even]}\n"
OTHER = ("tokenizer.vocabulary=300", "tokenizer.name=o", "pack.name=o", "pretrain.name=student")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answering")


@pytest.fixture(scope="module")
def library(folder: Path) -> Library:
    """With a teacher that knows one answer, and prompts under two licences."""
    shelf = Library(folder / "library")
    chats = [{"instruction": f"Say {n}.", "output": "It is so.", "license": "MIT"} for n in range(24)]
    asked = [{"prompt": f"Say {n}.", "license": "MIT" if n % 2 else "CC-BY-4.0"} for n in range(24, 34)]
    numbers = [{"text": f"number {n}", "label": "odd" if n % 2 else "even"} for n in range(12)]
    for name, rows in (("chats", chats), ("asked", asked), ("numbers", numbers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"source": [str(folder / f"{name}.jsonl")]}
        run_recipe(make_recipe({"name": name, "stages": {"examples": files}}, "test"), shelf, Log())
    (folder / "parity.yaml").write_text(TASK)
    run_recipe(read_recipe(SMALL, ("pretrain.train.steps=20",)), shelf, Log(), until="pretrain")
    train = {**TRAIN, "optimizer": {"lr": 0.02, "adam_lr": 0.01}}
    stage = {"verb": "adapt", "model": "model:small-base", "examples": "examples:chats", "train": train}
    run_recipe(make_recipe({"name": "teacher", "stages": {"adapt": stage}}, "test"), shelf, Log())
    return shelf


def answers(library: Library, log: Log | None = None, **settings: Any) -> Artifact:
    stage = {"model": "model:teacher", "prompts": "examples:asked", "max_tokens": 24} | settings
    recipe = make_recipe({"name": "answers", "stages": {"answer": stage}}, "test")
    return run_recipe(recipe, library, log or Log())["answer"]


def test_answers_remember_their_teacher_and_their_prompts(library: Library) -> None:
    made = answers(library)
    teacher, prompts = library.find("model:teacher"), library.find("examples:asked")
    assert library.parents(made) == {"model": teacher, "prompts": prompts}
    assert made in library.descendants(teacher)
    assert set(made.manifest.licences) == {"MIT", "CC-BY-4.0"}
    assert made.manifest.metrics["teacher_licences"] == sorted(teacher.manifest.licences)
    examples = list(Examples(made.folder))
    assert len(examples) == made.manifest.metrics["examples"] == made.manifest.metrics["prompts"] == 10
    for one, asked in zip(examples, Examples(prompts.folder), strict=True):
        assert isinstance(one.body, Conversation)
        assert [said.role for said in one.body.messages] == ["user", "assistant"]
        assert one.body.messages[-1].content == "It is so."
        assert (one.source, one.line, one.licence) == (asked.source, asked.line, asked.licence)
    log = Log()
    assert answers(library, log) == made
    assert log.reused["answer"]


def test_a_student_of_other_tokens_is_adapted_by_them(library: Library) -> None:
    answers(library)
    run_recipe(read_recipe(SMALL, (*OTHER, "pretrain.train.steps=20")), library, Log(), until="pretrain")
    train = {**TRAIN, "optimizer": {"lr": 0.02, "adam_lr": 0.01}}
    stages = {
        "adapt": {"name": "taught", "model": "model:student", "examples": "examples:answers", "train": train},
        "again": {"verb": "answer", "model": "adapt", "prompts": "examples:asked", "max_tokens": 32},
    }
    again = run_recipe(make_recipe({"name": "again", "stages": stages}, "test"), library, Log())["again"]
    found = [one.body.messages[-1].content for one in Examples(again.folder) if isinstance(one.body, Conversation)]
    assert found == ["It is so."] * 10
    assert library.find("model:teacher") in library.ancestors(again)


def test_labels_have_their_probabilities_beside_them(library: Library, folder: Path) -> None:
    settings: dict[str, Any] = {"prompts": "examples:numbers", "task": str(folder / "parity.yaml"), "max_tokens": None}
    made = answers(library, **settings)
    rows = [json.loads(line) for line in (made.folder / "labels.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [f"number {n}" for n in range(12)]
    for row, one in zip(rows, Examples(made.folder), strict=True):
        assert one.body == Label(row["text"], (row["label"],))
        assert row["probability"] == max(row["probabilities"].values()) >= 0.5
        assert row["kept"]
    middle = sorted(row["probability"] for row in rows)[6]
    less = answers(library, **settings, least=middle)
    kept = [json.loads(line)["kept"] for line in (less.folder / "labels.jsonl").read_text().splitlines()]
    assert kept.count(True) == len(Examples(less.folder)) == sum(row["probability"] >= middle for row in rows)
    tasks = json.loads((less.folder / "label-studio.json").read_text())
    assert len(tasks) == kept.count(False) == less.manifest.metrics["unsure"] > 0
    assert all(one["predictions"][0]["score"] < middle for one in tasks)
    (folder / "parity.yaml").write_text(TASK.replace("Odd", "Is it odd"))
    assert answers(library, **settings).manifest.key != made.manifest.key, "another task is another order"
    (folder / "parity.yaml").write_text(TASK)


def test_a_reward_or_a_judge_says_what_is_kept(library: Library, folder: Path) -> None:
    own = folder / "own.py"
    own.write_text("def even(problem, answer):\n    return float(problem.prompt[-1].content[-2] in '02468')\n")
    made = answers(library, keep=f"{own}:even")
    assert len(Examples(made.folder)) == 5
    assert sum(made.manifest.metrics["left_out"].values()) == 5
    (folder / "rubric.yaml").write_text("instruction: Good?\noutput: {labels: ['1', '2']}\n")
    judged: dict[str, Any] = {"rubric": str(folder / "rubric.yaml"), "reward_model": "model:teacher", "worth": 0.0}
    made = answers(library, **judged, samples=2, best=True)
    assert {parent.role for parent in made.manifest.parents} == {"model", "prompts", "reward_model"}
    assert len(Examples(made.folder)) == 10


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"keep": "matches", "reward_model": "model:teacher"}, "reward_model: either it or keep"),
        ({"rubric": "r.yaml"}, "rubric: a model judges by it; name that as reward_model"),
        ({"reward_model": "model:teacher"}, "worth: a model knows no bound of what is right"),
        ({"best": True}, "best: needs a reward that tells"),
        ({"keep": "nothing"}, "reward: there is no 'nothing'"),
        ({"keep": "missing.py:f"}, "missing.py: no such file"),
        ({"task": "nothing"}, "no such task"),
        ({"prompts": "examples:numbers"}, "a label is no prompt; say by a task"),
        ({"keep": "matches"}, "no answer is kept, of 10 prompts: 10 left out: an answer whose worth cannot be told"),
    ],
)
def test_what_cannot_be_is_one_line(library: Library, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        answers(library, **settings)
    assert "\n" not in str(caught.value)


def test_one_command(library: Library, folder: Path) -> None:
    def typed(*words: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*words, "--library", str(library.root)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    ask = ("data", "answer", "model:teacher")
    code, out, err = typed(*ask, str(folder / "asked.jsonl"), "--name", "typed", "--max-tokens", "24", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["examples"], told["form"], told["prompts"]) == (10, "conversation", 10)
    # Texts without labels, of a column that no prompt is in.
    (folder / "plain.jsonl").write_text("".join(json.dumps({"text": f"number {n}"}) + "\n" for n in range(5)))
    words = (str(folder / "plain.jsonl"), "--column", "prompt=text", "--task", str(folder / "parity.yaml"))
    code, out, err = typed(*ask, *words, "--name", "plain")
    assert code == 0, err
    assert "5 labels of 5 prompts" in out
    rubric = f"judge:{folder / 'parity.yaml'}"
    code, _, err = typed(*ask, "examples:asked", "--name", "never", "--keep", rubric)
    assert (code, "name the model that judges, as --judge" in err) == (2, True)
    code, _, err = typed(*ask, "examples:asked", "--name", "never", "--keep", rubric, "--judge", "model:teacher")
    assert (code, "say what answers have to earn, or best" in err) == (2, True)
    code, _, err = typed(
        *ask, "examples:asked", "--name", "never", "--keep", rubric, "--judge", "model:teacher", "--best"
    )
    assert (code, "the label 'odd' is no number" in err) == (2, True)
    code, _, err = typed(*ask, "examples:asked", "examples:chats", "--name", "never")
    assert (code, "was read already" in err) == (2, True)


def test_a_judge_teaches_by_one_command(library: Library, folder: Path) -> None:
    (folder / "kind.yaml").write_text(
        "instruction: Kind?\noutput: {labels: ['yes', 'no']}\nworth: {'yes': 1, 'no': 0}\n"
    )
    sets = [f"adapt.train.{one}" for one in ("context=128", "batch_rows=8", "micro_rows=8", "compile=false")]
    sets += ["adapt.objective.max_tokens=12", "adapt.objective.group=4"]
    words = ["adapt", "model:teacher", "--data", "examples:asked", "--objective", "grpo", "--steps", "2", "--json"]
    words += ["--reward", f"judge:{folder / 'kind.yaml'}", "--judge", "model:small-base", "--name", "judged"]
    words += [word for one in sets for word in ("--set", one)]
    result = CliRunner().invoke(app, [*words, "--library", str(library.root)])
    assert result.exit_code == 0, result.output
    made = library.find("model:judged")
    assert library.parents(made)["reward_model"] == library.find("model:small-base")
    rows = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["reward"] < 1 for row in rows)
    assert made.manifest.config["rubric_sha256"]
