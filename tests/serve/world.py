"""A tiny model in a library, and adapters of it, made quickly."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from underlay.library import Artifact, Draft, Library, Order
from underlay.models import LlamaConfig
from underlay.models.storage import save_model
from underlay.text import Tokenizer, train_tokenizer

TEXT = ["The quick brown fox jumps over the lazy dog. ", "日本語の文章と、絵文字 🦊🎉 と café naïve. "]
WIDTH, HEADS, KV_HEADS = 32, 4, 2


def make_model(library: Library, name: str = "tiny", width: int = WIDTH, vocabulary: int = 300) -> Artifact:
    tokenizer = train_tokenizer(TEXT * 5, vocabulary)

    def work(draft: Draft) -> None:
        torch.manual_seed(0)
        model = LlamaConfig(
            vocabulary=tokenizer.size, context=192, width=width, depth=2, heads=HEADS, kv_heads=KV_HEADS, hidden=64
        ).build()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(8)
        save_model(model, draft.folder)
        tokenizer.save(draft.folder)
        draft.metrics["parameters"] = sum(p.numel() for p in model.parameters())

    return library.make(Order("model", name, "import", {"width": width, "vocabulary": vocabulary}), work).artifact


def make_adapter(folder: Path, seed: int = 0, rank: int = 4, width: int = WIDTH, **changes: Any) -> Path:
    """Of all query matrices, strong enough to be seen."""
    folder.mkdir(parents=True)
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": 4 * rank, "target_modules": ["q_proj"]} | changes
    (folder / "adapter_config.json").write_text(json.dumps(values), "utf-8")
    chance = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, width, generator=chance)
        tensors[f"{name}.lora_B.weight"] = torch.randn(width, rank, generator=chance)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def prompt_of(artifact: Artifact, text: str = "The quick brown fox") -> list[int]:
    return Tokenizer.load(artifact.folder).prompt(text)
