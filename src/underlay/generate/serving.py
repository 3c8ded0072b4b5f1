"""What a server asks of an engine, whichever it is, and what every engine checks of a request.

The server drives an engine from one thread: `submit` queues a request, `step` moves all of them on and says what
happened. Our own `Engine` is one; the server has another that hands over to vLLM.
"""

from collections.abc import Collection, Sequence
from operator import index
from pathlib import Path
from typing import Any, Protocol

from underlay.generate.request import ContextLengthError, ParameterError, Request
from underlay.generate.sequence import Reply, TokenEvent
from underlay.text import Tokenizer


class ServingEngine(Protocol):
    """Answers requests that come and go. For use by one thread at a time, but where it says otherwise."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""

    @property
    def slots(self) -> int:
        """How many requests are answered at once."""

    @property
    def adapters(self) -> list[str]:
        """The adapters that requests may name. From any thread."""

    @property
    def running(self) -> int:
        """Requests that hold a slot."""

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""

    @property
    def busy(self) -> bool:
        """Whether any request is still to be answered."""

    def check(self, request: Request) -> None:
        """Raise ParameterError where the request cannot be honoured. From any thread."""

    def submit(self, request: Request) -> Reply:
        """Queue a request. Raises UserError where it cannot be honoured."""

    def step(self) -> Sequence[TokenEvent]:
        """Move answers forward, and end those that were cancelled."""

    def read_adapter(self, folder: Path) -> Any:
        """What `add_adapter` takes, from a folder of `peft`. From any thread. Raises UserError."""

    def add_adapter(self, name: str, adapter: Any) -> None:
        """Let requests name an adapter. Raises UserError where the name is taken, or it cannot be had."""

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter. Raises UserError where there is none of that name, or requests still need it."""


def check_fits(request: Request, context: int, vocabulary: int, adapters: Collection[str]) -> None:
    """Raise ParameterError where a model of this context and vocabulary, with these adapters, cannot honour it."""
    length, wanted = len(request.prompt), request.max_tokens
    if request.truncate and wanted < context:
        length = min(length, context - wanted)
    if length + wanted > context:
        raise ContextLengthError(
            "prompt" if length >= context else "max_tokens",
            f"{length} prompt tokens and up to {wanted} new ones make {length + wanted}, "
            f"the model's context holds {context}",
        )
    last = vocabulary - 1
    try:
        least, most = min(map(index, request.prompt)), max(map(index, request.prompt))
    except TypeError as error:
        raise ParameterError("prompt", "holds something other than a token id, which is a whole number") from error
    if least < 0 or most > last:
        raise ParameterError("prompt", f"holds a token id outside 0..{last}")
    if any(not 0 <= token <= last for token in request.sampling.bias):
        raise ParameterError("bias", f"names a token id outside 0..{last}")
    if request.adapter is not None and request.adapter not in adapters:
        known = ", ".join(sorted(adapters)) or "none"
        raise ParameterError("adapter", f"there is no {request.adapter!r}; loaded: {known}")


def fitted(request: Request, context: int, start: Sequence[int]) -> list[int]:
    """The prompt as it is read: where it is too long and may be cut, without its beginning.

    start: what every prompt of the tokenizer begins with; it is kept, where there is room.
    """
    prompt, start = list(map(index, request.prompt)), list(start)
    if (over := len(prompt) + request.max_tokens - context) > 0:
        kept = len(start) if prompt[: len(start)] == start and len(start) < len(prompt) - over else 0
        prompt = prompt[:kept] + prompt[kept + over :]
    return prompt
