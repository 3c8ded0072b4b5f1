"""An engine that answers behind a soft prompt: its tokens stand before every text, and nobody has to say so."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from underlay.adapt.prompting.soft import standing
from underlay.generate import Engine, Request
from underlay.generate.sequence import Handle
from underlay.models import Decoder
from underlay.progress import Progress, silent
from underlay.text import Tokenizer


class PromptedEngine(Engine):
    """Takes the plain path: the native one knows no token that may be read and never said."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, prompt: Tensor, name: str, **settings: Any) -> None:
        """prompt: (tokens, width), of this model; requests may name it as `name`. The other settings are the engine's.

        Raises UserError where the prompt is of another width, and as `Engine` does.
        """
        super().__init__(standing(model, prompt), tokenizer, path="plain", **settings)
        known = model.config.vocabulary
        self._begin, self._name = list(range(known, known + len(prompt))), name
        self.context -= len(prompt)

    @property
    def adapters(self) -> list[str]:
        """The prompt alone."""
        return [self._name]

    def score(self, token_lists: Sequence[Sequence[int]], progress: Progress = silent) -> list[Tensor]:
        """See `Engine.score`; all tokens stand behind the prompt."""
        found = super().score([[*self._begin, *tokens] for tokens in token_lists], progress)
        return [scores[len(self._begin) :] for scores in found]

    def _queue(self, request: Request, prompt: list[int]) -> Handle:
        behind = replace(request, prompt=[*self._begin, *request.prompt], adapter=None)
        return super()._queue(behind, [*self._begin, *prompt])
