"""What is computed for a token depends on the tokens before it alone, bit for bit."""

import random
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from generate.native.worlds import CONTEXT, FAMILIES, build, missing, read, tokens
from underlay.generate.native import NativeRunner
from underlay.generate.runner import BLOCK, Work

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no native library: {missing()}")

KINDS = [
    ("float32", "float32", "llama"),
    ("bfloat16", "bfloat16", "gpt2"),
    ("int8", "int8", "gemma2"),
    ("int4", "float32", "llama of whole vectors"),
    ("bfloat16", "int8", "olmo3"),
    ("int4", "bfloat16", "qwen3"),
    ("float32", "bfloat16", "mistral"),
    ("int8", "float32", "olmo"),
    *((precision, "float32", "llama that is deep inside") for precision in ("float32", "bfloat16", "int8", "int4")),
]
POOL = 64


@cache
def runner_of(precision: str, kept: str, family: str, threads: int, plain: bool = False) -> NativeRunner:
    """`plain`: one whose blocks nobody else uses."""
    runner = NativeRunner(build(FAMILIES[family]), precision, kept, threads)  # type: ignore[arg-type]
    runner.reserve(POOL)
    return runner


@cache
def alone(precision: str, kept: str, family: str, seed: int) -> Tensor:
    """Each token read by itself, on one thread."""
    return read(runner_of(precision, kept, family, 1, plain=True), tokens(CONTEXT, seed), chunk=1)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@settings(max_examples=12)
@given(data=st.data())
def test_neighbours_chunks_blocks_and_threads_change_no_bit(kind: tuple[str, str, str], data: st.DataObject) -> None:
    runner = runner_of(*kind, data.draw(st.sampled_from([1, 2, 3]), "threads"))
    lengths = data.draw(st.lists(st.integers(1, CONTEXT), min_size=1, max_size=9), "lengths")
    order = random.Random(data.draw(st.integers(0, 99), "blocks")).sample(range(POOL), POOL)
    texts = [tokens(CONTEXT, seed)[:length] for seed, length in enumerate(lengths)]
    places, blocks = [0] * len(texts), []
    for text in texts:
        need = -(-len(text) // BLOCK)
        blocks.append(order[:need])
        order = order[need:]
    while any(place < len(text) for place, text in zip(places, texts, strict=True)):
        works, who = [], []
        for index, text in enumerate(texts):
            left = len(text) - places[index]
            if left and not data.draw(st.booleans(), "waits"):
                chunk = data.draw(st.sampled_from([left, min(left, 19), min(left, 2), 1]), "chunk")
                wanted = data.draw(st.sampled_from([chunk, min(chunk, 3), 1, 0]), "wanted")
                works.append(Work(text[places[index] : places[index] + chunk], places[index], blocks[index], wanted))
                who.append(index)
        if not works:
            continue
        found = torch.split(runner.run(works), [work.wanted for work in works])
        for index, work, logits in zip(who, works, found, strict=True):
            places[index] += len(work.tokens)
            expected = alone(*kind, index)[places[index] - work.wanted : places[index]]
            assert torch.equal(logits, expected)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_what_blocks_held_before_changes_no_bit(kind: tuple[str, str, str]) -> None:
    runner, ids = runner_of(*kind, 2), tokens(CONTEXT)
    assert runner._pool is not None
    for rubbish in (0, 255, 127):  # 255 is not a number to float32 and bfloat16
        runner._pool.fill_(rubbish)
        blocks = list(range(7))
        assert torch.equal(read(runner, ids, blocks, chunk=33), alone(*kind, 0))


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_many_answers_at_once_change_no_bit(kind: tuple[str, str, str]) -> None:
    """So many that each thread has answers of its own."""
    places = [seed % 37 for seed in range(20)]
    texts = [tokens(CONTEXT, seed) for seed in range(len(places))]
    for threads in (2, 3):
        runner = runner_of(*kind, threads)
        blocks = [list(range(3 * index, 3 * index + 3)) for index in range(len(texts))]
        begun = [
            Work(text[:place], 0, own, 0) for text, place, own in zip(texts, places, blocks, strict=True) if place > 0
        ]
        runner.run(begun)
        for step in range(3):
            works = [
                Work([text[place + step]], place + step, own)
                for text, place, own in zip(texts, places, blocks, strict=True)
            ]
            found = runner.run(works)
            for seed, place in enumerate(places):
                assert torch.equal(found[seed], alone(*kind, seed)[place + step])
