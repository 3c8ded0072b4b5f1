"""Texts with what is to be said of them, each beside a copy in other words that is made afresh in every pass.

Adversarial examples are learned beside clean ones, so that what is gained under attack is not lost without one
(arXiv:1412.6572). The words of the n-th copy follow from the seed and n alone, so a run that was stopped reads the same
ones again.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from underlay.adapt.heads.source import TaskBatch, TaskRows, Texts
from underlay.adapt.heads.texts import Text, frame_texts
from underlay.adapt.robust.config import RobustConfig
from underlay.adapt.robust.words import harmed_text
from underlay.models import Model
from underlay.text import Tokenizer


class Beside:
    """A source of rows for heads on texts, each with a copy: its n-th sample is two rows with the same target."""

    def __init__(
        self,
        rows: TaskRows,
        texts: Sequence[Text],
        settings: RobustConfig,
        model: Model,
        tokenizer: Tokenizer,
        context: int,
        seed: int,
    ) -> None:
        """texts: of the examples that the rows are of, by the examples' numbers."""
        assert settings.wordings, "some way to harm texts"
        self.rows, self.texts, self.settings = rows, texts, settings
        self._model, self._tokenizer, self._context, self._seed = model, tokenizer, context, seed

    def __len__(self) -> int:
        return len(self.rows)

    def examples(self, sample: int) -> list[int]:
        """The example of the `sample`-th row to be read."""
        return self.rows.examples(sample)

    def copy(self, sample: int) -> Text:
        """The words of the `sample`-th copy."""
        (number,) = self.rows.examples(sample)
        return harmed_text(self.texts[number], self.settings.wordings, self.settings, self._seed, sample)

    def batch(self, first: int, count: int) -> TaskBatch:
        """The samples first, first + 1, ...: (2 count, time), all clean rows and then their copies."""
        clean = self.rows.batch(first, count)
        copies = [self.copy(sample) for sample in range(first, first + count)]
        framed, _ = frame_texts(self._model, self._tokenizer, copies, self._context)
        tokens, present, types = Texts([one for one in framed if one is not None]).padded(np.arange(count))
        assert clean.present is not None
        both = (clean.types, clean.tokens), (types, tokens)
        kinds = [torch.zeros_like(read) if own is None else own for own, read in both]
        return TaskBatch(
            _stacked(clean.tokens, tokens),
            clean.targets.repeat(2, 1),
            present=_stacked(clean.present, present),
            types=None if clean.types is None and types is None else _stacked(*kinds),
            values=None if clean.values is None else clean.values.repeat(2),
            taught=None if clean.taught is None else clean.taught.repeat(2, 1),
        )


def _stacked(one: Tensor, other: Tensor) -> Tensor:
    """Rows above others, padded to the longer with zeros."""
    time = max(one.shape[1], other.shape[1])
    return torch.cat([torch.nn.functional.pad(part, (0, time - part.shape[1])) for part in (one, other)])
