"""Model families: `parts` holds what they share, each family is one file that arranges the parts.

A model is an `nn.Module` built by its own config (`LlamaConfig(...).build()`) and saved as `config.json` beside
safetensors (`storage`). `Batch` is what a model learns from.
"""

from underlay.models.batch import Batch
from underlay.models.llama import Llama, LlamaConfig, LlamaShape

__all__ = ["Batch", "Llama", "LlamaConfig", "LlamaShape"]
