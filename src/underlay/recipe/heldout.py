"""How well a model does on text that it does not learn from, measured while it still learns."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from underlay.errors import UserError
from underlay.generate import Engine, Request, Sampling
from underlay.models import Batch, Decoder
from underlay.text import Tokenizer
from underlay.train import Examination, Objective, Source, TrainConfig

_TOKENS = 48
"""Longest sample."""


class HeldOut:
    """Mean loss on the first rows of a source, always the same, by the objective that is trained."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        source: Source,
        there: int,
        config: TrainConfig,
        tokenizer: Tokenizer | None = None,
        speak: Callable[[], Sequence[dict[str, str]]] = lambda: (),
    ) -> None:
        """Read `config.examine_rows` rows of `source`, or the `there` that it has.

        tokenizer: where targets are the text itself, and so bits per byte can be told; speak: what makes samples.
        """
        self._model, self._objective, self._source, self._speak = model, objective, source, speak
        self._rows, self._at_once = min(config.examine_rows, there), config.micro_rows
        self._bytes = sum(_bytes(batch, tokenizer) for batch in self._batches()) if tokenizer else 0

    def _batches(self) -> Iterator[Batch]:
        for first in range(0, self._rows, self._at_once):
            yield self._source.batch(first, min(self._at_once, self._rows - first))

    def __call__(self) -> Examination:
        """`heldout_loss` in nats a target, and `heldout_bits_per_byte` of the targets' text."""
        device = next(self._model.parameters()).device
        total = count = 0.0
        for batch in self._batches():
            loss = self._objective(self._model, batch.to(device))
            total, count = total + float(loss.sum), count + float(loss.count)
        figures = {"heldout_loss": total / count}
        if self._bytes:
            figures["heldout_bits_per_byte"] = total / math.log(2) / self._bytes
        return Examination(figures, tuple(self._speak()))


@dataclass(frozen=True)
class Speech:
    """What a model says to a few beginnings; by the seed, so that changes come from the model alone."""

    model: Decoder
    tokenizer: Tokenizer
    prompts: Sequence[str]
    requests: Sequence[Request]

    @classmethod
    def of(cls, model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], seed: int) -> "Speech":
        """Raises UserError where a prompt leaves no room in the model's context."""
        requests = []
        for number, prompt in enumerate(prompts):
            ids = tokenizer.prompt(prompt)
            room = model.config.context - len(ids)
            if room < 1:
                raise UserError(
                    f"pretrain.samples: {prompt[:40]!r} has {len(ids)} tokens, and the model's context holds "
                    f"{model.config.context}; shorten it"
                )
            sampling = Sampling(temperature=0.5, top_p=0.95, seed=seed + number)
            requests.append(Request(ids, min(_TOKENS, room), sampling))
        return cls(model, tokenizer, prompts, requests)

    def __call__(self) -> list[dict[str, str]]:
        """For each prompt: `prompt` and `text`, what follows it."""
        if not self.requests:
            return []
        # The plain path reads the weights where they are, which may be spread over processes.
        engine = Engine(self.model, self.tokenizer, slots=min(8, len(self.requests)), path="plain")
        answers = engine.generate(self.requests)
        return [{"prompt": p, "text": answer.text} for p, answer in zip(self.prompts, answers, strict=True)]


def _bytes(batch: Batch, tokenizer: Tokenizer) -> int:
    """UTF-8 bytes that the targets which count stand for; special tokens stand for none."""
    counted = batch.targets if batch.weights is None else batch.targets[batch.weights > 0]
    return len(tokenizer.decode_bytes(counted.flatten().tolist()))
