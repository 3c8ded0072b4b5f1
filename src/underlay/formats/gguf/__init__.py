"""GGUF, the format of llama.cpp: written from our models, compared with what llama.cpp makes of it."""

from underlay.formats.gguf.arrangement import ARCHITECTURES, ModelFacts
from underlay.formats.gguf.describe import facts_of, tokenizer_facts
from underlay.formats.gguf.exporter import Exported, export
from underlay.formats.gguf.quantize import KINDS, Kind
from underlay.formats.gguf.vocabulary import TokenizerFacts

__all__ = [
    "ARCHITECTURES",
    "KINDS",
    "Exported",
    "Kind",
    "ModelFacts",
    "TokenizerFacts",
    "export",
    "facts_of",
    "tokenizer_facts",
]
