"""Byte-level BPE (arXiv:1508.07909; GPT-2's byte alphabet), lossless on any bytes.

Text is first cut into words, numbers, punctuation and white space by a regular expression, then frequent byte pairs
inside each piece are merged. Special tokens have the first ids and are written by name alone: text that looks like one
is encoded as plain bytes, so nobody can smuggle an end of turn into a prompt.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from underlay.errors import UserError

TOKENIZER = "tokenizer.json"

# Words with their leading space; single digits, so that numbers are built the same way everywhere; runs of
# punctuation; a newline with the indentation behind it, which code repeats endlessly.
PIECES = r" ?[\p{L}\p{M}_]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}_]+|\r?\n[ \t]*|\s+(?!\S)|\s"


class Special(StrEnum):
    """Tokens that mark structure; they never arise from text."""

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


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: printable bytes stand for themselves, others follow from U+0100."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


class Tokenizer:
    """Encodes text into ids and decodes ids into exactly the same bytes."""

    def __init__(self, backend: Backend) -> None:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        alphabet = _byte_alphabet()
        self._specials: dict[str, int] = {}
        for special in Special:
            index = backend.token_to_id(special.value)
            if index is None:
                raise UserError(f"tokenizer lacks the special token {special.value}")
            self._specials[special.value] = index
        special_ids = set(self._specials.values())
        self._bytes: list[bytes] = []
        for index in range(backend.get_vocab_size()):
            token = backend.id_to_token(index)
            if token is None:
                raise UserError(f"tokenizer has no token with id {index}")
            self._bytes.append(b"" if index in special_ids else bytes(alphabet[char] for char in token))

    @property
    def size(self) -> int:
        """Number of token ids, special ones included."""
        return len(self._bytes)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that never arise from text."""
        return frozenset(self._specials.values())

    def special(self, token: Special) -> int:
        """The id of a special token."""
        return self._specials[token.value]

    def encode(self, text: str) -> list[int]:
        """Ids of the text; never a special one."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        return [e.ids for e in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes the ids stand for; special tokens stand for none."""
        return b"".join(self._bytes[index] for index in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text the ids stand for; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: UTF-8 is encoded as text, what is not UTF-8 byte by byte."""
        ids: list[int] = []
        while data:
            try:
                return ids + self.encode(data.decode("utf-8"))
            except UnicodeDecodeError as error:
                ids += self.encode(data[: error.start].decode("utf-8"))
                ids += [self._byte_id(byte) for byte in data[error.start : error.end]]
                data = data[error.end :]
        return ids

    def _byte_id(self, byte: int) -> int:
        return self._bytes.index(bytes([byte]))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` (the format of the `tokenizers` library) into an existing folder."""
        (folder / TOKENIZER).write_text(self._backend.to_str(pretty=True), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read `tokenizer.json`. Raises UserError where it is missing, damaged, or lacks our special tokens."""
        path = folder / TOKENIZER
        try:
            return cls(Backend.from_str(path.read_text("utf-8")))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file") from error
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{path}: not a tokenizer: {str(error).splitlines()[0]}") from error


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learn a byte-level BPE of `vocabulary` ids, special tokens included.

    Raises UserError where the vocabulary cannot even hold the 256 bytes and the special tokens. A corpus without
    enough different pairs gives fewer ids.
    """
    least = 256 + len(Special)
    if vocabulary < least:
        raise UserError(
            f"a vocabulary of {vocabulary} is too small: 256 bytes and {len(Special)} special tokens need {least}"
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=[special.value for special in Special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(texts, trainer=trainer)
    return Tokenizer(backend)
