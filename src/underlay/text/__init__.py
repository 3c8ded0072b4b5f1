"""Text to tokens and back: the tokenizer, and the one renderer of conversations."""

from underlay.text.conversation import Message, render
from underlay.text.tokenizer import Special, Tokenizer, train_tokenizer

__all__ = ["Message", "Special", "Tokenizer", "render", "train_tokenizer"]
