"""BERT: the first of the encoders (arXiv:1810.04805). MiniLM is a small one (arXiv:2002.10957)."""

from typing import Literal

from underlay.models.encoder import EncoderConfig


class BertConfig(EncoderConfig):
    """A BERT-type encoder."""

    family: Literal["bert"] = "bert"
    """The model family."""
