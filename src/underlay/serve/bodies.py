"""The bodies of requests, as OpenAI's clients send them.

A parameter is honoured or refused by name, never ignored. (`user` is the one that asks for nothing.) Beyond the API
there are `top_k`, `min_p`, `typical_p`, `repetition_penalty`, `guided_regex`, `guided_choice` and `truncate_prompt`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from underlay.config import Config
from underlay.generate.request import MOST_BIAS, MOST_LOGPROBS

MOST_CHOICES = 16
MOST_STOPS = 16
MOST_BIASES = 300


def _encodable(text: str) -> str:
    # JSON can spell half a surrogate pair, which is no character and has no bytes.
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise PydanticCustomError("invalid_text", "it holds half a surrogate pair, which is not text")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Probability = Annotated[float, Field(ge=0, le=1)]
StopString = Annotated[Text, Field(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
TokenId = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[float, Field(ge=-MOST_BIAS, le=MOST_BIAS)]


class StreamOptions(Config):
    """What a stream carries besides its text."""

    include_usage: bool = False


class Body(Config):
    """What both endpoints take."""

    model_config = ConfigDict(strict=True)

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Probability | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MOST_BIASES)] | None = None
    typical_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    guided_regex: Text | None = None
    """A regular expression that the whole answer matches."""
    guided_choice: Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=1)] | None = None
    """The answer is one of these."""
    truncate_prompt: bool | None = None
    """Leave out the beginning of a prompt that is too long; the usage tells how many tokens."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(Body):
    """`POST /v1/completions`: text to be continued."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    suffix: Text | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None


class TextPart(Config):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(Config):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    @property
    def text(self) -> str:
        """The words."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class SchemaFormat(Config):
    """A JSON Schema, and what it is called. Answers are held to it, `strict` or not."""

    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Config):
    """What an answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class ChatBody(Body):
    """`POST /v1/chat/completions`: a conversation to be answered."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None


class TraceBody(Config):
    """`POST /trace`: text to be found in the training data."""

    text: Text


class LoadBody(Config):
    """`POST /v1/load_lora_adapter`: an adapter to be had under a name."""

    lora_name: AdapterName
    lora_path: Annotated[Text, Field(min_length=1, max_length=4096)]
    """A folder beneath the one that adapters may come from, whole or from there on."""


class UnloadBody(Config):
    """`POST /v1/unload_lora_adapter`: an adapter to be forgotten."""

    lora_name: AdapterName
