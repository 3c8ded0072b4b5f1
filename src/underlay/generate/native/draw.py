"""Drawing tokens and telling likelihoods in C++ (draw.h): all rows of a step in one call.

What is done is what `underlay.generate.sampler` does in torch, to the last token; that is the place to read what it
means. Here numbers are put where the library finds them.
"""

import ctypes
from array import array
from collections.abc import Sequence

from torch import Tensor

from underlay.generate.request import TokenLogprob
from underlay.generate.sampler import Sampler


def best(library: ctypes.CDLL, native: int, logits: Tensor) -> list[int | None]:
    """See `underlay.generate.sampler.Best`."""
    logits = logits.contiguous()
    chosen = array("i", bytes(4 * len(logits)))
    library.underlay_best(native, *logits.shape, logits.data_ptr(), chosen.buffer_info()[0])
    return [None if token < 0 else token for token in chosen]


def draw(
    library: ctypes.CDLL, native: int, logits: Tensor, rows: Sequence[int], samplers: Sequence[Sampler]
) -> list[int | None]:
    """See `underlay.generate.sampler.Draw`; native: what `underlay_new` gave, whose threads do the work."""
    logits = logits.contiguous()
    choices, chosen = array("d"), array("i", bytes(4 * len(rows)))
    for row, sampler in zip(rows, samplers, strict=True):
        choices.extend((row, sampler.number(), *sampler.limits))
    complaint: bytes | None = library.underlay_draw(
        native, len(rows), logits.shape[-1], logits.data_ptr(), choices.buffer_info()[0], chosen.buffer_info()[0]
    )
    if complaint is not None:
        raise MemoryError(complaint.decode())
    return [None if token < 0 else token for token in chosen]


def tell(
    library: ctypes.CDLL, native: int, logits: Tensor, chosen: Sequence[int], counts: Sequence[int]
) -> list[TokenLogprob]:
    """See `underlay.generate.sampler.Tell`."""
    logits = logits.contiguous()
    rows, vocabulary = logits.shape
    most = min(max(counts, default=0), vocabulary)
    tokens, told = array("i", chosen), array("d", bytes(8 * rows))
    ids, values = array("i", bytes(4 * rows * most)), array("d", bytes(8 * rows * most))
    complaint: bytes | None = library.underlay_tell(
        native,
        rows,
        vocabulary,
        logits.data_ptr(),
        tokens.buffer_info()[0],
        most,
        told.buffer_info()[0],
        ids.buffer_info()[0],
        values.buffer_info()[0],
    )
    if complaint is not None:
        raise MemoryError(complaint.decode())
    result = []
    for row, (token, value, count) in enumerate(zip(chosen, told, counts, strict=True)):
        top = slice(row * most, row * most + min(count, most))
        result.append(TokenLogprob(token, value, tuple(zip(ids[top], values[top], strict=True))))
    return result
