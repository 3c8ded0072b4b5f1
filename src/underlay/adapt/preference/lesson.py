"""From examples to a lesson about preferences, and how well a model does on pairs that it did not learn from."""

from collections.abc import Sequence
from pathlib import Path

import torch

from underlay.adapt.examples import Example
from underlay.adapt.lesson import Lesson
from underlay.adapt.preference.config import PreferenceConfig, RewardConfig
from underlay.adapt.preference.objectives import DPO, KTO, Reward
from underlay.adapt.preference.reward import with_reward
from underlay.adapt.preference.source import Judgements, Preferences
from underlay.adapt.preference.starting import reference
from underlay.errors import UserError
from underlay.models import Decoder, Model
from underlay.progress import Progress, silent
from underlay.text import Tokenizer
from underlay.train import Objective, Source


def lesson(
    model: Model,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    settings: PreferenceConfig | RewardConfig,
    context: int,
    seed: int,
    dtype: torch.dtype,
    scratch: Path,
    progress: Progress = silent,
) -> Lesson:
    """What trains the model on preferences; by `kto` also on judgements.

    The model is the one to start from: what it says of all answers is computed here, or read from `scratch` (see
    `reference`). What is held out is measured against the same, so make its lesson before training, too. A reward
    model is a new one on the memory of the old.

    Raises UserError where the model is no decoder, the examples are of another form, or nothing of them is left.
    """
    if not isinstance(model, Decoder):
        raise UserError("preferences are learned by decoders; take a model that answers")
    if isinstance(settings, RewardConfig):
        pairs = Preferences(examples, tokenizer, context, seed)
        objective: Objective = Reward(settings.margin, settings.centring, dtype)
        return Lesson(with_reward(model, seed), pairs, objective, len(pairs), pairs.left_out)
    if settings.loss == "kto":
        judged = Judgements(examples, tokenizer, context, seed, settings.group)
        judged = judged.referred(reference(model, judged, dtype, scratch, progress))
        objective = KTO(judged.group, settings.beta, settings.desirable, settings.undesirable, dtype)
        return Lesson(model, judged, objective, len(judged.rows), judged.left_out)
    pairs = Preferences(examples, tokenizer, context, seed)
    pairs = pairs.referred(reference(model, pairs, dtype, scratch, progress))
    objective = DPO(settings.loss, settings.beta, settings.smoothing, dtype)
    return Lesson(model, pairs, objective, len(pairs), pairs.left_out)


@torch.no_grad()
def measure(model: Model, source: Source, objective: Objective, samples: int, at_once: int = 8) -> dict[str, float]:
    """Mean loss of the first samples of a source, and the means of what its objective tells, such as `accuracy`.

    As many samples as the source has rows are all of them, each once (of judgements: groups).
    """
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    count = 0.0
    for first in range(0, samples, at_once):
        found = objective(model, source.batch(first, min(at_once, samples - first)).to(device))
        count += float(found.count)
        for name, one in {"loss": found.sum, **found.metrics}.items():
            sums[name] = sums.get(name, 0.0) + float(one)
    return {name: one / count for name, one in sums.items()}
