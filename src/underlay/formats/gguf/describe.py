"""What a GGUF file says of a model and its tokenizer, from our own descriptions of them."""

import json
import tempfile
from pathlib import Path
from typing import Any

from underlay.errors import UserError
from underlay.formats.gguf.arrangement import ModelFacts
from underlay.formats.gguf.vocabulary import TokenizerFacts
from underlay.models.config import TextConfig
from underlay.models.decoder import RotaryConfig
from underlay.models.encoder import EncoderConfig
from underlay.models.olmo import OLMoConfig
from underlay.models.qwen import QwenConfig
from underlay.text import Special, Tokenizer
from underlay.text.files import TOKENIZER

# Mistral's blocks are Llama's; llama.cpp has one architecture for both.
_ARCHITECTURES = {"mistral": "llama"}
_KNOWN = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "bert")


def facts_of(config: TextConfig, name: str) -> ModelFacts:
    """The facts of a model; raises UserError where GGUF, as it is written here, has no place for one of them."""
    if config.family not in _KNOWN:
        raise UserError(
            f"a {config.family} cannot be written as GGUF yet; {', '.join(_KNOWN)} can; --format hf can too"
        )
    refused = {key: getattr(config, key, None) for key in ("position_free_every", "experts")}
    if isinstance(config, QwenConfig | OLMoConfig):
        refused["full_layers"] = config.full_layers
    for key, value in refused.items():
        if value:
            raise UserError(f"{key}: {value} has no place in GGUF, as it is written here; --format hf keeps it")
    more: dict[str, Any] = {}
    if isinstance(config, EncoderConfig):
        if config.pooling == "last":
            raise UserError("pooling: last has no place in GGUF for a bert; mean and cls have")
        more = {"activation": config.activation, "pooling": config.pooling}
    elif isinstance(config, RotaryConfig):
        scaling = config.rope_scaling
        if scaling is not None and scaling.original_context is None:
            scaling = scaling.model_copy(update={"original_context": config.context})
        more = {"activation": "silu", "rope_base": config.rope_base, "rope_scaling": scaling}
        more["window"] = config.window(0)
    return ModelFacts(
        architecture=_ARCHITECTURES.get(config.family, config.family),
        vocabulary=config.vocabulary,
        context=config.context,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        hidden=config.hidden,
        norm_eps=config.norm_eps,
        tied=config.tied,
        name=name,
        **more,
    )


def tokenizer_facts(tokenizer: Tokenizer, encoder: bool) -> TokenizerFacts:
    """A tokenizer as GGUF's writer wants it; `encoder`: whether texts are framed by its marks."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        document = json.loads((Path(folder) / TOKENIZER).read_text("utf-8"))

    def role(special: Special) -> int | None:
        return tokenizer.special(special) if tokenizer.has(special) else None

    framed = tokenizer.frame("").ids
    template = tokenizer.config.get("chat_template")
    begins = role(Special.CLS) if encoder else role(Special.BOS)
    ends = role(Special.SEP) if encoder else role(Special.EOS)
    return TokenizerFacts(
        document,
        bos=role(Special.BOS),
        eos=role(Special.EOS),
        end_of_turn=role(Special.END),
        unknown=role(Special.UNK),
        padding=role(Special.PAD),
        separator=role(Special.SEP),
        classification=role(Special.CLS),
        mask=role(Special.MASK),
        add_bos=bool(framed) and framed[0] == begins,
        add_eos=bool(framed) and framed[-1] == ends,
        chat_template=template if isinstance(template, str) else None,
    )
