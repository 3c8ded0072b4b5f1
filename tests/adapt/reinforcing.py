"""A small model that answers any prompt with one of four colours, and problems that ask for one of them."""

from pathlib import Path
from typing import Any

import torch

from adapt.preferring import ask, example, make_model, make_tokenizer
from underlay.adapt.examples import Example, Problem
from underlay.adapt.lesson import Lesson
from underlay.adapt.reinforce import ReinforceConfig, lesson
from underlay.models import Batch, Decoder
from underlay.progress import Progress, silent
from underlay.text import Message, Tokenizer, render
from underlay.train import CausalLM, Outcome, TrainConfig, train
from underlay.train.config import OptimizerConfig

COLOURS = ("blue", "green", "white", "black")
CONTEXT = 24
ADAM = OptimizerConfig(muon=False, adam_lr=4e-3)

__all__ = ["ADAM", "COLOURS", "CONTEXT", "beginner", "configured", "make_tokenizer", "problems", "run", "taught"]


def problems() -> list[Example]:
    return [example(Problem(ask(f"colour is {colour}"), colour), line) for line, colour in enumerate(COLOURS, 1)]


def beginner(tokenizer: Tokenizer, seed: int = 0) -> Decoder:
    """A model that knows how to answer, but not what: any colour comes after any prompt."""
    model = make_model(tokenizer, seed, context=CONTEXT)
    talks = [(*ask(f"colour is {one}"), Message("assistant", other)) for one in COLOURS for other in COLOURS]
    rows = [render(tokenizer, talk) for talk in talks]
    time = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (time - len(row)) for row, _ in rows])
    weights = torch.tensor([row + [0.0] * (time - len(row)) for _, row in rows])
    batch = Batch(ids[:, :-1], ids[:, 1:], weights[:, 1:])
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0)
    for _ in range(40):
        loss = CausalLM()(model, batch)
        (loss.sum / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def configured(steps: int, rows: int = 32, micro: int | None = None, **others: Any) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        context=CONTEXT,
        batch_rows=rows,
        micro_rows=micro or rows,
        optimizer=ADAM,
        outliers=None,
        precision="float32",
        compile=False,
        **others,
    )


def taught(
    model: Decoder, tokenizer: Tokenizer, folder: Path, config: TrainConfig, reward: Any = "matches", **settings: Any
) -> Lesson:
    named = reward if isinstance(reward, str) else None
    chosen = ReinforceConfig(**{"reward": named, "max_tokens": 6, **settings})
    given = None if named else reward
    return lesson(model, tokenizer, problems(), chosen, CONTEXT, 0, config, folder, reward=given)


def run(made: Lesson, folder: Path, config: TrainConfig, progress: Progress = silent) -> Outcome:
    return train(made.model, made.objective, made.source, config, folder, progress)
