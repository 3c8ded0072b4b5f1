"""Conversations as people keep them: ShareGPT's turns, OpenAI's messages, Alpaca's columns, transcripts.

What cannot be said by turns of system, user and assistant, such as calls of tools, is refused rather than left out of
the middle of a conversation.
"""

import re
from collections.abc import Sequence
from typing import Any

from underlay.adapt.examples.unusable import Unusable
from underlay.data.gather.readers.decode import clean
from underlay.text import Message
from underlay.text.conversation import Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
_TOOLS = {"tool", "tools", "function", "function_call", "function_response", "observation", "ipython"}
_CALLS = ("tool_calls", "function_call")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")


def text_of(value: Any, what: str) -> str:
    """A value that has to be a text with something in it."""
    if value is None:
        raise Unusable(f"{what} is missing or null")
    if not isinstance(value, str):
        raise Unusable(f"{what} is no text", type(value).__name__)
    if "\0" in value:
        raise Unusable(f"{what} holds a zero character")
    if not value.strip():
        raise Unusable(f"{what} is empty")
    return clean(value)


def messages_of(value: Any) -> tuple[Message, ...]:
    """ShareGPT's `{from, value}` or OpenAI's `{role, content}`, in their order."""
    if not isinstance(value, list) or not value:
        raise Unusable("a conversation without turns")
    return tuple(_message(turn) for turn in value)


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise Unusable("a turn that is no object")
    name = turn.get("role", turn.get("from"))
    name = name if isinstance(name, str) else repr(name)
    if name in _TOOLS or any(turn.get(key) for key in _CALLS):
        raise Unusable("calls of tools, which are not supported")
    if any(turn.get(key) for key in _THOUGHTS):
        raise Unusable("thoughts apart from what is said, which are not supported")
    if turn.get("weight") not in (None, 1):
        raise Unusable("turns with a weight of their own, which are not supported")
    role = _ROLES.get(name)
    if role is None:
        raise Unusable("a role that is not known", name)
    content = turn.get("content", turn.get("value"))
    return Message(role, text_of(_joined(content), f"what the {role} says"))


def _joined(content: Any) -> Any:
    """OpenAI's list of parts as one text."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if any(not isinstance(part, str) for part in parts):
        raise Unusable("parts of a message that are no text")
    return "".join(map(str, parts))


def in_order(messages: Sequence[Message], ends: Role) -> tuple[Message, ...]:
    """The messages, if user and assistant take turns, the user first, and `ends` last; a system speaks before."""
    turns = [message.role for message in messages]
    spoken = turns[1:] if turns[:1] == ["system"] else turns
    if "assistant" not in spoken and ends == "assistant":
        raise Unusable("a conversation in which no assistant speaks")
    if spoken[:1] == ["assistant"]:
        raise Unusable("a conversation that the assistant begins")
    if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(spoken)):
        raise Unusable("roles out of order", ", ".join(turns))
    if spoken[-1:] != [ends]:
        raise Unusable(f"a conversation that does not end with the {ends}")
    return tuple(messages)


def transcript(text: str) -> tuple[Message, ...]:
    """Turns of `\\n\\nHuman: ...\\n\\nAssistant: ...` (arXiv:2204.05862); one that only begins at the end is none."""
    before, *parts = _TRANSCRIPT.split(text)
    if before.strip() or not parts:
        raise Unusable("a transcript that does not begin with Human or Assistant")
    turns = list(zip(parts[::2], parts[1::2], strict=True))
    if not turns[-1][1].strip():
        turns.pop()
    return tuple(_message({"from": role.lower(), "value": words.strip()}) for role, words in turns)


def is_transcript(value: Any) -> bool:
    """Whether a text is written that way."""
    return isinstance(value, str) and value.startswith(("\n\nHuman:", "\n\nAssistant:"))


def prompt_of(value: Any) -> tuple[Message, ...]:
    """A prompt: messages, a transcript, or what the user says."""
    if isinstance(value, list):
        return messages_of(value)
    if is_transcript(value):
        return transcript(value)
    return (Message("user", text_of(value, "the prompt")),)


def answer_of(value: Any, prompt: Sequence[Message], what: str) -> str:
    """The answer to a prompt: a text, or messages that may begin with the prompt and add one of the assistant."""
    if isinstance(value, str) or value is None:
        return text_of(value, what)
    messages = messages_of(value)
    added = messages[len(prompt) :] if messages[: len(prompt)] == tuple(prompt) else messages
    if [message.role for message in added] != ["assistant"]:
        raise Unusable(f"{what} is not the prompt and one answer")
    return added[0].content
