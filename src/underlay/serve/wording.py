"""How an answer is worded: the JSON of the two endpoints, whole and in pieces.

The engine's events are the same for both. A stream opens with `first`, brings `piece` after `piece`, and closes with
`last`, the only one whose `finish_reason` is not null.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from underlay.generate import Answer, TokenEvent, TokenLogprob
from underlay.text import Tokenizer

Json = dict[str, Any]


class Wording(Protocol):
    """The words of one response; `index` numbers its choices."""

    prefix: str
    """How its id begins."""
    whole_kind: str
    chunk_kind: str

    def first(self, index: int) -> Json | None:
        """What comes before any text, if anything."""

    def piece(self, index: int, event: TokenEvent) -> Json:
        """Some text."""

    def last(self, index: int, finish: str) -> Json:
        """The end."""

    def choice(self, index: int, answer: Answer) -> Json:
        """A whole answer."""


class CompletionWording:
    """`/v1/completions`."""

    prefix, whole_kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def __init__(
        self,
        tokenizer: Tokenizer,
        echoes: Sequence[str],
        prompts: Sequence[Sequence[int]] | None = None,
        logprobs: bool = True,
    ) -> None:
        """Take what each choice repeats of its prompt; `prompts`: its ids, where their log-probabilities are told too.

        logprobs: whether those of the answer are told, where it has any.
        """
        self._tokenizer = tokenizer
        self._echoes = echoes
        self._prompts = prompts
        self._shown = logprobs
        self._written: dict[int, int] = {}

    def first(self, index: int) -> Json | None:
        """Repeat the prompt, where asked to; what is told of its tokens is known only with the first of the answer."""
        return _completion(index, self._echoes[index]) if self._echoes[index] and self._prompts is None else None

    def piece(self, index: int, event: TokenEvent) -> Json:
        """Some text, and the log-probability of its token."""
        logprobs, text = None, event.text
        if event.logprob is not None:
            before: Sequence[TokenLogprob] = ()
            if self._prompts is not None and index not in self._written:
                before, text = event.handle.prompt_logprobs, self._echoes[index] + text
            logprobs = self._logprobs(index, [event.logprob], before)
        return _completion(index, text, logprobs)

    def last(self, index: int, finish: str) -> Json:
        """The reason alone."""
        return _completion(index, "", None, finish)

    def choice(self, index: int, answer: Answer) -> Json:
        """All of it."""
        logprobs = None
        if answer.logprobs is not None and self._shown:
            logprobs = self._logprobs(index, answer.logprobs, answer.prompt_logprobs or ())
        return _completion(index, self._echoes[index] + answer.text, logprobs, answer.finish)

    def _logprobs(self, index: int, entries: Sequence[TokenLogprob], before: Sequence[TokenLogprob]) -> Json:
        """before: of the prompt's tokens from the second on; the first has nothing before it that could foretell it."""
        told: list[TokenLogprob | int] = []
        if self._prompts is not None and index not in self._written:
            told += [self._prompts[index][0], *before]
        told += entries
        ids = [entry if isinstance(entry, int) else entry.id for entry in told]
        offsets = []
        for token in ids:
            offsets.append(self._written.get(index, 0))
            # A character counts where its first byte is.
            data = self._tokenizer.decode_bytes([token])
            self._written[index] = offsets[-1] + sum(byte & 0xC0 != 0x80 for byte in data)
        name = self._tokenizer
        return {
            "tokens": [token_name(name, token) for token in ids],
            "token_logprobs": [None if isinstance(entry, int) else entry.logprob for entry in told],
            "top_logprobs": [
                None if isinstance(entry, int) else {token_name(name, i): p for i, p in entry.top} for entry in told
            ],
            "text_offset": offsets,
        }


class ChatWording:
    """`/v1/chat/completions`."""

    prefix, whole_kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def first(self, index: int) -> Json:
        """Say who speaks."""
        return _delta(index, {"role": "assistant", "content": "", "refusal": None})

    def piece(self, index: int, event: TokenEvent) -> Json:
        """Some text, and the log-probability of its token."""
        logprobs = None if event.logprob is None else self._logprobs([event.logprob])
        return _delta(index, {"content": event.text}, logprobs)

    def last(self, index: int, finish: str) -> Json:
        """The reason alone."""
        return _delta(index, {}, None, finish)

    def choice(self, index: int, answer: Answer) -> Json:
        """All of it."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None if answer.logprobs is None else self._logprobs(answer.logprobs),
            "finish_reason": answer.finish,
        }

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> Json:
        def one(token: int, logprob: float) -> Json:
            data = self._tokenizer.decode_bytes([token])
            return {"token": token_name(self._tokenizer, token), "logprob": logprob, "bytes": list(data)}

        content = [
            {**one(entry.id, entry.logprob), "top_logprobs": [one(i, p) for i, p in entry.top]} for entry in entries
        ]
        return {"content": content, "refusal": None}


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; `bytes:\\xf0\\x9f` where it is only a part of a character, `<|eos|>` where it is special."""
    name = tokenizer.name(token)
    if name is None:
        return f"id:{token}"  # a model may have more rows than its tokenizer has tokens
    if token in tokenizer.special_ids:
        return name
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _completion(index: int, text: str, logprobs: Json | None = None, finish: str | None = None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _delta(index: int, delta: Json, logprobs: Json | None = None, finish: str | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
