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

    def __init__(self, tokenizer: Tokenizer, echoes: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._echoes = echoes
        self._written: dict[int, int] = {}

    def first(self, index: int) -> Json | None:
        """Repeat the prompt, where asked to."""
        return _completion(index, self._echoes[index]) if self._echoes[index] else None

    def piece(self, index: int, event: TokenEvent) -> Json:
        """Some text, and the log-probability of its token."""
        logprobs = None if event.logprob is None else self._logprobs(index, [event.logprob])
        return _completion(index, event.text, logprobs)

    def last(self, index: int, finish: str) -> Json:
        """The reason alone."""
        return _completion(index, "", None, finish)

    def choice(self, index: int, answer: Answer) -> Json:
        """All of it."""
        logprobs = None if answer.logprobs is None else self._logprobs(index, answer.logprobs)
        return _completion(index, self._echoes[index] + answer.text, logprobs, answer.finish)

    def _logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> Json:
        offsets = []
        for entry in entries:
            offsets.append(self._written.get(index, 0))
            # A character counts where its first byte is.
            data = self._tokenizer.decode_bytes([entry.id])
            self._written[index] = offsets[-1] + sum(byte & 0xC0 != 0x80 for byte in data)
        name = self._tokenizer
        return {
            "tokens": [token_name(name, entry.id) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{token_name(name, i): p for i, p in entry.top} for entry in entries],
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
