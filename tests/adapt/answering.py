"""Teachers that know little but are certain of it, and what can be asked of them."""

import torch

from adapt.preferring import ask, make_model
from underlay.adapt.examples import Conversation, Example, Form, Problem
from underlay.generate import Engine
from underlay.models import Batch, Decoder
from underlay.text import Message, Tokenizer, render
from underlay.train import CausalLM

ANSWERS = {"sky": "blue", "sea": "green", "snow": "white", "night": "black"}
CONTEXT = 160


def learned(model: Decoder, tokenizer: Tokenizer, talks: list[tuple[Message, ...]], steps: int = 80) -> Decoder:
    """The model, once it knows some conversations by heart."""
    rows = [render(tokenizer, talk) for talk in talks]
    time = max(len(ids) for ids, _ in rows)
    assert time < model.config.context
    ids = torch.tensor([row + [0] * (time - len(row)) for row, _ in rows])
    weights = torch.tensor([row + [0.0] * (time - len(row)) for _, row in rows])
    batch = Batch(ids[:, :-1], ids[:, 1:], weights[:, 1:])
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0)
    for _ in range(steps):
        loss = CausalLM()(model, batch)
        (loss.sum / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def talk(*turns: str) -> tuple[Message, ...]:
    return tuple(Message("assistant" if place % 2 else "user", turn) for place, turn in enumerate(turns))


def teacher(tokenizer: Tokenizer, steps: int = 80) -> Engine:
    """Knows the colours of four things, also when it is asked for a second one."""
    talks = [talk(f"colour of {thing}", colour) for thing, colour in ANSWERS.items()]
    talks += [talk(f"colour of {a}", ANSWERS[a], f"colour of {b}", ANSWERS[b]) for a in ANSWERS for b in ANSWERS]
    return Engine(learned(make_model(tokenizer, context=CONTEXT), tokenizer, talks, steps), tokenizer, slots=4)


def said(body: Form) -> str:
    """The last answer of a conversation."""
    assert isinstance(body, Conversation)
    return body.messages[-1].content


def asked(thing: str, answer: str | None = None, line: int = 1, licence: str = "MIT") -> Example:
    return Example(Problem(ask(f"colour of {thing}"), answer), "prompts.jsonl", line, licence, f"document {line}")


def prompts() -> list[Example]:
    return [asked(thing, line=line) for line, thing in enumerate(ANSWERS, 1)]
