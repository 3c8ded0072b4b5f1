"""A tiny model that knows nothing, a tokenizer that knows few words, and tasks for it."""

import torch

from underlay.adapt.examples import Example, Form, Label
from underlay.adapt.prompting import Demonstration, Output, Task
from underlay.config.base import parse
from underlay.generate import Engine
from underlay.models import Decoder, LlamaConfig
from underlay.text import Tokenizer, train_tokenizer

WORDS = "good bad fine the film was very Input Output Is this praise answer question N/A Let's think step by step. "


def make_tokenizer() -> Tokenizer:
    return train_tokenizer([WORDS] * 3, 340)


def make_model(tokenizer: Tokenizer, context: int = 512, seed: int = 7) -> Decoder:
    torch.manual_seed(seed)
    shape = {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 64}
    model = LlamaConfig(vocabulary=tokenizer.size, context=context, **shape).build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(10 if name.startswith("blocks.") else 3)
    return model


def make_engine(context: int = 512, path: str = "auto") -> Engine:
    tokenizer = make_tokenizer()
    return Engine(make_model(tokenizer, context), tokenizer, slots=4, path=path)  # type: ignore[arg-type]


def example(body: Form, line: int = 1) -> Example:
    return Example(body, "texts.jsonl", line, "MIT")


def texts(*pairs: tuple[str, str]) -> list[Example]:
    return [example(Label(text, (label,) if label else ()), line) for line, (text, label) in enumerate(pairs, 1)]


def task(**settings: object) -> Task:
    given = {
        "instruction": "Is this praise?",
        "output": {"labels": ["good", "bad", "not so bad"]},
        "demonstrations": [
            {"input": "the film was very fine", "output": "good"},
            {"input": "the film was very bad", "output": "bad"},
            {"input": "it was", "output": "not so bad"},
        ],
    }
    return parse(Task, given | settings, "task")


__all__ = ["Demonstration", "Output", "example", "make_engine", "make_model", "make_tokenizer", "task", "texts"]
