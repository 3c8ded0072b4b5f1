"""A small tokenizer, a small model, and pairs, for tests of preferences."""

from pathlib import Path

import torch

from underlay.adapt.examples import Example, Examples, Form, Preference, write_examples
from underlay.models import Decoder, LlamaConfig
from underlay.text import Message, Tokenizer, train_tokenizer

WORDS = "what is the colour of sky sea grass snow night it is blue green white black I do not know and do not care"


def make_tokenizer() -> Tokenizer:
    return train_tokenizer([WORDS] * 3, 300)


def make_model(tokenizer: Tokenizer, seed: int = 0, context: int = 96, depth: int = 2) -> Decoder:
    torch.manual_seed(seed)
    return LlamaConfig(
        vocabulary=tokenizer.size, context=context, width=48, depth=depth, heads=4, kv_heads=2, hidden=96
    ).build()


def example(body: Form, line: int = 1) -> Example:
    return Example(body, "pairs.jsonl", line, "MIT")


def ask(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def ten_pairs() -> list[Example]:
    """Of several lengths; what makes the chosen answers better differs from pair to pair."""
    things = [("sky", "blue"), ("sea", "green"), ("grass", "green"), ("snow", "white"), ("night", "black")]
    pairs = []
    for number, (thing, colour) in enumerate(things):
        other = things[(number + 2) % 5][1] if things[(number + 2) % 5][1] != colour else "white"
        pairs.append(Preference(ask(f"colour of {thing}"), f"it is {colour}", f"it is {other}"))
        long = ask("what is the colour of the " + f"{thing} and " * (number + 1) + thing)
        pairs.append(Preference(long, colour, "I do not know and do not care"))
    return [example(pair, line) for line, pair in enumerate(pairs, 1)]


def examples(folder: Path, given: list[Example] | None = None) -> Examples:
    folder.mkdir(exist_ok=True)
    return write_examples(ten_pairs() if given is None else given, folder)
