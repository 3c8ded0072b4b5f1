"""New tokens: known to the tokenizer, begun where the model expects them, learned by themselves, and kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from adapting_world import Silent, small_library
from torch import nn
from typer.testing import CliRunner

from underlay.adapt.lora import LoraConfig, adapter_of, attach
from underlay.adapt.new_tokens import enlarge, learn_rows, rows_of
from underlay.cli import app
from underlay.errors import UserError
from underlay.formats import hf
from underlay.formats.peft import read_adapter, write_adapter
from underlay.library import Artifact, Library
from underlay.models import Decoder, LlamaConfig
from underlay.models.adapter import changed
from underlay.models.bert import BertConfig
from underlay.models.growing import begun
from underlay.models.storage import load_decoder, load_model
from underlay.recipe import run_recipe
from underlay.recipe.recipe import make_recipe
from underlay.text import Tokenizer, train_tokenizer

TRAIN = {"steps": 6, "context": 128, "batch_rows": 4, "micro_rows": 2, "compile": False, "precision": "float32"}
TOKENS = ["<think>", "</think>"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("tokens")
    thought = "<think>{n} it is</think>It is {n}."
    rows = {
        "chats": [{"instruction": f"Say {n}.", "input": "", "output": thought.format(n=n)} for n in range(16)],
        "labels": [{"text": f"<think> number {n}", "label": "odd" if n % 2 else "even"} for n in range(16)],
    }
    return small_library(folder, rows)


def adapted(
    library: Library, method: str, listener: Silent | None = None, examples: str = "chats", **more: Any
) -> Artifact:
    train = {**TRAIN, "optimizer": {"muon": False, "adam_lr": 0.01}}
    stage = {"model": "model:small-base", "examples": f"examples:{examples}", "method": method, "train": train}
    settings = {"new_tokens": TOKENS, **stage, **more}
    recipe = make_recipe({"name": f"thinks-{method}", "stages": {"adapt": settings}}, "test")
    return run_recipe(recipe, library, listener or Silent())["adapt"]


def tiny(tied: bool) -> tuple[Decoder, Tokenizer]:
    tokenizer = train_tokenizer(["say a number and I will say it again"] * 5, 280)
    torch.manual_seed(0)
    config = LlamaConfig(vocabulary=tokenizer.size, width=32, depth=2, heads=2, context=64, tied=tied)
    model: Decoder = config.build()
    return model, tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_means_and_the_old_ones_stay(tied: bool) -> None:
    model, tokenizer = tiny(tied)
    larger, knows = enlarge(model, tokenizer, {"<think>": "", "<number>": "a number"})
    assert isinstance(larger, Decoder)
    known = tokenizer.size
    assert knows.encode("<think>say<number>") == [known, *tokenizer.encode("say"), known + 1]
    assert knows.decode([known]) == "<think>"
    words = tokenizer.encode("a number")
    for old, new in ((model.embedding, larger.embedding), (model.head, larger.head)):
        if old is None or new is None:
            assert old is new is None
            continue
        torch.testing.assert_close(new.weight[known], old.weight.mean(0))
        torch.testing.assert_close(new.weight[known + 1], old.weight[words].mean(0))
        assert torch.equal(new.weight[:known], old.weight)
    ids = torch.tensor([tokenizer.encode("say a number")])
    torch.testing.assert_close(larger(ids)[..., :known], model(ids))


def test_rows_that_were_spare_are_taken_first_and_encoders_grow_too() -> None:
    torch.manual_seed(0)
    spare = LlamaConfig(vocabulary=300, width=32, depth=1, heads=2, context=16).build()
    before = spare.embedding.weight.detach().clone()
    larger = begun(spare, 280, [(), ()])
    assert larger.config.vocabulary == 300
    torch.testing.assert_close(larger.embedding.weight[281], before[:280].mean(0))
    assert torch.equal(larger.embedding.weight[282:], before[282:])
    assert torch.equal(spare.embedding.weight, before), "the model itself stays as it is"
    bert = BertConfig(vocabulary=50, width=32, depth=1, heads=2, hidden=64, context=16).build()
    assert bert.masked is not None
    with torch.no_grad():
        bert.masked.bias.normal_()
    more = begun(bert, 50, [()])
    assert more.masked is not None
    torch.testing.assert_close(more.masked.bias[50], bert.masked.bias.mean())
    assert more.logits(more.hidden(torch.tensor([[50, 3]]))).shape == (1, 2, 51)


@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        ({"": ""}, "write at least a sign"),
        ({" a": ""}, "no space at its ends"),
        ({"a": ""}, "has it already"),
    ],
)
def test_what_can_be_no_new_token_is_refused(tokens: dict[str, str], line: str) -> None:
    model, tokenizer = tiny(tied=True)
    with pytest.raises(UserError, match=line):
        enlarge(model, tokenizer, tokens)


@pytest.mark.parametrize("tied", [True, False])
def test_beside_low_rank_changes_the_new_rows_alone_learn(tied: bool) -> None:
    model, tokenizer = tiny(tied)
    larger, _ = enlarge(model, tokenizer, {"<think>": ""})
    assert isinstance(larger, Decoder)
    whole, _ = enlarge(model, tokenizer, {"<think>": ""})
    attach(larger, LoraConfig(rank=2), seed=0)
    learn_rows(larger, [tokenizer.size])
    names = {name for name, parameter in larger.named_parameters() if parameter.requires_grad}
    rows = {name for name in names if ".lora_" not in name}
    assert rows == {f"{table}.parametrizations.weight.0.rows" for table in ("embedding", "head")[: 2 - tied]}
    ids, targets = torch.tensor([[tokenizer.size, 4, 5]]), torch.tensor([[4, 5, tokenizer.size]])
    for one in (larger, whole):
        nn.functional.cross_entropy(one(ids).flatten(0, 1), targets.flatten()).backward()
    assert isinstance(whole, Decoder)
    mine: Any = larger.embedding.parametrizations.weight[0].rows.grad  # type: ignore[index,union-attr]
    torch.testing.assert_close(mine[0], whole.embedding.weight.grad[tokenizer.size], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_peft_reads_what_was_learned_and_so_do_we(tied: bool, tmp_path: Path) -> None:
    model, tokenizer = tiny(tied)
    larger, _ = enlarge(model, tokenizer, {"<think>": "", "</think>": ""})
    assert isinstance(larger, Decoder)
    values, rows = hf.outgoing(larger.config)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values)).eval()
    theirs.load_state_dict(dict(hf.written_out(rows, larger.state_dict().__getitem__)), strict=False)
    theirs.tie_weights()
    attach(larger, LoraConfig(rank=2), seed=0)
    learn_rows(larger, range(tokenizer.size, tokenizer.size + 2))
    with torch.no_grad():
        for parameter in larger.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    write_adapter(adapter_of(larger), larger.config, tmp_path, "base")
    ids = torch.tensor([[tokenizer.size, 4, tokenizer.size + 1, 9]])
    wanted = larger(ids)
    read = peft.PeftModel.from_pretrained(theirs, str(tmp_path)).eval()
    torch.testing.assert_close(read(ids).logits, wanted, rtol=1e-4, atol=1e-4)
    again = read_adapter(tmp_path, model.config)  # of the model as it was: it grows by itself
    torch.testing.assert_close(changed(model, again)(ids), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("listed", [True, False])
def test_we_read_what_peft_has_written(listed: bool, tmp_path: Path) -> None:
    model, _ = tiny(tied=True)
    values, rows = hf.outgoing(model.config)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values)).eval()
    theirs.load_state_dict(dict(hf.written_out(rows, model.state_dict().__getitem__)), strict=False)
    theirs.tie_weights()
    which: Any = [7, 3] if listed else {"embed_tokens": [7, 3]}
    asked = peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=which)
    learned = peft.get_peft_model(theirs, asked).eval()
    with torch.no_grad():
        for parameter in learned.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    learned.save_pretrained(str(tmp_path))
    ids = torch.tensor([[7, 4, 3, 9]])
    found = changed(model, read_adapter(tmp_path, model.config))(ids)
    torch.testing.assert_close(found, learned(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("damage", ["ids", "shape", "none", "nan"])
def test_damaged_rows_are_one_line(damage: str, tmp_path: Path) -> None:
    model, tokenizer = tiny(tied=True)
    larger, _ = enlarge(model, tokenizer, {"<think>": ""})
    assert isinstance(larger, Decoder)
    attach(larger, LoraConfig(rank=2), seed=0)
    learn_rows(larger, [tokenizer.size])
    adapter = adapter_of(larger)
    assert adapter.tokens is not None
    rows = adapter.tokens
    if damage == "shape":
        rows = replace(rows, embedding=rows.embedding[:, :5])
    if damage == "nan":
        rows = replace(rows, embedding=rows.embedding * torch.nan)
    write_adapter(replace(adapter, tokens=rows), larger.config, tmp_path, "base")
    path = tmp_path / "adapter_config.json"
    values = json.loads(path.read_text())
    if damage == "ids":
        values["trainable_token_indices"] = {"embed_tokens": [-1]}
    if damage == "none":
        del values["trainable_token_indices"]
    path.write_text(json.dumps(values))
    line = {
        "ids": "ids of tokens",
        "shape": "the model's would be",
        "none": "there are rows of",
        "nan": "NaN or infinity",
    }
    with pytest.raises(UserError, match=line[damage]):
        read_adapter(tmp_path, model.config)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_stopped_and_resumed_equals_never_stopped(library: Library, method: str) -> None:
    train = {**TRAIN, "checkpoint_seconds": 1e-9}
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    whole = adapted(library, method, train=train, name="again")
    weights = (whole.folder / name).read_bytes()
    library.remove(whole.reference)
    with pytest.raises(KeyboardInterrupt):
        adapted(library, method, Silent(stops_at=3), train=train, name="again")
    again = adapted(library, method, train=train, name="again")
    assert (again.folder / name).read_bytes() == weights


def test_an_adapter_with_new_tokens_serves_and_merges(library: Library) -> None:
    made = adapted(library, "lora", heldout="examples:chats")
    base = library.find("model:small-base")
    old, new = Tokenizer.load(base.folder), Tokenizer.load(made.folder)
    assert new.size == old.size + 2
    assert new.encode("<think>") == [old.size]
    model = load_decoder(base.folder)
    adapter = read_adapter(made.folder, model.config)
    assert adapter.tokens is not None
    started = begun(model, old.size, [(), ()])
    assert float((adapter.tokens.embedding - started.embedding.weight[old.size :].detach()).abs().max()) > 1e-3
    stage = {"verb": "merge", "model": base.reference, "adapter": made.reference}
    recipe = make_recipe({"name": "merged", "stages": {"merge": stage}}, "test")
    merged = run_recipe(recipe, library, Silent())["merge"]
    assert merged.manifest.metrics["drift"]["logits"] < 1e-4
    whole = load_decoder(merged.folder)
    assert whole.config.vocabulary == max(model.config.vocabulary, new.size)
    assert torch.equal(whole.embedding.weight[: old.size], model.embedding.weight[: old.size])
    assert torch.equal(whole.embedding.weight[old.size :], adapter.tokens.embedding)
    assert Tokenizer.load(merged.folder).encode("<think>") == [old.size]
    say = (
        "Say <think>",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        "--precision",
        "float32",
        "--library",
        str(library.root),
    )
    told = []
    for words in ((base.reference, "--adapter", made.reference), (merged.reference,)):
        result = CliRunner().invoke(app, ["generate", words[0], *say, *words[1:], "--json"])
        assert result.exit_code == 0, result.output
        told.append(json.loads(result.stdout))
    assert told[0]["text"] == told[1]["text"]
    assert told[0]["tokens"]["prompt"] == told[1]["tokens"]["prompt"]
    with pytest.raises(UserError, match="brings tokens of its own"):
        adapted(library, "lora", adapter=made.reference, new_tokens=[])


def test_all_weights_and_heads_learn_with_new_tokens(library: Library) -> None:
    full = adapted(library, "full")
    size = Tokenizer.load(library.find("model:small-base").folder).size
    assert Tokenizer.load(full.folder).encode("</think>") == [size + 1]
    load_decoder(full.folder)
    for method in ("full", "lora"):
        made = adapted(library, method, examples="labels", objective="head", name=f"head-{method}")
        model = load_model(made.folder)
        assert model.config.task is not None
        old = load_decoder(library.find("model:small-base").folder).embedding.weight.detach()
        new = model.embedding.weight.detach()
        assert torch.equal(new[:size], old[:size]) == (method == "lora")
        assert float((new[size] - old[:size].mean(0)).abs().max()) > 1e-4
        if method == "lora":  # stands in no label's text, so it is what it began as
            torch.testing.assert_close(new[size + 1], old[:size].mean(0))


def test_a_token_that_no_example_has_is_told(library: Library) -> None:
    listener = Silent()
    adapted(library, "lora", listener, new_tokens={"<think>": "def", "<never>": ""}, name="never")
    assert any("stand in no example" in line and "<never>" in line and "<think>" not in line for line in listener.lines)
    with pytest.raises(UserError, match="new_tokens: not with prefix"):
        adapted(library, "prefix")


def test_no_rows_are_none() -> None:
    model, _ = tiny(tied=True)
    assert rows_of(model) is None
    learn_rows(model, [])
    assert rows_of(model) is None
