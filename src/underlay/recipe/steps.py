"""From a step of training to the documents that were read in it.

The order of the data is a function of the step, so nothing has to be stored for this: it is computed again from the
model's manifest.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from underlay.config import parse
from underlay.data import Dataset, Rows
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.models.storage import load_model
from underlay.recipe import stages
from underlay.recipe.adapting import length_of, objective_of, split_of, tokenizer_of
from underlay.recipe.lessons import Teaching
from underlay.recipe.reading import Read, read_in_examples, read_in_rows
from underlay.recipe.training import rows_of
from underlay.train.journal import metrics_in


@dataclass(frozen=True)
class Step:
    """One step of training."""

    log: dict[str, float]
    """What was measured: step, tokens, loss, rate, norm, kept."""
    documents: tuple[Read, ...]
    """What was read, most of it first."""


def read_in(library: Library, model: Artifact, step: int) -> Step:
    """The documents in a step (counted from 1) of a model's training.

    Raises UserError where the model was not trained here, or in fewer steps, or its data are gone.
    """
    verb = model.manifest.verb
    if verb not in ("pretrain", "adapt"):
        raise UserError(f"{model.reference} was not trained here, but made by {verb}; name a model that was")
    log = _log(model, step)
    if verb == "pretrain":
        return Step(log, tuple(_pretrained(library, model, step)))
    return Step(log, tuple(_adapted(library, model, step)))


def _log(model: Artifact, step: int) -> dict[str, float]:
    """The step's row in the log, whose lines are the steps from 1 on."""
    if step > 0:
        with metrics_in(model.folder).open(encoding="utf-8") as file:
            for line in islice(file, step - 1, step):
                row: dict[str, float] = json.loads(line)
                return row
    raise UserError(
        f"{model.reference} was trained in {model.manifest.metrics['steps']:,} steps; there is no step {step}"
    )


def rows_read(library: Library, model: Artifact) -> tuple[Rows, int]:
    """The rows that a model was pretrained on, in their order, and how many were read in a step."""
    roles = {parent.role: parent.reference for parent in model.manifest.parents}
    # A manifest holds every size, also where `params` had chosen them, and where they are those of `start`.
    chosen = {"params", *({"model", "embedding"} if "start" in roles else ())}
    kept = {key: value for key, value in model.manifest.config.items() if key not in chosen}
    settings = parse(stages.PretrainStage, {**kept, **roles}, model.reference)
    dataset = Dataset(library.ancestor(model, "dataset").folder)
    return rows_of(dataset, settings, model.manifest.seed), settings.train.batch_rows


def _pretrained(library: Library, model: Artifact, step: int) -> Iterator[Read]:
    rows, at_once = rows_read(library, model)
    return read_in_rows(rows, _samples(at_once, step))


def _adapted(library: Library, model: Artifact, step: int) -> Iterator[Read]:
    inputs = {parent.role: library.find(parent.reference) for parent in model.manifest.parents}
    roles = {role: one.reference for role, one in inputs.items()}
    known = {key: value for key, value in model.manifest.config.items() if key in stages.AdaptStage.model_fields}
    settings = parse(stages.AdaptStage, {**known, **roles}, model.reference)
    split, base = split_of(library, inputs), inputs["model"]
    objective = objective_of(settings, split)
    train = length_of(settings, objective)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, seed = tokenizer_of(base, settings), model.manifest.seed
        teaching = Teaching(tokenizer, train, seed, Path(scratch), inputs.get("teacher"), inputs.get("reward_model"))
        source = teaching.lesson(load_model(base.folder), split.learned, objective).source
    return read_in_examples(source, split.learned, _samples(train.batch_rows, step))


def _samples(rows: int, step: int) -> range:
    return range((step - 1) * rows, step * rows)
