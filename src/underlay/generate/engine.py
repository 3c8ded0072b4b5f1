"""The one engine: every token that Underlay generates, for chat, evaluation or a server, comes from here.

It answers a fixed number of requests at once, one a slot. Each step first reads some prompt tokens, request by
request, then moves every answer forward by one token in one pass through the model; requests join and leave between
steps (continuous batching: Orca, OSDI 2022).

Batch invariance: on a CPU a request's tokens depend on the request and its seed alone, not on its neighbours, its
slot, or when it came. Prompts are read alone, in chunks cut at fixed places; decoding always has the shape (slots, 1),
where the kernels compute each row by itself in the same order. Two things would break this, hence two rules: sums
over the cache are padded to multiples of `SEEN_STEP` places (masked terms add exact zeros), and decoding runs on one
thread, since with several the attention kernel's scratch memory is aligned differently in each, which changes how it
rounds. `deterministic=False` lifts the second rule, for large models on many cores.
"""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.generate.cache import SlotCache
from underlay.generate.request import (
    Answer,
    ContextLengthError,
    FinishReason,
    ParameterError,
    Request,
    TokenLogprob,
)
from underlay.generate.sampler import Sampler, choose, log_probabilities
from underlay.generate.score import score
from underlay.generate.stop import TextStream
from underlay.models import Decoder
from underlay.models.parts import computed
from underlay.progress import Progress, silent
from underlay.text import Tokenizer

CHUNK = 256
"""A prompt is read in chunks of so many tokens, so that a long one does not hold up the others."""
PREFILL = 512
"""Prompt tokens after which a step reads no further chunk."""
SMALL = 1_000_000_000
"""Multiplications (tokens times parameters) of a chunk below which a second CPU thread costs more than it brings."""
SEEN_STEP = 64
"""Attention reads the cache in multiples of so many places."""


class Handle:
    """A request on its way, and what has come of it so far."""

    def __init__(self, request: Request, stop_ids: frozenset[int]) -> None:
        self.request = request
        self.finish: FinishReason | None = None
        """Why the answer ended; None while it goes on."""
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self._stop_ids = stop_ids
        self._stream = TextStream(request.stop)
        self._text: list[str] = []
        self._sampler: Sampler | None = None
        self._read = 0
        self._cancelled = False

    def cancel(self) -> None:
        """Stop as soon as the next step begins; harmless when the answer has ended. May be called from any thread."""
        self._cancelled = True

    def answer(self) -> Answer:
        """The whole answer. Only once it has ended."""
        assert self.finish is not None, "the answer has not ended"
        logprobs = None if self.request.logprobs is None else list(self.logprobs)
        return Answer(list(self.ids), "".join(self._text), self.finish, len(self.request.prompt), logprobs)

    def _advance(self, token: int, data: bytes, logprob: TokenLogprob | None) -> "TokenEvent":
        self.ids.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        full = len(self.ids) == self.request.max_tokens
        ended = token in self._stop_ids
        text = self._stream.push(data, last=full or ended)
        if ended or self._stream.stopped:
            self.finish = "stop"
        elif full:
            self.finish = "length"
        self._text.append(text)
        return TokenEvent(self, token, text, logprob, self.finish)

    def _cancel(self) -> "TokenEvent":
        text = self._stream.push(b"", last=True)
        self._text.append(text)
        self.finish = "cancelled"
        return TokenEvent(self, None, text, None, "cancelled")


@dataclass(frozen=True)
class TokenEvent:
    """One request moved forward."""

    handle: Handle
    id: int | None
    """The token; None where the request was cancelled."""
    text: str
    """What can be shown now; often empty while a character or a possible stop string is incomplete."""
    logprob: TokenLogprob | None
    finish: FinishReason | None
    """Set in the last event of a request."""


class Engine:
    """Answers requests and scores texts with one model. For use by one thread at a time."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        slots: int = 8,
        dtype: torch.dtype | None = None,
        deterministic: bool = True,
    ) -> None:
        """Take `slots` requests at once and compute in `dtype` (by default float32; see `models.parts.computed`).

        Weights of another dtype are converted once, here: later changes to the model are then not seen.
        Raises UserError where the tokenizer does not belong to the model, or there is no slot.
        """
        if slots < 1:
            raise UserError(f"slots: {slots} is below 1")
        if tokenizer.size > model.config.vocabulary:
            raise UserError(
                f"the tokenizer has {tokenizer.size} ids but the model {model.config.vocabulary}; load the two together"
            )
        self.tokenizer = tokenizer
        self.context = model.config.context
        """Most tokens of prompt and answer together."""
        self._device = model.embedding.weight.device
        self._dtype = computed(dtype or torch.float32, self._device)
        self._model = _in_dtype(model, self._dtype)
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        self._deterministic = deterministic
        self._slots: list[Handle | None] = [None] * slots
        self._waiting: deque[Handle] = deque()
        self._stop_ids = tokenizer.stop_ids
        self._cache: SlotCache | None = None
        self._places = torch.arange(self.context, device=self._device)

    @property
    def slots(self) -> int:
        """How many requests are answered at once."""
        return len(self._slots)

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return sum(handle is not None for handle in self._slots)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    def check(self, request: Request) -> None:
        """Raise ParameterError where this model cannot honour the request. May be called from any thread."""
        prompt, wanted = len(request.prompt), request.max_tokens
        if prompt + wanted > self.context:
            raise ContextLengthError(
                "prompt" if prompt >= self.context else "max_tokens",
                f"{prompt} prompt tokens and up to {wanted} new ones make {prompt + wanted}, "
                f"the model's context holds {self.context}",
            )
        vocabulary = self._model.config.vocabulary
        if min(request.prompt) < 0 or max(request.prompt) >= vocabulary:
            raise ParameterError("prompt", f"holds a token id outside 0..{vocabulary - 1}")

    def submit(self, request: Request) -> Handle:
        """Queue a request; it moves with every `step`. Raises ParameterError where it cannot be honoured."""
        self.check(request)
        handle = Handle(request, self._stop_ids if request.stop_ids is None else request.stop_ids)
        self._waiting.append(handle)
        return handle

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """Move every request forward by at most one token. Returns what happened; nothing once all is answered."""
        events = self._sweep()
        self._admit()
        if any(self._slots):
            self._prefill()
            events += self._decode()
        return events

    def generate(self, requests: Sequence[Request], progress: Progress = silent) -> list[Answer]:
        """Answer all requests, in their order. Raises ParameterError, before any work, where one cannot be honoured."""
        for request in requests:
            self.check(request)
        handles = [self.submit(request) for request in requests]
        done = tokens = 0
        try:
            while done < len(handles):
                events = self.step()
                tokens += len(events)
                ended = sum(event.finish is not None for event in events)
                if ended:
                    done += ended
                    progress(done, len(handles), tokens=tokens)
        finally:
            for handle in handles:
                handle.cancel()
            self._sweep()
        return [handle.answer() for handle in handles]

    def score(self, token_lists: Sequence[Sequence[int]], progress: Progress = silent) -> list[Tensor]:
        """Log-probability (nats, float32) of each token given those before it, of the first token none.

        A list of n tokens, usually BOS first, gives a tensor (n - 1,). Lists longer than the context are read in
        windows that overlap by half. Raises ParameterError where a list is empty or holds an unknown id.
        """
        return score(self._model, token_lists, self._dtype, progress)

    def _sweep(self) -> list[TokenEvent]:
        """Let go of what was cancelled."""
        gone = [handle for handle in (*self._slots, *self._waiting) if handle is not None and handle._cancelled]
        if not gone:
            return []
        self._slots = [None if handle in gone else handle for handle in self._slots]
        self._waiting = deque(handle for handle in self._waiting if handle not in gone)
        return [handle._cancel() for handle in gone]

    def _admit(self) -> None:
        for slot, handle in enumerate(self._slots):
            if handle is None and self._waiting:
                self._slots[slot] = self._waiting.popleft()

    def _prefill(self) -> None:
        """Read prompts into their slots, all but the last token of each, which is the first that decoding feeds."""
        if self._cache is None:
            self._cache = SlotCache(self._model.config, self.slots, self._dtype, self._device)
        spent = 0
        for slot, handle in enumerate(self._slots):
            while handle is not None and spent < PREFILL and handle._read < len(handle.request.prompt) - 1:
                prompt, start = handle.request.prompt, handle._read
                end = min(start + CHUNK, len(prompt) - 1)
                tokens = torch.tensor([prompt[start:end]], device=self._device)
                places = self._places[start:end]
                mask = None if start == 0 else self._places[:end] <= places[:, None]
                small = self._device.type == "cpu" and (end - start) * self._parameters < SMALL
                with _one_thread(small):
                    self._model.hidden(tokens, places[None], mask, self._cache.span(slot, start), self._dtype)
                handle._read = end
                spent += end - start

    def _decode(self) -> list[TokenEvent]:
        """Feed every slot its newest token, choose the next."""
        assert self._cache is not None
        ready = {s: h for s, h in enumerate(self._slots) if h is not None and h._read >= len(h.request.prompt) - 1}
        if not ready:
            return []
        tokens, places = [0] * self.slots, [self._cache.spare] * self.slots
        for slot, handle in ready.items():
            prompt, ids = handle.request.prompt, handle.ids
            tokens[slot] = ids[-1] if ids else prompt[-1]
            places[slot] = len(prompt) + len(ids) - 1
        with _one_thread(self._deterministic and self._device.type == "cpu"):
            logits = self._logits(tokens, places, 1 + max(places[slot] for slot in ready))
            rows = logits[torch.tensor(list(ready), device=self._device)]
            for handle in ready.values():
                if handle._sampler is None:
                    handle._sampler = Sampler(handle.request.sampling, handle.request.prompt, rows.shape[-1])
            samplers = [h._sampler for h in ready.values() if h._sampler is not None]
            chosen = dict(zip(ready, choose(rows, samplers), strict=True))
        wanted = {s: n for s, h in ready.items() if (n := h.request.logprobs) is not None}
        found = log_probabilities(logits[list(wanted)], [chosen[s] or 0 for s in wanted], list(wanted.values()))
        logprobs = dict(zip(wanted, found, strict=True))
        decode = self.tokenizer.decode_bytes
        size = self.tokenizer.size
        events = []
        for slot, handle in ready.items():
            token = chosen[slot]
            assert token is not None
            assert handle._sampler is not None
            handle._sampler.accept(token)
            # A model's vocabulary may be padded beyond its tokenizer's; such an id has no bytes.
            event = handle._advance(token, decode((token,)) if token < size else b"", logprobs.get(slot))
            if event.finish is not None:
                self._slots[slot] = None
            events.append(event)
        return events

    def _logits(self, tokens: list[int], places: list[int], longest: int) -> Tensor:
        """One token a slot, at its place; returns (slots, vocabulary) float32."""
        assert self._cache is not None
        positions = torch.tensor(places, device=self._device)
        seen = min(-(-longest // SEEN_STEP) * SEEN_STEP, self.context)
        mask = (self._places[:seen] <= positions[:, None])[:, None, None]
        column = torch.tensor(tokens, device=self._device)[:, None]
        cache = self._cache.step(positions, seen)
        # Slots without a request read the last position; what they compute is thrown away.
        known = positions.clamp(max=self.context - 1)
        hidden = self._model.hidden(column, known[:, None], mask, cache, self._dtype)
        return self._model.logits(hidden[:, 0]).float()


def _in_dtype(model: Decoder, dtype: torch.dtype) -> Decoder:
    """The model with its matrices in `dtype`; norms stay in float32, as they are computed."""
    if dtype == torch.float32:
        return model
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data = parameter.data.to(dtype)
    return model


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
