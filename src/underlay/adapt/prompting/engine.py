"""An engine that answers behind a soft prompt: its tokens stand before every text that names it, as an adapter."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from underlay.adapt.prompting.soft import standing
from underlay.generate import Engine, Request
from underlay.generate.sequence import Handle
from underlay.models import Decoder
from underlay.text import Tokenizer


class PromptedEngine(Engine):
    """Takes the plain path: the native one knows no token that may be read and never said."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, prompt: Tensor, name: str, **settings: Any) -> None:
        """prompt: (tokens, width), of this model; requests may name it as `name`, others are answered without it.

        The other settings are the engine's. Raises UserError where the prompt is of another width, or as `Engine` does.
        """
        super().__init__(standing(model, prompt), tokenizer, path="plain", **settings)
        known = model.config.vocabulary
        self.begin, self._name = list(range(known, known + len(prompt))), name
        """The prompt's tokens, for who writes prompts by their ids."""
        self.context -= len(prompt)

    @property
    def adapters(self) -> list[str]:
        """The prompt alone."""
        return [self._name]

    def _queue(self, request: Request, prompt: list[int]) -> Handle:
        if request.adapter is None:
            return super()._queue(request, prompt)
        behind = replace(request, prompt=[*self.begin, *request.prompt], adapter=None)
        return super()._queue(behind, [*self.begin, *prompt])
