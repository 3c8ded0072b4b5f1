"""A decoder that learned from rearranged documents writes what stands between two texts."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from underlay.data import MiddleConfig, Middles
from underlay.generate import Answer, Engine, Request, Sampling
from underlay.models import Batch, LlamaConfig
from underlay.text import Gap, Special, Tokenizer, train_tokenizer
from underlay.train import CausalLM, TrainConfig, train
from underlay.train.optimizer import OptimizerConfig

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONTEXT, KNOWN = 48, 1600


def run(first: int, length: int) -> str:
    """Letters in their order: what is missing in them is known from both sides."""
    return "".join(LETTERS[(first + place) % 26] for place in range(length))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["x"], 266, fim=True)


class Runs:
    """Rows of runs of letters."""

    seed = 0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def batch(self, first: int, count: int) -> Batch:
        bos, eos = map(self.tokenizer.special, (Special.BOS, Special.EOS))
        rows = []
        for sample in range(first, first + count):
            random, row = np.random.default_rng([7, sample]), list[int]()
            while len(row) <= CONTEXT:
                row += [bos, *self.tokenizer.encode(run(random.integers(26), random.integers(14, 26))), eos]
            rows.append(row[: CONTEXT + 1])
        tokens = torch.tensor(rows)
        return Batch(tokens[:, :-1], tokens[:, 1:])


def filled(tokenizer: Tokenizer, source: Runs | Middles, folder: Path) -> float:
    """Share of gaps that a model fills as they were, to the letter, once it has learned from the source."""
    torch.manual_seed(0)
    shape = LlamaConfig(vocabulary=tokenizer.size, context=64, width=32, depth=2, heads=2, hidden=64)
    model, read = shape.build(), cache(source.batch)

    class Few:
        def batch(self, first: int, count: int) -> Batch:
            return read(first % KNOWN, count)

    rates = OptimizerConfig(lr=0.03, adam_lr=0.02)
    config = {"steps": 250, "batch_rows": 24, "micro_rows": 24, "context": CONTEXT, "optimizer": rates}
    train(model, CausalLM(), Few(), TrainConfig(precision="float32", compile=False, **config), folder)
    gap, random = Gap(tokenizer), np.random.default_rng(1)
    requests, wanted = [], []
    for _ in range(40):
        text = run(random.integers(26), length := random.integers(14, 20))
        low, high = np.sort(random.choice(np.arange(3, length - 2), 2, replace=False))
        prompt = gap.prompt(text[:low], text[high:])
        requests.append(Request(prompt, 20, Sampling(0.0), stop_ids=gap.stop_ids))
        wanted.append(text[low:high])
    answers = Engine(model, tokenizer, slots=16).generate(requests)
    return sum(map(right, answers, wanted)) / len(wanted)


def right(answer: Answer, wanted: str) -> bool:
    return (answer.text, answer.finish) == (wanted, "stop")


def test_it_learns_to_fill_gaps_from_rearranged_documents_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    runs = Runs(tokenizer)
    assert filled(tokenizer, Middles(runs, tokenizer, MiddleConfig(rate=0.9)), tmp_path / "with") >= 0.8
    assert filled(tokenizer, runs, tmp_path / "without") <= 0.2
