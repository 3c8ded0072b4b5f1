"""The verb `quantise`: a model in fewer bits, and what that lost on held-out text."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from underlay.data import Corpus, Dataset, PackConfig, Rows, pack
from underlay.errors import UserError
from underlay.generate.calibrate import calibrate
from underlay.library import Artifact, Library
from underlay.models import Decoder
from underlay.models.quantised import GROUP, QuantisedMatrix, matrix, quantised_names, round_to_nearest
from underlay.models.quantised_storage import Quantisation, dequantised, read_notes
from underlay.models.storage import WEIGHTS, load_decoder, parameter_count, save_quantised
from underlay.recipe.heldout import HeldOut
from underlay.recipe.job import Job
from underlay.recipe.recipe import Recipe, make_recipe
from underlay.recipe.stages import QuantiseStage
from underlay.text import Tokenizer
from underlay.text.files import TOKENIZER
from underlay.train import CausalLM, TrainConfig

_HELD_OUT_OF_CORPUS = 0.1
"""Share of a corpus's documents that quantised models are measured on."""
_AT_ONCE = 4
"""Rows that are measured at once."""


def quantise(job: Job) -> None:
    """Quantise a model, and measure it before and after."""
    settings: QuantiseStage = job.settings
    source = job.inputs["model"]
    if read_notes(source.folder) is not None:
        raise UserError(f"{source.reference} is quantised already; name the model that it was made from")
    model, tokenizer = load_decoder(source.folder), Tokenizer.load(source.folder)
    if model.task is not None:
        raise UserError(f"{source.reference} has a head for a task; only models that write on are quantised")
    text, folder = _text(job, source, tokenizer)
    context = min(settings.context, model.config.context)
    before = _measured(model, tokenizer, folder, context, settings.heldout_rows)
    matrices = _matrices(model, settings, folder, context, job)
    rounded = dequantised(model, matrices)
    after = _measured(rounded, tokenizer, folder, context, settings.heldout_rows)
    notes = Quantisation(
        bits=settings.bits,
        group=GROUP if settings.bits == 4 else None,
        method=settings.method,
        calibrated_on=text.reference if settings.method == "gptq" else None,
        perplexity_before=before["perplexity"],
        perplexity_after=after["perplexity"],
    )
    save_quantised(model, matrices, notes, job.draft.folder)
    tokenizer.save(job.draft.folder)
    job.draft.tokens = settings.rows * context if settings.method == "gptq" else None
    job.draft.licences = source.manifest.licences
    sizes = [(folder / WEIGHTS).stat().st_size for folder in (source.folder, job.draft.folder)]
    job.draft.metrics |= {
        "parameters": parameter_count(model),
        "text": text.reference,
        "before": {**before, "bytes": sizes[0]},
        "after": {**after, "bytes": sizes[1]},
        "perplexity_lost": after["perplexity"] / before["perplexity"] - 1,
        "divergence": _divergence(model, rounded, folder, context, settings.heldout_rows),
    }


def quantise_recipe(
    library: Library,
    model: Artifact,
    settings: Mapping[str, Any],
    name: str | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """A recipe that quantises one model of the library; without a corpus or dataset, with the one it was trained on.

    Raises UserError as `read_recipe` does, and where the library has no text for the model.
    """
    stage = {"model": model.reference, **settings}
    if not stage.get("dataset") and not stage.get("corpus"):
        stage["dataset"] = _trained_on(library, model).reference
    bits = settings.get("bits", 8)
    values = {"name": name or f"{model.manifest.name}-int{bits}", "stages": {"quantise": stage}}
    return make_recipe(values, "underlay quantise", assignments)


def _trained_on(library: Library, model: Artifact) -> Artifact:
    for one in library.ancestors(model):
        if one.manifest.kind == "dataset":
            return one
    raise UserError(
        f"{model.reference}: the library has no dataset that it was trained on, and so nothing to measure it with; "
        "name a corpus or a dataset"
    )


def _text(job: Job, model: Artifact, tokenizer: Tokenizer) -> tuple[Artifact, Path]:
    """What is read, and the folder of a dataset that holds it."""
    if (corpus := job.inputs.get("corpus")) is not None:
        folder = job.draft.scratch / "dataset"
        folder.mkdir(exist_ok=True)
        pack(Corpus(corpus.folder), tokenizer, PackConfig(heldout=_HELD_OUT_OF_CORPUS), folder, job.progress)
        return corpus, folder
    dataset = job.inputs.get("dataset") or _trained_on(job.library, model)
    theirs = job.library.ancestor(dataset, "tokenizer").folder
    if (theirs / TOKENIZER).read_bytes() != (model.folder / TOKENIZER).read_bytes():
        raise UserError(
            f"{dataset.reference} was packed with another tokenizer than {model.reference} has; name a corpus"
        )
    return dataset, dataset.folder


def _matrices(
    model: Decoder, settings: QuantiseStage, folder: Path, context: int, job: Job
) -> dict[str, QuantisedMatrix]:
    if settings.method == "gptq":
        rows = Rows(Dataset(folder), context, job.seed)
        return calibrate(model, _rows(rows, min(settings.rows, rows.count)), settings.bits, job.progress)
    return {name: round_to_nearest(matrix(model, name), settings.bits) for name in quantised_names(model)}


def _rows(rows: Rows, count: int) -> Iterator[list[int]]:
    for sample in range(count):
        yield rows.batch(sample, 1).tokens[0].tolist()


@torch.no_grad()
def _measured(model: Decoder, tokenizer: Tokenizer, folder: Path, context: int, count: int) -> dict[str, float]:
    """Nats a token, perplexity and bits per byte on held-out rows, always the same."""
    rows = Rows(Dataset(folder, "heldout"), context, seed=0)
    length = TrainConfig(steps=1, examine_rows=count, micro_rows=_AT_ONCE)
    found = HeldOut(model, CausalLM(torch.float32), rows, rows.count, length, tokenizer)().figures
    nats = found["heldout_loss"]
    if not math.isfinite(nats):
        raise UserError("the loss on held-out text is not a number; this model is broken")
    return {
        "nats_per_token": nats,
        "perplexity": math.exp(nats),
        "bits_per_byte": found["heldout_bits_per_byte"],
    }


@torch.no_grad()
def _divergence(model: Decoder, rounded: Decoder, folder: Path, context: int, count: int) -> float:
    """How far what a quantised model expects is from what the model does, in nats a token, on held-out rows.

    The mean of KL(p || q) over all tokens. Perplexity can fall by chance where weights are shaken a little, above all
    that of a model which has not learned all it can; this cannot.
    """
    rows, total = Rows(Dataset(folder, "heldout"), context, seed=0), 0.0
    count = min(count, rows.count)
    for row in _rows(rows, count):
        before, after = (one(torch.tensor([row])).log_softmax(-1)[0] for one in (model, rounded))
        total += float((before.exp() * (before - after)).sum(-1).mean())
    return total / count
