"""Every way to adapt a model, as a stage: what it makes, what it remembers, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from underlay.adapt.examples import Examples
from underlay.errors import UserError
from underlay.formats.peft import read_adapter
from underlay.library import Artifact, Library
from underlay.models.adapter import changed
from underlay.models.storage import load_decoder, load_model
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.recipe import make_recipe
from underlay.recipe.stages import AdaptStage
from underlay.recipe.steps import read_in

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
TRAIN = {"steps": 4, "context": 128, "batch_rows": 4, "micro_rows": 2, "compile": False, "precision": "float32"}
TOKENS = torch.arange(40)[None] % 200
ROWS: dict[str, list[dict[str, Any]]] = {
    "conversation": [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(24)],
    "preference": [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "I will not."} for n in range(24)],
    "judgement": [{"prompt": f"Say {n}.", "completion": f"It is {n}.", "label": n % 2 == 0} for n in range(24)],
    "label": [{"text": f"number {n}", "label": "odd" if n % 2 else "even"} for n in range(24)],
    "tags": [{"tokens": ["number", str(n)], "tags": ["O", "B-odd" if n % 2 else "B-even"]} for n in range(24)],
    "similar": [{"anchor": f"number {n}", "positive": f"{n} is a number"} for n in range(24)],
}


class Silent:
    def started(self, stage: str, number: int, of: int) -> None: ...
    def moved(self, done: float, total: float | None, **facts: float | str) -> None: ...
    def said(self, line: str) -> None: ...
    def ended(self, artifact: object, reused: bool) -> None: ...


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """With a small model, and examples of every form."""
    folder = tmp_path_factory.mktemp("adapting")
    shelf = Library(folder / "library")
    run_recipe(read_recipe(SMALL, ("pretrain.train.steps=3",)), shelf, Silent(), until="pretrain")
    for form, rows in ROWS.items():
        path = folder / f"{form}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = make_recipe({"name": form, "stages": {"examples": {"source": [str(path)]}}}, "test")
        made = run_recipe(recipe, shelf, Silent())["examples"]
        assert made.manifest.metrics["form"] == form
    return shelf


def adapted(library: Library, form: str, name: str = "adapted", **settings: Any) -> Artifact:
    stage = {"model": "model:small-base", "examples": f"examples:{form}", "train": TRAIN} | settings
    recipe = make_recipe({"name": name, "stages": {"adapt": stage}}, "test")
    return run_recipe(recipe, library, Silent())["adapt"]


@pytest.mark.parametrize(
    ("form", "objective", "learned"),
    [
        ("conversation", None, "instruct"),
        ("preference", None, "preference"),
        ("preference", "ipo", "preference"),
        ("preference", "reward", "reward"),
        ("judgement", None, "preference"),
        ("label", None, "head"),
        ("tags", None, "head"),
        ("similar", {"name": "head", "group": 4}, "head"),
    ],
)
def test_each_form_teaches_what_it_calls_for_and_every_step_names_its_examples(
    library: Library, form: str, objective: Any, learned: str
) -> None:
    made = adapted(library, form, objective=objective)
    metrics = made.manifest.metrics
    assert (made.manifest.kind, metrics["objective"]) == ("model", learned)
    assert metrics["steps"] == 4
    load_model(made.folder)
    examples = Examples(library.find(f"examples:{form}").folder)
    lines = {example.line for example in examples}
    for step in (1, 4):
        read = read_in(library, made, step).documents
        assert read
        assert {one.first_line for one in read} <= lines
        assert all(one.source.endswith(f"{form}.jsonl") for one in read)


def test_a_teacher_of_another_size_is_learned_from(library: Library, tmp_path: Path) -> None:
    teacher = adapted(library, "conversation", name="teacher")
    objective = {"name": "distil", "share": 0.9}
    made = adapted(library, "conversation", objective=objective, teacher=teacher.reference, name="student")
    assert {parent.role for parent in made.manifest.parents} == {"model", "examples", "teacher"}
    rows = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row["divergence"] > 0 for row in rows)
    assert read_in(library, made, 1).documents
    with pytest.raises(UserError, match="the objective distil needs one"):
        adapted(library, "conversation", objective="distil")
    other = run_recipe(
        read_recipe(SMALL, ("pretrain.train.steps=1", "tokenizer.vocabulary=300", "pretrain.name=other")),
        library,
        Silent(),
        until="pretrain",
    )["pretrain"]
    with pytest.raises(UserError, match="its tokens are not the student's"):
        adapted(library, "conversation", objective="distil", teacher=other.reference)


def test_a_small_student_of_some_blocks_learns_labels_from_a_teacher(library: Library) -> None:
    teacher = adapted(library, "label", objective="head", name="labeller")
    made = adapted(library, "label", objective="head", teacher=teacher.reference, blocks=1, name="small")
    assert load_model(made.folder).config.depth == 1 < load_model(teacher.folder).config.depth
    assert {parent.role for parent in made.manifest.parents} == {"model", "examples", "teacher"}
    with pytest.raises(UserError, match="blocks: not with lora"):
        adapted(library, "label", objective="head", method="lora", blocks=1)
    with pytest.raises(UserError, match="only with the objectives distil and head"):
        adapted(library, "preference", objective="dpo", teacher=teacher.reference)


GRPO = {"name": "grpo", "reward": "length", "group": 2, "max_tokens": 12}


def test_rewards_are_learned_from_and_what_was_written_is_kept(library: Library, tmp_path: Path) -> None:
    made = adapted(library, "conversation", objective=GRPO, heldout="examples:conversation", name="rewarded")
    assert load_model(made.folder).config.task is None
    rows = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert all({"reward", "truncated", "parity_max"} <= row.keys() for row in rows)
    assert made.manifest.metrics["heldout_greedy_reward"] > 0
    assert list((made.folder / "rollouts").iterdir())
    assert read_in(library, made, 2).documents
    judge = adapted(library, "preference", objective="reward", name="judge")
    settings = {"objective": {**GRPO, "name": "ppo", "reward": None}, "reward_model": judge.reference}
    again = adapted(library, "conversation", **settings, method="lora", name="judged")
    assert again.manifest.kind == "adapter"
    assert {parent.role for parent in again.manifest.parents} == {"model", "examples", "reward_model"}
    own = tmp_path / "own.py"
    own.write_text("def worth(problem, answer):\n    return float(len(answer))\n")
    first = adapted(library, "conversation", objective={**GRPO, "reward": f"{own}:worth"}, name="own")
    own.write_text("def worth(problem, answer):\n    return -float(len(answer))\n")
    second = adapted(library, "conversation", objective={**GRPO, "reward": f"{own}:worth"}, name="own")
    assert first.manifest.version != second.manifest.version, "another reward is another order"


def test_no_step_is_left_out_for_standing_out_where_rewards_teach(library: Library) -> None:
    """They stay away for long, and then come at once."""

    def outliers(objective: Any, **train: Any) -> float | None:
        stage = {"model": "m", "examples": "e", "objective": objective, "train": {**TRAIN, **train}}
        adapt = make_recipe({"name": "r", "stages": {"adapt": stage}}, "test").stages["adapt"]
        assert isinstance(adapt, AdaptStage)
        return adapt.train.outliers

    assert outliers(GRPO) is None
    assert outliers(GRPO, outliers=4.0) == 4.0
    assert outliers("instruct") == 6.0


def test_what_is_learned_only_from_some_pairs_is_left_out_where_there_are_others(library: Library) -> None:
    left = adapted(library, "conversation", when="functions", name="never")
    assert left == library.find("model:small-base")
    with pytest.raises(UserError, match="when: not with lora"):
        adapted(library, "conversation", when="functions", method="lora")


def test_lora_makes_an_adapter_that_merges_into_what_it_was(library: Library) -> None:
    settings = {"method": "lora", "lora": {"rank": 4}, "train": {**TRAIN, "optimizer": {"adam_lr": 0.02}}}
    made = adapted(library, "conversation", **settings)
    assert made.manifest.kind == "adapter"
    base = library.find("model:small-base")
    assert {parent.role: parent.hash for parent in made.manifest.parents}["model"] == base.manifest.hash
    assert not (made.folder / "model.safetensors").exists()
    model = load_decoder(base.folder)
    adapter = read_adapter(made.folder, model.config)
    stage = {"verb": "merge", "model": base.reference, "adapter": made.reference}
    recipe = make_recipe({"name": "merged", "stages": {"merge": stage}}, "test")
    merged = run_recipe(recipe, library, Silent())["merge"]
    drift = merged.manifest.metrics["drift"]
    assert drift["logits"] < 1e-4
    assert drift["divergence"] < 1e-8
    with torch.no_grad():
        found, wanted = load_decoder(merged.folder)(TOKENS), changed(model, adapter)(TOKENS)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        assert float((found - model(TOKENS)).abs().max()) > 1e-3
    further = adapted(library, "conversation", name="further", adapter=made.reference, **settings)
    assert {parent.role for parent in further.manifest.parents} == {"model", "examples", "adapter"}


def test_an_adapter_of_another_model_is_refused(library: Library) -> None:
    other = adapted(library, "conversation", name="other")
    made = adapted(library, "conversation", method="lora")
    stage = {"verb": "merge", "model": other.reference, "adapter": made.reference}
    recipe = make_recipe({"name": "wrong", "stages": {"merge": stage}}, "test")
    with pytest.raises(
        UserError, match=rf"changes {library.find('model:small-base').reference}, not {other.reference}"
    ):
        run_recipe(recipe, library, Silent())


def test_with_a_head_low_rank_changes_are_merged_and_the_whole_is_a_model(library: Library) -> None:
    made = adapted(library, "label", objective="head", method="lora", heldout="examples:label")
    assert made.manifest.kind == "model"
    base, model = load_decoder(library.find("model:small-base").folder), load_model(made.folder)
    assert model.config.task is not None
    assert model.config.task.labels == ("even", "odd")
    old, new = base.state_dict(), model.state_dict()
    assert torch.equal(new["embedding.weight"], old["embedding.weight"])
    assert not torch.equal(new["blocks.0.mlp.up.weight"], old["blocks.0.mlp.up.weight"])
    assert made.manifest.metrics["learning"] < sum(tensor.numel() for tensor in old.values())
    with pytest.raises(UserError, match="with lora and such examples, say what is learned"):
        adapted(library, "label", method="lora")


@pytest.mark.parametrize(
    ("form", "figure"),
    [("conversation", "heldout_loss"), ("preference", "heldout_accuracy"), ("label", "heldout_macro_f1")],
)
def test_what_is_held_out_is_measured(library: Library, form: str, figure: str) -> None:
    once = adapted(library, form, name="once", heldout=f"examples:{form}")
    often = adapted(library, form, name="often", heldout=f"examples:{form}", train={**TRAIN, "examine_steps": 2})
    assert once.manifest.metrics[figure] == pytest.approx(often.manifest.metrics[figure], rel=1e-5)
    rows = [json.loads(line) for line in (often.folder / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    weights = [(made.folder / "model.safetensors").read_bytes() for made in (once, often)]
    assert weights[0] == weights[1]


def test_a_length_in_passes_is_one_in_rows(library: Library) -> None:
    train = {**TRAIN, "steps": None, "passes": 1.5}
    made = adapted(library, "label", train=train)
    assert made.manifest.metrics["steps"] == 9  # 24 rows, 4 a step


@pytest.mark.parametrize(
    ("form", "settings", "complaint"),
    [
        ("label", {"objective": "instruct"}, "objective instruct: learns from conversations, not from a label"),
        (
            "conversation",
            {"objective": "dpo"},
            "objective preference: learns from preferences, not from a conversation",
        ),
        ("conversation", {"objective": "dpoo"}, "objective"),
        ("conversation", {"lora": {"rank": 2}}, "lora: only with method lora"),
        ("conversation", {"adapter": "adapter:adapted"}, "adapter: only with method lora"),
        ("conversation", {"train": {**TRAIN, "examine_steps": 2}}, "there are no examples to measure on"),
        ("conversation", {"train": {**TRAIN, "context": 999}}, "is longer than the model's 192"),
        ("conversation", {"template": "chatml"}, "template"),
        ("conversation", {"objective": "grpo"}, "grpo and ppo need it or objective.reward"),
        ("conversation", {"reward_model": "model:judge"}, "others neither"),
        ("label", {"objective": GRPO}, "grpo: learns from problems or conversations, not from a label"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    library: Library, form: str, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        adapted(library, form, name="never", **settings)
    assert "\n" not in str(caught.value)
