"""Which families there are, and the sizes that one dial gives."""

from typing import Annotated, TypeVar

import torch
from pydantic import Field

from underlay.errors import UserError
from underlay.models.bert import BertConfig
from underlay.models.config import ASPECT, TextConfig
from underlay.models.decoder import Decoder, DecoderConfig
from underlay.models.encoder import Encoder, EncoderConfig
from underlay.models.gemma import GemmaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.models.llama import LlamaConfig
from underlay.models.mistral import MistralConfig
from underlay.models.olmo import OLMoConfig
from underlay.models.qwen import QwenConfig
from underlay.models.roberta import RobertaConfig

AnyDecoder = Annotated[
    GPT2Config | LlamaConfig | MistralConfig | QwenConfig | OLMoConfig | GemmaConfig, Field(discriminator="family")
]
"""The config of any decoder."""
AnyConfig = Annotated[
    GPT2Config | LlamaConfig | MistralConfig | QwenConfig | OLMoConfig | GemmaConfig | BertConfig | RobertaConfig,
    Field(discriminator="family"),
]
"""The config of any text family; `family` says which."""
Model = Decoder | Encoder
"""Any text model."""

DIALLED = {"depth", "width", "heads", "kv_heads", "head_dim", "hidden"}
"""The sizes that follow from one dial."""


C = TypeVar("C", bound=TextConfig)


def sized(config: C, parameters: int) -> C:
    """The same family in the size that comes nearest to so many parameters, embeddings included.

    Widths are multiples of 64 (of 32 below 512, of 16 below 64), depths such that a block of depth comes with some 64
    channels of width. Raises UserError where even the smallest model is more than a tenth larger.
    """
    kept = config.model_dump(exclude=DIALLED, exclude_unset=True)
    best: tuple[float, C] | None = None
    for width in [16, 32, 48, *range(64, 512, 32), *range(512, 16_385, 64)]:
        one, two = (count(type(config)(**kept, depth=depth, width=width)) for depth in (1, 2))
        depth = max(1, round((parameters - one) / (two - one)) + 1)
        if depth > 8 + 3 * width / ASPECT:
            continue  # too thin
        size = one + (depth - 1) * (two - one)
        slant = abs(float(torch.tensor(width / ASPECT / depth).log2()))
        error = abs(size / parameters - 1) + 0.02 * slant
        if best is None or error < best[0]:
            best = error, type(config)(**kept, depth=depth, width=width)
        if one > 2 * parameters:
            break
    assert best is not None
    if count(best[1]) > 1.1 * parameters:
        raise UserError(
            f"{parameters:,} parameters are too few for {config.vocabulary:,} token ids: "
            f"the smallest {config.family} has {count(best[1]):,}; ask for more, or for a smaller vocabulary"
        )
    return best[1]


def count(config: TextConfig) -> int:
    """Number of parameters of a model with this config, without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in blank(config).parameters())


def blank(config: TextConfig) -> Model:
    """The module of a config, with memory for its weights but no weights in it."""
    if isinstance(config, DecoderConfig):
        return Decoder(config)
    assert isinstance(config, EncoderConfig)
    return Encoder(config)
