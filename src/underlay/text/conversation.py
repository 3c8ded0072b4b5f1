"""The one renderer of conversations: training, evaluation, chat and serving call this function.

Our own tokenizers have marks of turns. Each piece is encoded by itself and the ids are joined, so a prompt's tokens are
always a prefix of prompt and answer, and user text can never become a special token.

    <|bos|> <|user|> ... <|end|> <|assistant|> ... <|end|> <|user|> ...
                                               ^^^^^^^^^^^ weight 1: what the model learns to say

Those of other tools bring a chat template, a program that writes the whole conversation as one text (`by_template`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from underlay.errors import UserError
from underlay.text.special import Special
from underlay.text.templated import by_template
from underlay.text.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


def render(tokenizer: Tokenizer, messages: Sequence[Message], reply: bool = False) -> tuple[list[int], list[float]]:
    """Token ids of a conversation, and for each id its weight in training.

    Only the assistant's words, and the end of its turn, weigh 1. With `reply` the ids end where the assistant begins
    to speak, ready for generation; by a template all weights are then 0. Raises UserError where the tokenizer has
    neither our marks nor a template, and where its template refuses the conversation or hides what the assistant said.
    """
    if not tokenizer.native:
        if tokenizer.template is None:
            raise UserError(
                "the tokenizer has neither marks of turns nor a chat template; put its model's chat_template.jinja "
                "beside it, or use a model that was made for conversations"
            )
        return by_template(tokenizer, [(message.role, message.content) for message in messages], reply)
    ids, weights = [tokenizer.special(Special.BOS)], [0.0]
    for message in messages:
        learned = 1.0 if message.role == "assistant" else 0.0
        words = tokenizer.encode(message.content)
        ids += [tokenizer.special(Special[message.role.upper()]), *words, tokenizer.special(Special.END)]
        weights += [0.0, *[learned] * len(words), learned]
    if reply:
        ids.append(tokenizer.special(Special.ASSISTANT))
        weights.append(0.0)
    return ids, weights
