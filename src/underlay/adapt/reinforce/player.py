"""Answers by the model that is being trained: the one engine, kept in step with its weights.

Low-rank changes are given to an engine that keeps the frozen weights, as a fresh adapter each time. Where all weights
learn, an engine is made of them each time: on a CPU packing costs little (14 million weights: 0.05 s), and the native
path then answers four times as fast as the modules would that train.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from underlay.adapt.lora import adapter_of
from underlay.generate import Answer, Engine, Request
from underlay.models import Decoder
from underlay.models.families import blank
from underlay.models.parts import LoraLinear, computed
from underlay.progress import Progress, silent
from underlay.text import Tokenizer

SLOTS = 64
"""Most answers that are written at once."""
_ADAPTER = "learned"


class Player:
    """Answers requests with a model's weights as they are at the moment."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
        """dtype: what the model is trained in; answers are made in the same."""
        self._model, self._tokenizer, self._dtype = model, tokenizer, dtype
        self._low_rank = any(isinstance(module, LoraLinear) for module in model.modules())
        self._engine: Engine | None = None

    @torch.no_grad()
    def play(self, requests: Sequence[Request], progress: Progress = silent) -> list[Answer]:
        """Answer all, in their order. Raises UserError where a weight is not a number, or a request does not fit."""
        if not self._low_rank:
            return self._made(self._model).generate(requests, progress)
        if self._engine is None:
            self._engine = self._made(base_of(self._model))
        self._engine.add_adapter(_ADAPTER, adapter_of(self._model))
        try:
            return self._engine.generate([replace(one, adapter=_ADAPTER) for one in requests], progress)
        finally:
            self._engine.drop_adapter(_ADAPTER)

    def _made(self, model: Decoder) -> Engine:
        exact = computed(self._dtype, model.embedding.weight.device) is torch.float32
        return Engine(model, self._tokenizer, SLOTS, "float32" if exact else "bfloat16")


def base_of(model: Decoder) -> Decoder:
    """What a model was before low-rank changes, or a head for a task, were put on it; on the same memory."""
    with torch.device("meta"):
        base = blank(model.config.model_copy(update={"task": None}))
    assert isinstance(base, Decoder)
    own = dict(model.named_parameters())
    base.load_state_dict({name: own[name].detach() for name, _ in base.named_parameters()}, assign=True)
    return base.requires_grad_(False).eval()


def starting(model: Decoder) -> Decoder:
    """A model that stays as this one is: on its frozen memory where only low-rank changes learn, else a copy."""
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        return base_of(model)
    return base_of(copy.deepcopy(model))
