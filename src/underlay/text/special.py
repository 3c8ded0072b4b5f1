"""What special tokens are for: roles such as the beginning of a text, whatever a tokenizer calls them.

Our own tokenizers give them the names below. Those of other tools name theirs in `tokenizer_config.json`, under the
keys that `transformers` gave them.
"""

from enum import StrEnum


class Special(StrEnum):
    """Tokens that mark structure; they never arise from text, but for UNK."""

    BOS = "<|bos|>"
    """Starts every document."""
    EOS = "<|eos|>"
    """Ends every document."""
    PAD = "<|pad|>"
    """Fills rows; never learned from."""
    SYSTEM = "<|system|>"
    USER = "<|user|>"
    ASSISTANT = "<|assistant|>"
    END = "<|end|>"
    """Ends a turn of a conversation."""
    UNK = "<|unk|>"
    """Stands for what the vocabulary lacks; of all these it alone arises from text."""
    MASK = "<|mask|>"
    """Hides a token that a model is to fill in."""
    CLS = "<|cls|>"
    """Starts a text for an encoder; its state stands for the whole."""
    SEP = "<|sep|>"
    """Ends each text for an encoder."""
    PREFIX = "<|fim_prefix|>"
    """Comes before what stands ahead of a gap that a decoder is to fill in (arXiv:2207.14255)."""
    SUFFIX = "<|fim_suffix|>"
    """Comes before what stands behind the gap."""
    MIDDLE = "<|fim_middle|>"
    """Comes before what stands in the gap; what goes there follows."""


TRAINED = (
    Special.BOS,
    Special.EOS,
    Special.PAD,
    Special.SYSTEM,
    Special.USER,
    Special.ASSISTANT,
    Special.END,
)
"""The marks of our own tokenizers; their first ids, in this order."""

GAP = (Special.PREFIX, Special.SUFFIX, Special.MIDDLE)
"""The marks of a gap, all three or none."""

GAP_NAMES = (
    tuple(GAP),  # ours, as Qwen2.5-Coder and CodeGemma have them
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)
"""What the makers of tokenizers call them: no setting of any file says which tokens they are."""

ROLE_KEYS = {
    "bos_token": Special.BOS,
    "eos_token": Special.EOS,
    "pad_token": Special.PAD,
    "unk_token": Special.UNK,
    "mask_token": Special.MASK,
    "cls_token": Special.CLS,
    "sep_token": Special.SEP,
}
"""Keys of `tokenizer_config.json` that name a role's token."""

# What our own marks look like as a template; a test holds it equal to the renderer.
OWN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
