from collections.abc import Callable

import pytest
import torch

from underlay.generate import Engine
from underlay.models import Decoder, LlamaConfig
from underlay.text import Tokenizer, train_tokenizer

TEXT = [
    "The quick brown fox jumps over the lazy dog. ",
    "日本語の文章と、絵文字 🦊🎉 と café naïve. ",
    "def add(a, b):\n    return a + b\n",
]
MakeModel = Callable[..., Decoder]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXT * 5, 300)


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Tiny random models, peaked enough for their tokens to depend on what was read."""

    def make(vocabulary: int, seed: int = 0, **shape: int) -> Decoder:
        torch.manual_seed(seed)
        sizes = {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 64, "context": 192} | shape
        model = LlamaConfig(vocabulary=vocabulary, **sizes).build()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(8)
        return model

    return make


@pytest.fixture(scope="session")
def model(make_model: MakeModel, tokenizer: Tokenizer) -> Decoder:
    return make_model(tokenizer.size)


@pytest.fixture
def engine(model: Decoder, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer, slots=4)
