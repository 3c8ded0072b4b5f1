"""One request on its way: its tokens so far, what of them is in memory and where, and what has been said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from underlay.generate.blocks import Prefix, prefix, root
from underlay.generate.request import Answer, FinishReason, Request, TokenLogprob
from underlay.generate.runner import BLOCK
from underlay.generate.sampler import Sampler
from underlay.generate.stop import TextStream


class Reply:
    """What has come of a request so far; whoever submitted it holds this, whichever engine answers."""

    def __init__(self, request: Request, prompt_length: int, stop_ids: frozenset[int]) -> None:
        """Take how long the prompt is as it is read: shorter than the request's where that could be cut."""
        self.request = request
        self.finish: FinishReason | None = None
        """Why the answer ended; None while it goes on."""
        self.error: str | None = None
        """Why it failed, where it did."""
        self.ids: list[int] = []
        """The answer so far."""
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.prompt_length = prompt_length
        self.cached = 0
        """Tokens of the prompt that were found in memory when it was first admitted."""
        self.cancelled = False
        self._stop_ids = stop_ids
        self._stream = TextStream(request.stop)
        self._text: list[str] = []

    def cancel(self) -> None:
        """Stop as soon as the next step begins; harmless when the answer has ended. May be called from any thread."""
        self.cancelled = True

    def answer(self) -> Answer:
        """The whole answer. Only once it has ended."""
        assert self.finish is not None, "the answer has not ended"
        return Answer(
            ids=list(self.ids),
            text="".join(self._text),
            finish=self.finish,
            prompt_tokens=self.prompt_length,
            logprobs=None if self.request.logprobs is None else list(self.logprobs),
            prompt_logprobs=None if self.request.prompt_logprobs is None else list(self.prompt_logprobs),
            cached_tokens=self.cached,
            truncated_tokens=len(self.request.prompt) - self.prompt_length,
            error=self.error,
        )

    def take(self, token: int, data: bytes, logprob: TokenLogprob | None, complete: bool = False) -> "TokenEvent":
        """Take the next token of the answer; `data`: its bytes, `complete`: whether nothing can follow it."""
        self.ids.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        full = len(self.ids) == self.request.max_tokens
        done = token in self._stop_ids or complete
        text = self._stream.push(data, last=full or done)
        if done or self._stream.stopped:
            self.finish = "stop"
        elif full:
            self.finish = "length"
        self._text.append(text)
        return TokenEvent(self, token, text, logprob, self.finish)

    def end(self, finish: FinishReason, error: str | None = None) -> "TokenEvent":
        """End without another token."""
        text = self._stream.push(b"", last=True)
        self._text.append(text)
        self.finish, self.error = finish, error
        return TokenEvent(self, None, text, None, finish)


class Handle(Reply):
    """A request on its way through our engine: its tokens, and what of them is in memory."""

    def __init__(
        self,
        request: Request,
        prompt: Sequence[int],
        stop_ids: frozenset[int],
        sampler: Sampler,
        on_cancel: Callable[["Handle"], None],
    ) -> None:
        """Take the prompt as it is read, which is the request's unless that was too long and could be cut.

        on_cancel: told of this handle when it is cancelled, in that thread.
        """
        super().__init__(request, len(prompt), stop_ids)
        self._on_cancel = on_cancel
        self.tokens = list(prompt)
        """Prompt and answer."""
        self.read = 0
        """How many of the tokens are in memory; at least one is not, while the answer goes on."""
        self.blocks: list[int] = []
        """Where they are: place p in block blocks[p // BLOCK]."""
        self.admitted = False
        """Whether it ever was; it may wait again since."""
        self.sampler = sampler
        self._root = root(request.salt, request.adapter)
        self._chain: list[Prefix] = []

    @property
    def pending(self) -> int:
        """Tokens that are known but not in memory: one while an answer is being written, more before."""
        return len(self.tokens) - self.read

    def cancel(self) -> None:
        """See `Reply.cancel`."""
        super().cancel()
        self._on_cancel(self)

    def chain(self, tokens: int, first: int = 0) -> list[Prefix]:
        """The full blocks among the first so many tokens, from the block numbered `first` on."""
        blocks = tokens // BLOCK
        while len(self._chain) < blocks:
            before = self._chain[-1].hash if self._chain else self._root
            start = len(self._chain) * BLOCK
            self._chain.append(prefix(before, self.tokens[start : start + BLOCK]))
        return self._chain[first:blocks]

    def advance(self, token: int, data: bytes, logprob: TokenLogprob | None) -> "TokenEvent":
        """Take the next token of the answer; `data`: its bytes."""
        self.tokens.append(token)
        self.sampler.accept(token)
        return self.take(token, data, logprob, self.sampler.finished)

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert self.tokens[self.prompt_length :] == self.ids, "the answer is not the end of the tokens"
        assert self.sampler.place == len(self.ids), "the sampler counts otherwise"
        assert self.finish is not None or self.pending > 0, "nothing is left to be read"
        assert self.read <= len(self.blocks) * BLOCK, "more was read than fits into the blocks"
        assert self.finish is None or not self.blocks, "an ended answer holds memory"


@dataclass(slots=True)  # frozen ones take several times as long to make
class TokenEvent:
    """One request moved forward."""

    handle: Reply
    id: int | None
    """The token; None where the request was cancelled or failed."""
    text: str
    """What can be shown now; often empty while a character or a possible stop string is incomplete."""
    logprob: TokenLogprob | None
    finish: FinishReason | None
    """Set in the last event of a request."""
