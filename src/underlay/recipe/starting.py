"""Pretraining that does not start from chance: from the weights of a model, on text that may be of another kind.

What a model learns anew pushes out what it knew (catastrophic forgetting, arXiv:1312.6211). Reading a share of the old
text again, while the rate rises and falls once more, keeps most of it (arXiv:2403.08763). So such a run is measured
before its first step and after its last, on held-out text of every part that it reads, and of what its model was
trained on before, as far as the library knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from underlay.data import Dataset, Masked, Rows
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.models import Decoder, Model
from underlay.models.storage import load_model
from underlay.recipe import stages
from underlay.recipe.heldout import HeldOut
from underlay.recipe.job import Job
from underlay.text import Tokenizer
from underlay.train import CausalLM, Examination, TrainConfig

ROLE = "start"
"""The input that names the model."""
BASE, WHOLE = "base", "new"
"""What is called: text that the model was trained on before; a dataset that has no parts with names."""
_CORPORA = ("corpus", "corpora")
_NEVER = 1 << 62
"""Examined so seldom, a run is examined at its ends alone."""
_FIGURES = {"heldout_bits_per_byte": "bits per byte", "heldout_loss": "nats a target"}
"""By which it is compared, the first that there is; and its unit."""


def starting_model(job: Job, dataset: Dataset, tokenizer: Tokenizer) -> Model:
    """The model to start from. Raises UserError where it cannot learn from the dataset, or by these settings."""
    settings: stages.PretrainStage = job.settings
    artifact = job.inputs[ROLE]
    where = f"pretrain.{ROLE}: {artifact.reference}"
    if not Tokenizer.load(artifact.folder).same_tokens(tokenizer):
        raise UserError(
            f"{where} has other tokens than {job.inputs['dataset'].reference}; pack that with a tokenizer stage of "
            "`model`, which takes the model's"
        )
    model = load_model(artifact.folder)
    config = model.config
    if unfit := settings.unfit(config):
        raise UserError(f"{where}: {unfit}")
    if config.vocabulary < dataset.info.vocabulary:
        raise UserError(f"{where} knows {config.vocabulary} tokens, the dataset has {dataset.info.vocabulary}")
    if config.context < settings.train.context:
        raise UserError(
            f"{where} reads {config.context} tokens, pretrain.train.context is {settings.train.context}; lower it"
        )
    return model


def at_both_ends(train: TrainConfig) -> TrainConfig:
    """The same, examined at least at its end, where nothing else is said."""
    return train if train.examine_steps else train.model_copy(update={"examine_steps": _NEVER})


@dataclass(frozen=True)
class Sets:
    """Measures held-out text of several kinds by themselves, beside what `whole` finds of all that is read."""

    whole: HeldOut
    parts: Mapping[str, HeldOut]

    def __call__(self) -> Examination:
        """The figures of the whole, and those of each part with its name behind a dot: `heldout_loss.prose`."""
        found = self.whole()
        figures = dict(found.figures)
        for name, part in self.parts.items():
            figures |= {f"{key}.{name}": value for key, value in part().figures.items()}
        return replace(found, figures=figures)


def sets_of(job: Job, model: Model, tokenizer: Tokenizer, whole: HeldOut) -> Sets:
    """What a run that starts from a model is measured on."""
    settings: stages.PretrainStage = job.settings
    heldout = Dataset(job.folder("dataset"), "heldout")
    wanted: dict[str, tuple[Dataset, str | None]] = {name: (heldout, name) for name in heldout.parts}
    earlier = read_before(job.library, job.inputs[ROLE], tokenizer)
    if earlier is not None and BASE not in wanted and not _holds(job.inputs["dataset"], earlier):
        wanted[BASE] = Dataset(earlier.folder, "heldout"), None

    def measured(dataset: Dataset, part: str | None) -> HeldOut:
        rows = Rows(dataset, settings.train.context, job.seed, settings.isolate, part=part)
        objective = CausalLM(settings.train.dtype())
        if isinstance(model, Decoder):
            return HeldOut(model, objective, rows, rows.count, settings.train, tokenizer)
        return HeldOut(model, objective, Masked(rows, tokenizer, settings.masking), rows.count, settings.train)

    return Sets(whole, {name: measured(*one) for name, one in wanted.items()})


def read_before(library: Library, model: Artifact, tokenizer: Tokenizer) -> Artifact | None:
    """The dataset that a model was trained on, in the same tokens; None where the library does not know it."""
    line = [model, *library.ancestors(model)]
    if any(artifact.manifest.verb == "import" for artifact in line):
        return None
    found = next((artifact for artifact in line if artifact.manifest.kind == "dataset"), None)
    own = None if found is None else library.parents(found).get("tokenizer")
    return found if own is not None and Tokenizer.load(own.folder).same_tokens(tokenizer) else None


def _holds(dataset: Artifact, earlier: Artifact) -> bool:
    """Whether a dataset has every corpus of another in it."""

    def corpora(one: Artifact) -> set[str]:
        return {parent.hash for parent in one.manifest.parents if parent.role.partition(".")[0] in _CORPORA}

    return dataset.manifest.hash == earlier.manifest.hash or corpora(dataset) >= corpora(earlier)


def compared(evaluations: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What a run learned and forgot: of each kind of text `before`, `after`, and by how much it became worse.

    evaluations: rows of a run that was examined before its first step and after its last.
    """
    first, last = evaluations[0], evaluations[-1]
    assert first["step"] == 0
    figure = next(name for name in _FIGURES if name in last)
    names = [key.removeprefix(f"{figure}.") for key in last if key.startswith(f"{figure}.")]
    keys = {name: f"{figure}.{name}" for name in names}
    if not set(names) - {BASE}:
        keys = {WHOLE: figure, **keys}
    return {
        "unit": _FIGURES[figure],
        "before": {name: first[key] for name, key in keys.items()},
        "after": {name: last[key] for name, key in keys.items()},
        "forgotten": {name: max(0.0, last[key] - first[key]) for name, key in keys.items()},
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """What `compared` found, a line for each kind of text."""
    told = []
    for name, before in found["before"].items():
        after, lost = found["after"][name], found["forgotten"][name]
        forgotten = f", {lost:.3f} forgotten" if lost else ""
        told.append(f"held out {name}: {before:.3f} -> {after:.3f} {found['unit']}{forgotten}")
    return told
