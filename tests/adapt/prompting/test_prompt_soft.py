"""Soft prompts learn in front of a model that stands still, and peft reads what was learned."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from prompt_world import make_model, make_tokenizer, task, texts

from underlay.adapt.prompting import answer, measure
from underlay.adapt.prompting.lesson import lesson
from underlay.adapt.prompting.soft import (
    PromptedEmbedding,
    SoftConfig,
    attach_soft,
    prefix_of,
    prefixed,
    prompt_of,
    standing,
)
from underlay.errors import UserError
from underlay.formats import hf
from underlay.formats.soft_prompts import read_prefix, read_prompt, write_prefix, write_prompt
from underlay.generate import Engine, Request, Sampling
from underlay.models import Decoder, LlamaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.text import Tokenizer
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


WORDS = ["film", "answer", "question", "very", "this", "step", "think", "Let", "praise", "Output"]
TEN = texts(*((word, ("good", "bad")[number % 2]) for number, word in enumerate(WORDS)))
PRAISE = task(demonstrations=[], output={"labels": ["good", "bad"]})


def willing(tokenizer: Tokenizer) -> Decoder:
    """A model whose layers weigh more than its words, so that what stands before them can lead it anywhere."""
    torch.manual_seed(0)
    shape = {"width": 64, "depth": 2, "heads": 4, "hidden": 128, "context": 128}
    model = LlamaConfig(vocabulary=tokenizer.size, tied=False, **shape).build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(5 if name.startswith("blocks.") else 20 if name.startswith("head.") else 1)
    return model


def taught(kind: Any, scratch: Path, steps: int, stop: int | None = None) -> tuple[Decoder, list[float], Any]:
    """A soft prompt that learned TEN; with `stop` the run is interrupted there, after a checkpoint."""
    tokenizer = make_tokenizer()
    model = willing(tokenizer)
    lecture = lesson(model, tokenizer, PRAISE, TEN, SoftConfig(kind=kind, tokens=16), 80, seed=0)
    assert lecture.count == len(lecture.source) == 10
    config = TrainConfig(
        steps=steps,
        context=80,
        batch_rows=10,
        micro_rows=10,
        compile=False,
        precision="float32",
        checkpoint_seconds=1e-6 if stop else 100,
        optimizer=OptimizerConfig(adam_lr=0.05),
    )
    source: Any = lecture.source
    if stop is not None:
        source = Interrupted(lecture.source, stop)
    outcome = train(model, lecture.objective, source, config, scratch)
    return model, [row["loss"] for row in outcome.journal], outcome


class Interrupted:
    """A source that fails after so many batches."""

    def __init__(self, source: Any, most: int) -> None:
        self.source, self.left = source, most

    def batch(self, first: int, count: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.source.batch(first, count)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_ten_examples_are_learned_by_heart_and_the_model_stands_still(kind: Any, tmp_path: Path) -> None:
    model, losses, outcome = taught(kind, tmp_path, 100)
    assert losses[0] > 5
    assert losses[-1] < 0.02
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learned == ({"embedding.prompt"} if kind == "prompt" else {"prefix.keys", "prefix.values"})
    base = willing(make_tokenizer())
    for name, weight in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    if kind == "prompt":
        whole = standing(base, outcome.weights["embedding.prompt"])
        engine = Engine(whole, make_tokenizer(), path="plain")
        begin = range(make_tokenizer().size, whole.config.vocabulary)
        found = answer(engine, PRAISE, TEN, begin=begin)
        assert measure(PRAISE, found, TEN)["accuracy"].value == 1
        assert measure(PRAISE, answer(engine, PRAISE, TEN), TEN)["accuracy"].value < 1


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_stopped_and_resumed_equals_never_stopped(kind: Any, tmp_path: Path) -> None:
    _, losses, outcome = taught(kind, tmp_path / "one", 8)
    with pytest.raises(KeyboardInterrupt):
        taught(kind, tmp_path / "two", 8, stop=5)
    _, again, resumed = taught(kind, tmp_path / "two", 8)
    assert again == losses
    assert outcome.weights.keys() == resumed.weights.keys()
    assert all(torch.equal(outcome.weights[name], resumed.weights[name]) for name in outcome.weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_standing_model_says_what_the_prompted_one_says_and_never_a_prompt(family: str) -> None:
    tokenizer = make_tokenizer()
    model = fresh(family)
    attach_soft(model, tokenizer, SoftConfig(tokens=3), 0)
    whole = standing(fresh(family), prompt_of(model))
    ids = [340, 341, 342, *TOKENS[0].tolist()]
    with torch.inference_mode():
        wanted = behind(model).log_softmax(-1)[0]
        found = whole(torch.tensor([ids]))[0]
    assert found[:, 340:].eq(-torch.inf).all()
    torch.testing.assert_close(found[3:, :340].log_softmax(-1), wanted, atol=1e-4, rtol=0)
    engine = Engine(whole, tokenizer, path="plain")
    scored = engine.score([ids])[0][3:]
    torch.testing.assert_close(scored, wanted[:-1].gather(1, TOKENS[0][1:, None])[:, 0], atol=1e-4, rtol=0)
    said = engine.generate([Request(ids, max_tokens=40, sampling=Sampling(temperature=9.0), stop_ids=frozenset())])
    assert max(said[0].ids) < 340
    with pytest.raises(UserError, match=r"the prompt is \(3, 16\), the model is 32 wide"):
        standing(fresh(family), torch.zeros(3, 16))


def test_rows_begin_with_the_prompt_which_is_not_learned_to_be_said() -> None:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    given = texts(("film", "good"), ("the film was very fine", "bad"))
    source = lesson(model, tokenizer, task(demonstrations=[]), given, SoftConfig(tokens=3), 80, seed=0).source
    batch = source.batch(0, 2)
    size = tokenizer.size
    assert batch.tokens[:, :3].tolist() == [[size, size + 1, size + 2]] * 2
    assert batch.weights is not None
    assert not batch.weights[:, :3].any()
    assert batch.weights[:, -1].any()
    assert batch.tokens.shape[1] < 80
    alone = [source.batch(number, 1) for number in range(2)]
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
