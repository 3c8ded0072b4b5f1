"""Text to tokens and back: the tokenizer, and the one renderer of conversations."""

from underlay.text.conversation import Message, render
from underlay.text.gap import Gap
from underlay.text.special import Special
from underlay.text.tokenizer import Framed, Tokenizer
from underlay.text.training import train_tokenizer

__all__ = ["Framed", "Gap", "Message", "Special", "Tokenizer", "render", "train_tokenizer"]
