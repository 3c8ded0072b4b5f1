"""Chat templates to choose from, for a model whose tokenizer has none.

Alpaca's needs no tokens but the end of a text, so any model can learn it
(crfm.stanford.edu/2023/03/13/alpaca.html). ChatML and Llama 3's mark turns by tokens of their own, which a tokenizer
has to have: written as plain text they could be forged by any user.
"""

from pathlib import Path

from underlay.errors import UserError
from underlay.text.conversation import Message, render
from underlay.text.files import read_text
from underlay.text.special import Special
from underlay.text.template import MOST_SOURCE, ChatTemplate
from underlay.text.tokenizer import Tokenizer

ALPACA = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}"
    "{{ 'Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\n### Instruction:\\n' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '\\n\\n### Response:\\n' }}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n### Response:\\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_NAMED: dict[str, tuple[str, tuple[str, ...]]] = {
    "alpaca": (ALPACA, ()),
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "llama3": (LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
}
"""The templates by name, and the tokens that each needs. What begins a text comes from the tokenizer's own frame."""

NAMES = tuple(_NAMED)


def with_template(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """The tokenizer with a template: `alpaca`, `chatml`, `llama3`, or a path to one in Jinja.

    Whatever ends the assistant's turn there ends generation, too. Raises UserError where the tokenizer lacks a token
    that the template needs, where the template is none, or ends no answer by a special token.
    """
    source, tokens = _source(tokenizer, name)
    made = tokenizer.configured(chat_template=source)
    if lacking := [token for token in tokens if token not in made.control]:
        raise UserError(
            f"template {name}: the tokenizer has no token {lacking[0]}, and as plain text it could be forged; choose "
            "alpaca, or a template whose marks it has"
        )
    end = _end_of_turn(made, name)
    return made if end in made.stop_ids else made.configured(stop_tokens=_stops(made, end))


def _source(tokenizer: Tokenizer, name: str) -> tuple[str, tuple[str, ...]]:
    """The template, and tokens that it cannot do without."""
    if name not in _NAMED:
        if not Path(name).is_file():
            raise UserError(f"template {name}: neither {', '.join(NAMES)} nor a file in Jinja")
        return ChatTemplate(read_text(Path(name), MOST_SOURCE)).source, ()
    source, tokens = _NAMED[name]
    if name == "alpaca" and not tokenizer.has(Special.EOS):
        raise UserError("template alpaca: the tokenizer has no token that ends a text; name one as eos_token")
    begins = tokenizer.has(Special.BOS) and tokenizer.start == [tokenizer.special(Special.BOS)]
    return ("{{ bos_token }}" if begins else "") + source, tokens


def _end_of_turn(tokenizer: Tokenizer, name: str) -> int:
    """The token that a model learns to end its turn by."""
    ids, weights = render(tokenizer, [Message("user", "a"), Message("assistant", "b")])
    learned = [index for index, weight in zip(ids, weights, strict=True) if weight]
    if not learned or learned[-1] not in tokenizer.special_ids:
        raise UserError(
            f"template {name}: no special token ends what the assistant says, so a model would never learn to stop; "
            "put {{ eos_token }} behind it"
        )
    return learned[-1]


def _stops(tokenizer: Tokenizer, end: int) -> list[str]:
    names = {tokenizer.name(index) for index in (*tokenizer.stop_ids, end)}
    return sorted(name for name in names if name is not None)
