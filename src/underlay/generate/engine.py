"""The one engine: every token that Underlay generates, for chat, evaluation or a server, comes from here.

Each step reads some tokens of many requests in one pass through the model, and moves every answer forward by one token
or, where guesses come true, by several; requests join and leave between steps. The parts are: the scheduler, which
says who reads what; blocks of memory; a runner, which computes; a sampler and a stream of text for each request.

Batch invariance: a request's tokens depend on the request and its seed alone, not on its neighbours, on when it came,
on what is remembered, or on chunks, guesses and preemptions. It follows from row invariance (`generate.runner`), which
both runners for a CPU promise.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path as FolderPath
from typing import Any

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.formats.peft import read_adapter
from underlay.generate.blocks import BlockPool
from underlay.generate.grammar import GrammarCompiler
from underlay.generate.path import Cache, Path, Precision, choose_runner, choosers, room_for
from underlay.generate.request import Answer, Request, TokenLogprob
from underlay.generate.runner import Runner
from underlay.generate.sampler import Sampler, choose
from underlay.generate.scheduler import Scheduler, Share, blocks_for, rows
from underlay.generate.score import score
from underlay.generate.sequence import Handle, TokenEvent
from underlay.generate.serving import check_fits, fitted
from underlay.generate.speculate import Guesser, room
from underlay.generate.threads import one_thread
from underlay.models import Decoder
from underlay.models.adapter import Adapter
from underlay.models.quantised import QuantisedMatrix
from underlay.models.storage import load_decoder, load_quantised
from underlay.progress import Progress, silent
from underlay.text import Tokenizer

STEP = 512
"""About as many tokens are read in a step: a long prompt then does not hold up the others."""


class Engine:
    """Answers requests and scores texts with one model. For use by one thread at a time."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        slots: int = 8,
        precision: Precision = "float32",
        *,
        cache: Cache | None = None,
        memory: int | None = None,
        path: Path = "auto",
        threads: int | None = None,
        quantised: Mapping[str, QuantisedMatrix] | None = None,
        guesser: Guesser | None = None,
        guesses: int = 4,
        step_tokens: int = STEP,
        runner: Runner | None = None,
    ) -> None:
        """Answer up to `slots` requests at once.

        precision: of the matrices; "int8" and "int4" round to nearest unless `quantised` brings what was calibrated.
        cache: of keys and values; by default as precise as the weights. memory: bytes for them, by default enough for
        every slot's whole context, or half of what is free. path: who computes ("native": C++, "plain": torch, "auto":
        the faster that there is). threads: of the native path, by default all cores. guesser: proposes up to `guesses`
        tokens ahead. step_tokens: read in a step, about. runner: computes instead of what `path` would choose.
        Weights may be converted once, here: later changes to the model are then not seen. Raises UserError where the
        tokenizer does not belong to the model, a weight is not a number, or there is no slot or too little memory.
        """
        if slots < 1:
            raise UserError(f"slots: {slots} is below 1")
        config = model.config
        if tokenizer.size > config.vocabulary:
            raise UserError(
                f"the tokenizer has {tokenizer.size} ids but the model {config.vocabulary}; load the two together"
            )
        self.tokenizer = tokenizer
        self.context = config.context
        """Most tokens of prompt and answer together."""
        self.slots = slots
        """How many requests are answered at once."""
        self._config = config
        self._vocabulary = config.vocabulary
        self.runner = runner or choose_runner(model, precision, cache, path, threads, quantised)
        self._best, self._draw, self._tell = choosers(self.runner)
        blocks = room_for(self.runner.block_bytes, blocks_for(self.context), slots, memory)
        self.runner.reserve(blocks)
        self.scheduler = Scheduler(BlockPool(blocks), slots, step_tokens)
        self._guesser, self._guesses = guesser, guesses
        self._grammars = GrammarCompiler(tokenizer, config.vocabulary)
        self._adapters: dict[str, Adapter] = {}
        self._cancelled: deque[Handle] = deque()
        """To be let go of by the next step; whoever cancels, in whatever thread, leaves the handle here."""

    @classmethod
    def load(cls, folder: FolderPath, slots: int = 8, precision: Precision | None = None, **settings: Any) -> "Engine":
        """The engine of a model's folder; the other settings are those of the constructor.

        precision: by default what a quantised model has, else bfloat16. Raises UserError where the folder holds no
        decoder with a tokenizer, or one of fewer bits than are asked for.
        """
        quantised = load_quantised(folder)
        own: Precision = "bfloat16" if quantised is None else precision_of(quantised)
        if quantised is not None and precision not in (None, own):
            raise UserError(
                f"precision: the model is {own} already, and cannot be {precision}; take the model it is of"
            )
        return cls(
            load_decoder(folder), Tokenizer.load(folder), slots, precision or own, quantised=quantised, **settings
        )

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return len(self.scheduler.running)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot, or for memory."""
        return len(self.scheduler.waiting)

    @property
    def busy(self) -> bool:
        """Whether any request is still to be answered."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    def check(self, request: Request) -> None:
        """Raise ParameterError where this model cannot honour the request. May be called from any thread."""
        check_fits(request, self.context, self._vocabulary, self.adapters)
        if request.constraint is not None:
            self._grammars.compile(request.constraint, self._stop_ids(request))

    def submit(self, request: Request) -> Handle:
        """Queue a request; it moves with every `step`. Raises ParameterError where it cannot be honoured."""
        self.check(request)
        return self._queue(request, fitted(request, self.context, self.tokenizer.start))

    def _queue(self, request: Request, prompt: list[int]) -> Handle:
        stop_ids = self._stop_ids(request)
        constraint = request.constraint
        grammar = None if constraint is None else self._grammars.compile(constraint, stop_ids)
        sampler = Sampler(request.sampling, prompt, self._vocabulary, grammar)
        handle = Handle(request, prompt, stop_ids, sampler, self._cancelled.append)
        self.scheduler.add(handle)
        return handle

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """Read some tokens and move every answer forward. Returns what happened; nothing where prompts alone were read.

        While `busy`, there is more to do.
        """
        events = self._sweep()
        shares = self.scheduler.plan(self._guess if self._guesser else None)
        if shares:
            logits = self.runner.run([share.work() for share in shares])
            with one_thread(logits.device.type == "cpu"):
                events += self._advance(shares, logits)
        return events

    def generate(self, requests: Sequence[Request], progress: Progress = silent) -> list[Answer]:
        """Answer all requests, in their order. Raises ParameterError, before any work, where one cannot be honoured."""
        for request in requests:
            self.check(request)
        handles: dict[Handle, None] = {}  # in order, and quick to look up: others may be under way, too
        done = tokens = 0
        try:
            for request in requests:
                handles[self.submit(request)] = None
            while done < len(handles):
                events = [event for event in self.step() if event.handle in handles]
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
        return score(self.runner, token_lists, self._vocabulary, self.context, progress)

    @property
    def adapters(self) -> list[str]:
        """The adapters that requests may name."""
        return list(self._adapters)

    def read_adapter(self, folder: FolderPath) -> Adapter:
        """An adapter of this model from a folder of `peft`. May be called from any thread. See `load_adapter`."""
        return read_adapter(folder, self._config)

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Let requests name an adapter. Raises UserError where the name is taken or it does not fit the model."""
        if name in self._adapters:
            raise UserError(f"adapter {name!r} is loaded already; drop it first")
        if adapter.tokens is not None:
            raise UserError(
                f"adapter {name!r} brings tokens of its own, and others know nothing of them; merge it into its model"
            )
        self.runner.add_adapter(name, adapter)
        self._adapters[name] = adapter

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter. Raises UserError where there is none of that name, or requests still need it."""
        if name not in self._adapters:
            raise UserError(f"there is no adapter {name!r}")
        if any(h.request.adapter == name for h in (*self.scheduler.running, *self.scheduler.waiting)):
            raise UserError(f"adapter {name!r} is still answering; try again when it is done")
        self.runner.drop_adapter(name)
        del self._adapters[name]
        # Another may come under the same name; what was remembered is this one's.
        self.scheduler.pool.forget()

    def invariants(self) -> None:
        """Assert what always holds between two steps; for tests."""
        self.scheduler.check()

    def _stop_ids(self, request: Request) -> frozenset[int]:
        return self.tokenizer.stop_ids if request.stop_ids is None else request.stop_ids

    def _sweep(self) -> list[TokenEvent]:
        """Let go of what was cancelled."""
        events = []
        while self._cancelled:
            handle = self._cancelled.popleft()
            if handle.finish is None:
                events.append(self._end(handle, handle.end("cancelled")))
        return events

    def _end(self, handle: Handle, event: TokenEvent) -> TokenEvent:
        self.scheduler.remove(handle)
        if self._guesser is not None:
            self._guesser.forget(handle)
        return event

    def _guess(self, handles: Sequence[Handle]) -> list[list[int]]:
        assert self._guesser is not None
        return self._guesser.guess(handles, [room(handle, self._guesses) for handle in handles])

    def _advance(self, shares: Sequence[Share], logits: Tensor) -> list[TokenEvent]:
        """Choose what comes next for each share that is complete, and go on while guesses come true.

        The last known token counts as read once the next is chosen, so a step that failed can be taken again.
        """
        events: list[TokenEvent] = []
        going: list[tuple[Share, int]] = []
        for share, row in rows(shares):
            self._tell_prompt(share, logits[row : row + share.wanted])
            self.scheduler.done(share.handle, share.count - share.complete)
            if share.complete:
                going.append((share, row + share.wanted - 1 - len(share.guessed)))
        for place in count():
            if not going:
                return events
            picked = [row + place for _, row in going]
            part = logits if picked == list(range(len(logits))) else logits[picked]
            chosen = self._choose([share.handle for share, _ in going], part)
            later = []
            for (share, row), (token, logprob) in zip(going, chosen, strict=True):
                event = self._take(share.handle, token, logprob)
                events.append(event)
                if event.finish is None and place < len(share.guessed) and share.guessed[place] == event.id:
                    later.append((share, row))
            going = later
        raise AssertionError

    def _choose(self, handles: Sequence[Handle], logits: Tensor) -> list[tuple[int | None, TokenLogprob | None]]:
        chosen = choose(logits, [handle.sampler for handle in handles], self._draw, self._best)
        told: dict[int, TokenLogprob] = {}
        wanted = [
            (index, token, handle.request.logprobs)
            for index, (handle, token) in enumerate(zip(handles, chosen, strict=True))
            if handle.request.logprobs is not None and token is not None
        ]
        if wanted:
            which, tokens, counts = zip(*wanted, strict=True)
            told = dict(zip(which, self._tell(logits[list(which)], tokens, counts), strict=True))
        return [(token, told.get(index)) for index, token in enumerate(chosen)]

    def _take(self, handle: Handle, token: int | None, logprob: TokenLogprob | None) -> TokenEvent:
        if token is None:
            return self._end(handle, handle.end("failed", handle.sampler.problem))
        # A model's vocabulary may be padded beyond its tokenizer's; such an id has no bytes.
        data = self.tokenizer.decode_bytes((token,)) if token < self.tokenizer.size else b""
        self.scheduler.done(handle, 1)
        event = handle.advance(token, data, logprob)
        return event if event.finish is None else self._end(handle, event)

    def _tell_prompt(self, share: Share, logits: Tensor) -> None:
        """Note the log-probabilities of the prompt's tokens that follow what is being read."""
        handle, wanted = share.handle, share.handle.request.prompt_logprobs
        if wanted is None or len(handle.prompt_logprobs) >= handle.prompt_length - 1:
            return
        first = handle.read  # the place that the first row was read at
        targets = handle.tokens[first + 1 : min(first + share.count + 1, handle.prompt_length)]
        told = self._tell(logits[: len(targets)], targets, [wanted] * len(targets))
        handle.prompt_logprobs += told[len(handle.prompt_logprobs) - first :]


def precision_of(quantised: Mapping[str, QuantisedMatrix]) -> Precision:
    """What quantised matrices come to. A model of four bits may have matrices of eight, which did not fit."""
    return "int4" if any(matrix.bits == 4 for matrix in quantised.values()) else "int8"
