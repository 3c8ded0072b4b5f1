"""Tokenizers of other tools: whatever a folder holds becomes one `underlay.text.Tokenizer`.

Read are, and the first that is there counts: `tokenizer.json`; a SentencePiece model or a file of ranks (tiktoken);
`vocab.json` with `merges.txt`; `vocab.txt`. Nothing of it is ever run as code.
"""

from pathlib import Path

from tokenizers import Tokenizer as Backend

from underlay.errors import UserError
from underlay.formats.tokenizers.sentencepiece import read_sentencepiece
from underlay.formats.tokenizers.tiktoken import looks_like_ranks, read_ranks
from underlay.formats.tokenizers.vocabularies import read_merges, read_words
from underlay.text import Tokenizer
from underlay.text.files import TOKENIZER, Config
from underlay.text.tokenizer import assemble

_MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model", "spm.model")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, with the roles, the stop tokens and the chat template that the folder names.

    Raises UserError where the folder holds none, and, naming the file, where one is damaged or of a kind that cannot
    be expressed exactly.
    """
    if (folder / TOKENIZER).is_file():
        return Tokenizer.load(folder)
    backend, defaults = _build(folder)
    return assemble(backend, folder, defaults)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which `transformers`' AutoTokenizer reads; makes the folder.

    Whatever files it came from, it is these two that are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)


def _build(folder: Path) -> tuple[Backend, Config]:
    """The algorithm of a folder without `tokenizer.json`, and what its kind says about roles."""
    if (model := _model_file(folder)) is not None:
        return read_ranks(model, folder) if looks_like_ranks(model) else read_sentencepiece(model, folder)
    if ranks := sorted(folder.glob("*.tiktoken")):
        return read_ranks(ranks[0], folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return read_merges(folder)
    if (folder / "vocab.txt").is_file():
        return read_words(folder)
    raise UserError(
        f"{folder}: no tokenizer; bring tokenizer.json, tokenizer.model, *.tiktoken, vocab.json with merges.txt, "
        "or vocab.txt"
    )


def _model_file(folder: Path) -> Path | None:
    for name in _MODELS:
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.model"))
    if len(found) > 1:
        raise UserError(f"{folder}: several files end in .model; name the tokenizer's tokenizer.model")
    return found[0] if found else None


__all__ = ["load_tokenizer", "save_tokenizer"]
