"""Bits per byte against its definition, and functions against Python's own parser."""

import lzma
import math

import pytest
import torch

from underlay.adapt import Pair
from underlay.data import Document, PackConfig, pack, write_corpus
from underlay.evaluate.compression import compare, xz_bits
from underlay.evaluate.functions import cut_body, sample_functions
from underlay.generate import Engine
from underlay.models import LlamaConfig
from underlay.text import train_tokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    texts = [f"def f{n}(x):\n    return x + {n}  # ✓\n" * (n % 6 + 1) for n in range(30)]
    documents = [Document(text, f"{n}.py", 1, 9, "MIT", "python") for n, text in enumerate(texts)]
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), documents, [])
    tokenizer = train_tokenizer(texts, 300)
    folder = tmp_path_factory.mktemp("dataset")
    pack(corpus, tokenizer, PackConfig(heldout=0.3), folder)
    torch.manual_seed(0)
    model = LlamaConfig(
        vocabulary=tokenizer.size, context=64, width=16, depth=1, heads=2, kv_heads=2, hidden=16
    ).build()
    return documents, tokenizer, folder, model


def test_bits_per_byte_is_the_models_loss_over_the_bytes(world) -> None:
    from underlay.data import Dataset

    documents, tokenizer, folder, model = world
    heldout = Dataset(folder, "heldout")
    result = compare(Engine(model, tokenizer), heldout, documents, max_bytes=10**9)
    by_id = {document.id: document for document in documents}
    assert result.bytes == sum(len(by_id[id_].text.encode()) for id_ in heldout.ids)
    short = min(range(len(heldout.ids)), key=lambda n: heldout.document(n).end - heldout.document(n).start)
    document = heldout.document(short)
    tokens = torch.from_numpy(heldout.tokens[document.start : document.end].astype("int64"))[None]
    assert tokens.shape[1] <= 64
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:], reduction="sum")
    score = next(file for file in result.files if file.source == document.source)
    assert score.model_bits == pytest.approx(float(nats) / math.log(2), rel=1e-4)


def test_an_untrained_model_is_as_good_as_guessing(world) -> None:
    from underlay.data import Dataset

    documents, tokenizer, folder, model = world
    heldout = Dataset(folder, "heldout")
    result = compare(Engine(model, tokenizer), heldout, documents, max_bytes=10**9)
    tokens = len(heldout) - len(heldout.ids)
    assert result.model_bits_per_byte == pytest.approx(tokens * math.log2(tokenizer.size) / result.bytes, rel=0.05)


def test_no_more_than_asked_is_scored(world) -> None:
    from underlay.data import Dataset

    documents, tokenizer, folder, model = world
    heldout = Dataset(folder, "heldout")
    first = next(len(document.text.encode()) for document in documents if document.id == heldout.ids[0])
    one = compare(Engine(model, tokenizer), heldout, documents, max_bytes=1)
    assert one.bytes == first
    more = compare(Engine(model, tokenizer), heldout, documents, max_bytes=first + 700)
    assert first < more.bytes <= first + 700


def test_xz_is_the_real_one() -> None:
    data = b"abc" * 1000
    assert xz_bits(data) == 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


@pytest.mark.parametrize(
    ("text", "whole", "body"),
    [
        ("    return 1\n", True, "    return 1\n"),
        ("    return 1\ndef g():\n    pass\n", True, "    return 1\n"),
        ("    if x:\n\n        return 1\n    retu", False, "    if x:\n\n        return 1\n"),
        ("    return 1", True, "    return 1\n"),
        ("    return 1", False, "\n"),
        ("x", True, "\n"),
    ],
)
def test_bodies_end_where_the_function_ends(text: str, whole: bool, body: str) -> None:
    assert cut_body(text, whole) == body


def test_samples_are_judged_by_the_parser(world, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tokenizer, _, model = world
    engine = Engine(model, tokenizer)
    pairs = [Pair('def f(x):\n    """Add."""\n', "", "d", 1)] * 3
    samples = sample_functions(engine, tokenizer, pairs, instruct=True, max_tokens=8, seed=0)
    assert len(samples) == 3
    for sample in samples:
        try:
            compile(sample.prompt + sample.body, "f", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            assert not sample.valid
        else:
            assert sample.valid == bool(sample.body.strip())
    again = sample_functions(engine, tokenizer, pairs, instruct=True, max_tokens=8, seed=0)
    assert again == samples
