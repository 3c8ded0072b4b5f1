"""Texts to vectors: near in meaning, near in direction (Sentence-BERT, arXiv:1908.10084)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.generate.padded import BATCH_TOKENS, padded
from underlay.models import Encoder, Model
from underlay.models.pooling import Pooling, pool
from underlay.progress import Progress, silent
from underlay.text import Tokenizer
from underlay.text.tokenizer import Framed


def pooling_of(model: Model) -> Pooling:
    """How a model's vectors are made unless something else is asked for: an encoder's by its config, else `last`."""
    return model.config.pooling if isinstance(model, Encoder) else "last"


@torch.no_grad()
def embed(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pooling: Pooling | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
    log: Callable[[str], None] = lambda _: None,
) -> Tensor:
    """One vector a text, in the order of the texts: (texts, width) float32, on the CPU.

    Texts stand between the tokenizer's own marks, `[CLS] a [SEP]`. One that is longer than the model's context, or
    than its tokenizer's `longest`, is cut, its closing marks are kept, and `log` is told. An encoder's vectors are
    pooled as its config says, unless `pooling` says otherwise, and have length one where it says so; a decoder's are
    the state of the last token, of length one. What stands beside a text in its batch changes its vector by rounding
    alone. Raises UserError where a text is empty and the tokenizer has no mark to stand for it.
    """
    context = min(model.config.context, tokenizer.longest or model.config.context)
    framed = []
    for number, text in enumerate(texts, 1):
        framed.append(_framed(tokenizer, text, "the text" if len(texts) == 1 else f"text {number}"))
    long = sum(len(text.ids) > context for text in framed)
    if long:
        log(f"{long} of {len(framed)} texts are longer than the {context} tokens it reads: their ends were left out")
    framed = [_cut(text, context, len(tokenizer.end)) for text in framed]
    how = pooling or pooling_of(model)
    vectors, done = torch.empty(len(framed), model.config.width), 0
    for batch in padded(framed, batch_tokens, model.embedding.weight.device):
        if isinstance(model, Encoder):
            types = None if model.types is None else batch.types
            hidden = model.hidden(batch.tokens, batch.present, types)
            unit = model.config.normalised
        else:
            # Attention is causal: what pads a row on the right changes nothing before it.
            hidden, unit = model.hidden(batch.tokens), True
        vectors[batch.rows] = pool(hidden, batch.present, how, unit).cpu()
        done += len(batch.rows)
        progress(done, len(framed))
    return vectors


def _framed(tokenizer: Tokenizer, text: str, where: str) -> Framed:
    framed = tokenizer.frame(text)
    if framed.ids:
        return framed
    try:
        ids = tokenizer.prompt(text)
    except UserError as error:
        raise UserError(f"{where} is empty, and this model has no token to stand for it; leave it out") from error
    return Framed(ids, [0] * len(ids))


def _cut(text: Framed, context: int, closing: int) -> Framed:
    if len(text.ids) <= context:
        return text
    kept = max(context - closing, 0)
    rest = len(text.ids) - min(closing, context)
    return Framed(text.ids[:kept] + text.ids[rest:], text.type_ids[:kept] + text.type_ids[rest:])
