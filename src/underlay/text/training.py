"""Learning our own tokenizer: byte-level BPE (arXiv:1508.07909; GPT-2's byte alphabet), lossless on any bytes.

Text is first cut into words, numbers, punctuation and white space by a regular expression, then frequent byte pairs
inside each piece are merged. Special tokens have the first ids.
"""

from collections.abc import Iterable

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from underlay.errors import UserError
from underlay.text.special import GAP, TRAINED, Special
from underlay.text.tokenizer import Tokenizer

# Words with their leading space; single digits, so that numbers are built the same way everywhere; runs of
# punctuation; a newline with the indentation behind it, which code repeats endlessly.
PIECES = r" ?[\p{L}\p{M}_]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}_]+|\r?\n[ \t]*|\s+(?!\S)|\s"


def train_tokenizer(texts: Iterable[str], vocabulary: int, mask: bool = False, fim: bool = False) -> Tokenizer:
    """Learn a byte-level BPE of `vocabulary` ids, special tokens included.

    With `mask` one of them hides others, with `fim` three mark a gap that is to be filled in.
    Raises UserError where the vocabulary cannot even hold the 256 bytes and the special tokens. A corpus without
    enough different pairs gives fewer ids.
    """
    special = [*TRAINED, *([Special.MASK] if mask else []), *(GAP if fim else [])]
    least = 256 + len(special)
    if vocabulary < least:
        raise UserError(
            f"a vocabulary of {vocabulary} is too small: 256 bytes and {len(special)} special tokens need {least}"
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=[token.value for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(texts, trainer=trainer)
    return Tokenizer(backend, {"mask_token": Special.MASK.value} if mask else None)
