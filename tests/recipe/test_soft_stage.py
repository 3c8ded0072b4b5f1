"""Soft prompts and prefixes as methods of the stage that adapts: made, resumed, remembered, refused, answered with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting_world import Silent, small_library
from typer.testing import CliRunner

from underlay.adapt.prompting.engine import PromptedEngine
from underlay.adapt.prompting.soft import PromptedEmbedding, SoftConfig, attach_soft
from underlay.cli import app
from underlay.errors import UserError
from underlay.formats.soft_prompts import read_prefix, read_prompt
from underlay.generate import Request, Sampling
from underlay.library import Artifact, Library
from underlay.models.storage import load_decoder
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.recipe import make_recipe
from underlay.recipe.steps import read_in
from underlay.text import Tokenizer

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
TRAIN = {"steps": 6, "context": 128, "batch_rows": 4, "micro_rows": 2, "compile": False, "precision": "float32"}
SOFT = {"tokens": 5, "words": "def number"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("soft")
    rows = {
        "chats": [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(16)],
        "labels": [{"text": f"number {n}", "label": "odd" if n % 2 else "even"} for n in range(16)],
    }
    return small_library(folder, rows)


def adapted(
    library: Library, method: str, listener: Silent | None = None, examples: str = "chats", **more: Any
) -> Artifact:
    train = {**TRAIN, "optimizer": {"muon": False, "adam_lr": 0.05}}
    stage = {"model": "model:small-base", "examples": f"examples:{examples}", "method": method, "train": train, **more}
    recipe = make_recipe({"name": f"soft-{method}", "stages": {"adapt": {"soft": SOFT, **stage}}}, "test")
    return run_recipe(recipe, library, listener or Silent())["adapt"]


@pytest.mark.parametrize("method", ["soft_prompt", "prefix"])
def test_what_stands_before_is_learned_and_remembers_its_model(library: Library, method: str) -> None:
    made = adapted(library, method, heldout="examples:chats")
    base = library.find("model:small-base")
    metrics = made.manifest.metrics
    assert made.manifest.kind == "adapter"
    assert {parent.role: parent.hash for parent in made.manifest.parents}["model"] == base.manifest.hash
    assert metrics["heldout_loss"] > 0
    assert read_in(library, made, 2).documents
    model = load_decoder(base.folder)
    if method == "prefix":
        keys, values = read_prefix(made.folder, model)
        assert metrics["learning"] == keys.numel() + values.numel()
        return
    prompt = read_prompt(made.folder, model)
    assert metrics["learning"] == prompt.numel()
    start = load_decoder(base.folder)
    attach_soft(start, Tokenizer.load(base.folder), SoftConfig.model_validate(SOFT), seed=0)
    assert isinstance(start.embedding, PromptedEmbedding)
    assert prompt.shape == start.embedding.prompt.shape
    assert float((prompt - start.embedding.prompt.detach()).abs().max()) > 0.01
    rows = [json.loads(line)["loss"] for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1] < rows[0]


@pytest.mark.parametrize("method", ["soft_prompt", "prefix"])
def test_stopped_and_resumed_equals_never_stopped(library: Library, method: str) -> None:
    train = {**TRAIN, "checkpoint_seconds": 1e-9}
    whole = adapted(library, method, train=train, name="again")
    weights = (whole.folder / "adapter_model.safetensors").read_bytes()
    library.remove(whole.reference)
    with pytest.raises(KeyboardInterrupt):
        adapted(library, method, Silent(stops_at=3), train=train, name="again")
    again = adapted(library, method, train=train, name="again")
    assert (again.folder / "adapter_model.safetensors").read_bytes() == weights


def test_the_engine_answers_behind_the_prompt(library: Library) -> None:
    """As the model itself does where the prompt's rows are put before the text's by hand."""
    made = adapted(library, "soft_prompt")
    base = library.find("model:small-base")
    model, tokenizer = load_decoder(base.folder), Tokenizer.load(base.folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)  # so that what it reads matters
    prompt = read_prompt(made.folder, model)
    engine = PromptedEngine(model, tokenizer, prompt, "soft", precision="float32")
    assert engine.context == model.config.context - 5
    ids = tokenizer.prompt("Say 3")
    rows = torch.cat([prompt, model.embedding.weight[ids].detach()])[None]
    handle = model.embedding.register_forward_hook(lambda _, __, ___: rows)
    with torch.no_grad():
        found = model(torch.zeros(1, rows.shape[1], dtype=torch.int64))[0].log_softmax(-1)
        handle.remove()
        bare = model(torch.tensor([ids]))[0].log_softmax(-1)
    behind = found[5:]
    asked = Request(ids, 1, Sampling(temperature=0), stop_ids=frozenset(), adapter="soft", logprobs=0)
    (answer,) = engine.generate([asked])
    assert answer.logprobs is not None
    assert answer.ids == [int(behind[-1].argmax())]
    assert answer.logprobs[0].logprob == pytest.approx(float(behind[-1].max()), abs=1e-4)
    assert abs(float(behind[-1].max() - bare[-1].max())) > 1e-2, "the prompt matters"
    (scores,) = engine.score([[*engine.begin, *ids]])
    wanted = behind[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(scores[5:], wanted, rtol=1e-4, atol=1e-4)
    (without,) = engine.generate([replace(asked, adapter=None)])
    assert without.logprobs is not None
    assert without.logprobs[0].logprob == pytest.approx(float(bare[-1].max()), abs=1e-4)
    with pytest.raises(UserError, match="context holds"):
        engine.check(Request(ids, engine.context, adapter="soft"))


@pytest.mark.parametrize(
    ("method", "settings", "line"),
    [
        ("soft_prompt", {"examples": "labels"}, "learns from conversations, not from a label"),
        ("prefix", {"objective": "dpo"}, r"learns from conversations \(instruct\), not preference"),
        ("prefix", {"robust": ["gradient"]}, "robust: not with prefix"),
        ("soft_prompt", {"adapter": "adapter:x"}, "adapter: only with method lora"),
        ("full", {}, "soft: only with the methods soft_prompt and prefix"),
        ("soft_prompt", {"soft": {"tokens": 127}}, "leave no room in rows of 128 tokens"),
    ],
)
def test_what_does_not_go_together_is_refused(
    library: Library, method: str, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        adapted(library, method, **settings)


def typed(library: Library, *words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*words, "--library", str(library.root)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_people_answer_with_it_and_are_told_where_they_cannot(library: Library) -> None:
    soft, prefix = (adapted(library, method).reference for method in ("soft_prompt", "prefix"))
    say = ("generate", "model:small-base", "Say", "--max-tokens", "3", "--temperature", "0")
    code, out, err = typed(library, *say, "--adapter", soft)
    assert code == 0, err
    assert out.startswith("Say")
    code, out, err = typed(library, "prompt", "model:small-base", "infer-sentiment", "Good.", "--adapter", soft)
    assert code == 0, err
    for words, line in (
        ((*say, "--adapter", prefix), "to be answered with, learn a soft prompt"),
        ((*say, "--adapter", soft, "--precision", "int8"), "not with a soft prompt"),
        (("merge", soft), "peft_type is 'PROMPT_TUNING'; only LORA is supported"),
    ):
        code, _, err = typed(library, *words)
        assert (code, line in err) == (2, True), err
    other = run_recipe(
        read_recipe(SMALL, ("pretrain.train.steps=4", "pretrain.name=other")), library, Silent(), until="pretrain"
    )["pretrain"]
    code, _, err = typed(library, "generate", other.reference, "Say", "--adapter", soft)
    assert code == 2
    assert "changes model:small-base@" in err
