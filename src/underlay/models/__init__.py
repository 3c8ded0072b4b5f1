"""Model families: `parts` holds what they share, each family is one file that arranges the parts.

A model is an `nn.Module` built by its own config (`LlamaConfig(...).build()`) and saved as `config.json` beside
safetensors (`storage`). `decoder` and `encoder` are the two trunks; `Batch` is what a model learns from.
"""

from underlay.models.batch import Batch
from underlay.models.decoder import Decoder, DecoderConfig
from underlay.models.encoder import Encoder, EncoderConfig
from underlay.models.families import AnyConfig, AnyDecoder, Model, count, sized
from underlay.models.llama import LlamaConfig

__all__ = [
    "AnyConfig",
    "AnyDecoder",
    "Batch",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "LlamaConfig",
    "Model",
    "count",
    "sized",
]
