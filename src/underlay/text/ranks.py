r"""Encoding by ranks: `tiktoken` does the work of a byte-level BPE where it provably gives the same ids, only faster.

The two sides merge bytes by different rules. `tokenizers` has a list of merges: of the neighbours that stand in it, it
joins those that stand first in it, the leftmost first. `tiktoken` has tokens alone: it joins the neighbours whose bytes
together are the token with the lowest id, and a piece that is a token is never merged at all.

Why both give the same. Look at a stretch of a text that some rule of this kind joins to one token T in its last step.
Up to there nothing was joined across its ends, and of what could be joined inside it the rule chose what it would have
chosen had the stretch been all of the text. So T always comes of the same two neighbours, those of its own bytes alone,
and a token that its own bytes do not give arises nowhere. Hence the rules agree on every text, step by step, if

1. only tokens that their own bytes give by the list of merges have a rank, for each of these is then joined by
   `tokenizers` wherever its two neighbours meet, and
2. the list of merges comes by these tokens in the order of their ids.

With `ignore_merges` (Llama 3) `tokenizers` too takes a piece that is a token as it is, so every token must have a rank.
Those whose own bytes do not give them may be joined by `tiktoken` wherever their bytes meet; so the list of merges must
have every way to cut them into two tokens.

`tiktoken` leaves out what its expression does not match, `tokenizers` does not: the bytes are counted. The two read
expressions by libraries of their own, so only expressions in which these agree are taken; that both know the same
characters is tried out, for each has its own tables of Unicode. Long runs of space overflow the stack of one of them.
What is not certain of a tokenizer, or of a text, is left to `tokenizers`.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import Regex, models, pre_tokenizers

from underlay.text.backend import Json, byte_alphabet, private_name, steps

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` cuts by, where it cuts by itself."""

_CLASS = r"\\p\{(?:L[ulmot]?|M|N|P|S)\}|\\[srnt]"
_LETTER = r"[A-Za-z0-9_'/ ]"
_UNIT = rf"(?:{_CLASS}|{_LETTER}|\[\^?(?:{_CLASS}|{_LETTER})+\])(?:[?*+]|\{{\d{{1,2}}(?:,\d{{1,2}})?\}})?"
_ENDINGS = r"\(\?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d\)\??|\(\?:\[sdmt\]\|ll\|ve\|re\)"
_BRANCH = rf"(?:\\s\+\(\?!\\S\)|(?:{_ENDINGS}|{_UNIT})+)"
_AGREED = re.compile(rf"{_BRANCH}(?:\|{_BRANCH})*")
"""Expressions that both libraries read alike: classes of characters, how often, one after another, one of several."""

# Of each version of Unicode since 12 something new: letters, digits, marks and signs of new scripts and blocks.
_NEW = "\U00011fd0\U00010fe0\U00010e80\U00011900\U00016a70\U00010570\U00011f04\U00011f50\U0001e4d0\U00031350\U0002ebf0"
_NEWER = "\U000105c0\U00010d40\U00010d4a\U00010d50\U00010d69\U00016d40\U00010940\U00011db0\U00016ea0\U000323b0\ua7dc"
_LONG_SPACE = 1 << 15
_LONGEST = 1024
"""Bytes of a token that merges do not give; to look for the ways to cut longer ones would take long."""


class Ranks:
    """An encoder that gives the ids `tokenizers` would give, or None."""

    def __init__(self, ranks: dict[bytes, int], pattern: str, added: list[str]) -> None:
        """Take the ids of tokens by their bytes, all 256 bytes among them, and the added tokens that text may hold."""
        free = max(ranks.values()) + 1
        # Without any special token it would look for an empty one at every letter.
        self._encoding = tiktoken.Encoding(
            "ranks", pat_str=pattern, mergeable_ranks=ranks, special_tokens={private_name(): free}
        )
        self._lengths = np.zeros(free, dtype=np.int32)
        self._lengths[list(ranks.values())] = [len(token) for token in ranks]
        self._added = [text for text in added if not any(other in text for other in added if other != text)]

    def encode(self, text: str) -> NDArray[np.uint32] | None:
        """Ids of a text, or None where it is not certain that they are the same."""
        if not text:
            return np.zeros(0, dtype=np.uint32)
        if any(token in text for token in self._added) or _long_space(text):
            return None
        try:
            size = len(text) if text.isascii() else len(text.encode())
            ids = self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
        return ids if np.take(self._lengths, ids).sum() == size else None


def _long_space(text: str) -> bool:
    """Whether the text has a run of twice `_LONG_SPACE` spaces; sometimes also for a run of half that length."""
    return any(text[at : at + _LONG_SPACE].isspace() for at in range(0, len(text) - _LONG_SPACE + 1, _LONG_SPACE))


def ranks_of(source: Json) -> Ranks | None:
    """The encoder for a tokenizer's JSON, in which special tokens are not found in text; None where nothing is proved.

    Takes about a second for 128,000 tokens.
    """
    model, pattern = source["model"], _pattern(source)
    if (
        pattern is None
        or model.get("type") != "BPE"
        or source.get("normalizer") is not None
        or any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    ):
        return None
    ranks = _ranks(model)
    if ranks is None or not _same_characters():
        return None
    added = [token["content"] for token in source["added_tokens"] if not token["special"]]
    try:
        return Ranks(ranks, pattern, added)
    except ValueError:  # the expression is too large for it
        return None


def _pattern(source: Json) -> str | None:
    """The expression that cuts text into pieces, where there is one and both libraries read it alike."""
    match list(steps(source.get("pre_tokenizer"), "pretokenizers")):
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            pattern = _GPT2
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            pass
        case _:
            return None
    if not _AGREED.fullmatch(pattern):
        return None
    try:
        empty = re.match(re.sub(r"\\p\{\w+\}", "x", pattern), "")
    except re.error:  # such as from 3 to 1 times
        return None
    return None if empty else pattern


def _ranks(model: Json) -> dict[bytes, int] | None:
    """Id by bytes of the tokens that may be joined by rank; None where the module's conditions do not hold."""
    alphabet = byte_alphabet()
    vocabulary = {name: index for name, index in model["vocab"].items() if all(char in alphabet for char in name)}
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    pairs = [(left, right) for left, right in merges if left + right in vocabulary]
    if (
        any(char not in vocabulary for char in alphabet)
        or "" in vocabulary
        or len(set(vocabulary.values())) < len(vocabulary)
        or len(set(pairs)) < len(pairs)
    ):
        return None
    whole = models.BPE(model["vocab"], [(left, right) for left, right in merges], cache_capacity=0)
    reached = {name for name in vocabulary if len(name) == 1 or len(whole.tokenize(name)) == 1}
    if model.get("ignore_merges"):
        known, others = set(pairs), vocabulary.keys() - reached
        if any(len(name) > _LONGEST or any(cut not in known for cut in _cuts(name, vocabulary)) for name in others):
            return None
        reached = set(vocabulary)
    made = [vocabulary[left + right] for left, right in pairs if left + right in reached]
    if any(later < earlier for earlier, later in pairwise(made)):
        return None
    return {bytes(alphabet[char] for char in name): vocabulary[name] for name in vocabulary if name in reached}


def _cuts(name: str, vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Every way to cut a token into two."""
    for at in range(1, len(name)):
        if name[:at] in vocabulary and name[at:] in vocabulary:
            yield name[:at], name[at:]


@cache
def _same_characters() -> bool:
    """Whether both libraries know the same characters, tried on those that Unicode took up last."""
    text = _NEW + _NEWER
    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    for kind in ("L", "M", "N", "P", "S"):
        pattern = rf"\p{{{kind}}}"
        pieces = pre_tokenizers.Split(Regex(pattern), "removed", invert=True).pre_tokenize_str(text)
        encoding = tiktoken.Encoding("one class", pat_str=pattern, mergeable_ranks=bytes_alone, special_tokens={})
        if "".join(piece for piece, _ in pieces).encode() != bytes(encoding.encode_ordinary(text)):
            return False
    return True
