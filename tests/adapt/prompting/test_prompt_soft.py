"""Soft prompts learn in front of a model that stands still, and peft reads what was learned."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from prompt_world import make_model, make_tokenizer, task, texts

from underlay.adapt.prompting.lesson import lesson
from underlay.adapt.prompting.soft import (
    Prefix,
    PromptedEmbedding,
    SoftConfig,
    attach_soft,
    prefix_of,
    prefixed,
    prompt_of,
)
from underlay.errors import UserError
from underlay.formats import hf
from underlay.formats.soft_prompts import read_prefix, read_prompt, write_prefix, write_prompt
from underlay.models import Decoder, LlamaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.train import TrainConfig, train
from underlay.train.config import OptimizerConfig

SIZES: dict[str, Any] = {"vocabulary": 340, "width": 32, "depth": 2, "heads": 4, "context": 64}
FAMILIES = {
    "llama": LlamaConfig(**SIZES, kv_heads=2, hidden=48),
    "untied": LlamaConfig(**SIZES, tied=False),
    "gpt2": GPT2Config(**SIZES, hidden=64),
}
TOKENS = torch.randint(300, (2, 12), generator=torch.Generator().manual_seed(1))


def fresh(family: str = "llama") -> Decoder:
    torch.manual_seed(0)
    model: Decoder = FAMILIES[family].build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model


def behind(model: Decoder) -> torch.Tensor:
    """Logits of TOKENS behind the model's soft prompt."""
    if isinstance(model.embedding, PromptedEmbedding):
        prompt = torch.tensor([model.embedding.ids()] * 2)
        return model(torch.cat([prompt, TOKENS], 1))[:, prompt.shape[1] :]
    return model.logits(prefixed(model, TOKENS))


def theirs_of(ours: Decoder) -> Any:
    """The same model in transformers."""
    values, rows = hf.outgoing(ours.config)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values)).eval()
    theirs.load_state_dict(dict(hf.written_out(rows, ours.state_dict().__getitem__)), strict=False)
    theirs.tie_weights()
    return theirs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_it_starts_as_its_words_and_nothing_else_learns(kind: Any, family: str) -> None:
    tokenizer = make_tokenizer()
    words = tokenizer.encode("the film was good")
    model, base = fresh(family), fresh(family)
    attach_soft(model, tokenizer, SoftConfig(kind=kind, tokens=len(words), words="the film was good"), seed=0)
    before = torch.tensor([words] * 2)
    wanted = base(torch.cat([before, TOKENS], 1))[:, len(words) :]
    torch.testing.assert_close(behind(model), wanted, atol=1e-4, rtol=1e-4)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == ({"embedding.prompt"} if kind == "prompt" else {"prefix.keys", "prefix.values"})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_peft_reads_what_was_written_and_so_do_we(kind: Any, family: str, tmp_path: Path) -> None:
    ours = fresh(family)
    theirs = theirs_of(ours)
    attach_soft(ours, make_tokenizer(), SoftConfig(kind=kind, tokens=5), seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    if kind == "prompt":
        write_prompt(prompt_of(ours), ours, tmp_path, "base")
        assert torch.equal(read_prompt(tmp_path, ours), prompt_of(ours))
    else:
        write_prefix(*prefix_of(ours), ours, tmp_path, "base")
        assert all(map(torch.equal, read_prefix(tmp_path, ours), prefix_of(ours)))
    model = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    with torch.no_grad():
        wanted = model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits[:, -12:]
        torch.testing.assert_close(behind(ours), wanted, atol=1e-4, rtol=1e-4)
        assert (behind(ours) - fresh(family)(TOKENS)).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_ten_examples_are_learned_by_heart_and_the_model_stands_still(kind: Any, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    model, base = make_model(tokenizer, 128), make_model(tokenizer, 128)
    words = ["film", "answer", "question", "very", "this", "step", "think", "Let", "praise", "Output"]
    given = texts(*((word, ("good", "bad")[number % 2]) for number, word in enumerate(words)))
    praise = task(demonstrations=[], output={"labels": ["good", "bad"]})
    taught = lesson(model, tokenizer, praise, given, SoftConfig(kind=kind, tokens=16), 80, seed=0)
    assert taught.count == len(taught.source) == 10
    config = TrainConfig(
        steps=400, context=80, batch_rows=10, micro_rows=10, compile=False, precision="float32",
        optimizer=OptimizerConfig(adam_lr=0.1),
    )  # fmt: skip
    outcome = train(model, taught.objective, taught.source, config, tmp_path)
    losses = [row["loss"] for row in outcome.journal]
    assert losses[0] > 2
    assert losses[-1] < 0.05
    assert set(outcome.weights) >= taught.fresh
    for name, weight in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_rows_begin_with_the_prompt_which_is_not_learned_to_be_said() -> None:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    given = texts(("film", "good"), ("the film was very fine", "bad"))
    taught = lesson(model, tokenizer, task(demonstrations=[]), given, SoftConfig(tokens=3), 80, seed=0)
    batch = taught.source.batch(0, 2)
    size = tokenizer.size
    assert batch.tokens[:, :3].tolist() == [[size, size + 1, size + 2]] * 2
    assert batch.weights is not None
    assert not batch.weights[:, :3].any()
    assert batch.weights[:, -1].any()
    assert batch.tokens.shape[1] < 80
    alone = [taught.source.batch(number, 1) for number in range(2)]
    for row, one in enumerate(alone):
        assert torch.equal(batch.tokens[row, : one.tokens.shape[1]], one.tokens[0])
    with pytest.raises(UserError, match="short_rows: a soft prompt stands before whole rows"):
        batch.cut(2)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    tokenizer, praise = make_tokenizer(), task(demonstrations=[])
    with pytest.raises(UserError, match="79 leave no room in rows of 80"):
        lesson(make_model(tokenizer), tokenizer, praise, texts(("a", "good")), SoftConfig(tokens=79), 80, 0)
    with pytest.raises(UserError, match="there are no examples to learn from"):
        lesson(make_model(tokenizer), tokenizer, praise, [], SoftConfig(), 80, 0)
    with pytest.raises(UserError, match="fill the model's context of 64"):
        attach_soft(fresh(), tokenizer, SoftConfig(tokens=64), 0)
    model = fresh()
    attach_soft(model, tokenizer, SoftConfig(tokens=2), 0)
    with pytest.raises(UserError, match="a soft prompt already"):
        attach_soft(model, tokenizer, SoftConfig(), 0)
    write_prompt(torch.zeros(3, 16), model, tmp_path, "base")
    with pytest.raises(UserError, match=r"are \(3, 16\); of this model they are \(tokens, 32\)"):
        read_prompt(tmp_path, model)
    with pytest.raises(UserError, match=r"peft_type is 'PROMPT_TUNING'; PREFIX_TUNING is needed"):
        read_prefix(tmp_path, model)
    write_prompt(torch.full((3, 32), torch.nan), model, tmp_path, "base")
    with pytest.raises(UserError, match="hold NaN or infinity"):
        read_prompt(tmp_path, model)


def test_the_start_depends_on_the_seed_alone() -> None:
    tokenizer = make_tokenizer()

    def start(seed: int) -> torch.Tensor:
        model = fresh()
        attach_soft(model, tokenizer, SoftConfig(tokens=4), seed)
        return prompt_of(model)

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert isinstance(Prefix(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)).cache(), list)
