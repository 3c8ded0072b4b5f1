"""The index over a model's training tokens: a suffix array beside the tokens, four bytes a token, on disk.

With it every phrase of the training data is found in a few dozen reads, however large the data (infini-gram,
arXiv:2401.17377). The index refers to one stream of tokens and to no other, so it records the stream's length and
hash, and opening it beside anything else is an error. It knows nothing of files and lines: those come from the
`TokenStore`, the dataset that holds the tokens.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import psutil
from numpy.typing import ArrayLike, NDArray

from underlay.errors import MachineError, UserError
from underlay.kernels import suffix
from underlay.progress import Progress, silent

FORMAT = "underlay.trace/1"
_CHUNK = 1 << 24  # tokens hashed at a time


class DocumentRow(Protocol):
    """What a store says of one document. Attributes only: a frozen dataclass or a named tuple will do."""

    @property
    def id(self) -> str:
        """The hash of the document's content."""

    @property
    def start(self) -> int:
        """Position of its first token, BOS included."""

    @property
    def end(self) -> int:
        """Position after its last token, EOS included."""

    @property
    def source(self) -> str:
        """Path or URL that the document was read from."""

    @property
    def first_line(self) -> int:
        """Line of the source, from 1, on which the document starts."""

    @property
    def last_line(self) -> int:
        """Line on which it ends; `first_line` where the text's lines are not the source's, as in records."""

    @property
    def licence(self) -> str | None:
        """Licence, where the source states one."""


class TokenStore(Protocol):
    """The training tokens, `BOS document EOS BOS document EOS ...`, and which document stands where."""

    @property
    def tokens(self) -> NDArray[Any]:
        """(n,) uint16 or uint32, usually memory-mapped."""

    def document_at(self, position: int) -> DocumentRow:
        """Return the document that the token at `position` belongs to."""


class Codec(Protocol):
    """A byte-level tokenizer: the bytes of a sequence are the bytes of its tokens, one after the other."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of `text`, never a special one."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the tokens' bytes; special tokens have none."""


def build(
    tokens: NDArray[Any],
    folder: Path,
    progress: Progress = silent,
    *,
    separators: Collection[int],
    vocabulary: int,
) -> None:
    """Write the index of `tokens`, shape (n,) uint16 or uint32, into `folder`: `suffixes.npy` and `index.json`.

    separators: the special tokens that end or begin a document, which no match may contain; vocabulary: the number of
    token ids. Progress counts tokens. Raises UserError where `tokens` is empty or holds an id outside the vocabulary,
    and MachineError where the suffix array would not fit into memory.
    """
    n = len(tokens)
    if n == 0:
        raise UserError("trace index: there are no tokens to index; pack some documents first")
    if (largest := int(tokens.max())) >= vocabulary:
        raise UserError(f"trace index: token {largest} is outside the vocabulary of {vocabulary}; wrong tokenizer?")
    needed, free = 8 * n, psutil.virtual_memory().available
    if needed > free:
        raise MachineError(f"trace index: sorting {n} tokens takes {needed >> 20} MiB, only {free >> 20} MiB are free")
    folder.mkdir(parents=True, exist_ok=True)
    suffixes = suffix.suffix_array(tokens, lambda done, total, **facts: progress(done, total, step="sort", **facts))
    np.save(folder / "suffixes.npy", suffixes)
    header = {
        "format": FORMAT,
        "tokens": n,
        "sha256": _hash(tokens),
        "vocabulary": vocabulary,
        "separators": sorted(separators),
    }
    (folder / "index.json").write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, eq=False)
class TraceIndex:
    """An opened index: the tokens, their suffix array, and what a phrase may not contain."""

    tokens: NDArray[Any]
    """(n,) uint16 or uint32."""
    suffixes: suffix.Suffixes
    """(n,) uint32, memory-mapped."""
    vocabulary: int
    """The number of token ids."""
    separators: frozenset[int]
    """Special tokens between documents."""

    @classmethod
    def open(cls, folder: Path, tokens: NDArray[Any], *, verify: bool = False) -> Self:
        """Open the index in `folder` that was built from `tokens`; with `verify`, also compare the tokens' hash.

        Raises UserError in one line where files are missing or damaged, of another format, or of other tokens.
        """
        mend = "build the index again"
        try:
            header = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            suffixes = np.load(folder / "suffixes.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"trace index {folder}: cannot be read ({error}); {mend}") from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            found = header.get("format") if isinstance(header, dict) else header
            raise UserError(f"trace index {folder}: format {found!r} instead of {FORMAT!r}; {mend}")
        match header:
            case {"tokens": int(n), "sha256": str(digest), "vocabulary": int(size), "separators": [*ids]} if all(
                isinstance(i, int) for i in ids
            ):
                pass
            case _:
                raise UserError(f"trace index {folder}: index.json lacks fields or has wrong ones; {mend}")
        if suffixes.dtype != np.uint32 or suffixes.shape != (n,):
            raise UserError(
                f"trace index {folder}: suffixes.npy is {suffixes.dtype} {suffixes.shape}, not uint32 ({n},); {mend}"
            )
        if len(tokens) != n:
            raise UserError(f"trace index {folder}: built from {n} tokens, the dataset has {len(tokens)}; {mend}")
        if verify and _hash(tokens) != digest:
            raise UserError(f"trace index {folder}: built from other tokens than the dataset's; {mend}")
        return cls(tokens, suffixes, size, frozenset(ids))

    def longest_matches(self, ids: ArrayLike) -> suffix.Matches:
        """Find the longest phrase of the training data from every position of `ids`, (m,); none holds a separator."""
        return suffix.longest_matches(self.tokens, self.suffixes, self._mask(ids))

    def find(self, ids: ArrayLike) -> tuple[int, int]:
        """Return the interval [first, last) of `suffixes` at which the phrase `ids` stands; (0, 0) if nowhere."""
        return suffix.find(self.tokens, self.suffixes, self._mask(ids))

    def _mask(self, ids: ArrayLike) -> NDArray[np.int64]:
        wanted = np.array(ids, dtype=np.int64)
        wanted[np.isin(wanted, list(self.separators))] = -1  # which no token equals
        return wanted


def _hash(tokens: NDArray[Any]) -> str:
    """SHA-256 of the tokens as little-endian integers of their own width."""
    digest = hashlib.sha256()
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        digest.update(chunk.astype(chunk.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()
