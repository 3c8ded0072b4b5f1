"""The verbs that adapt: `adapt` teaches a model by examples, `merge` makes one model of a model and its adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from underlay.adapt import instruct
from underlay.adapt.examples import Example, Examples
from underlay.adapt.lesson import Lesson
from underlay.adapt.lora import LoraConfig, adapter_of, attach
from underlay.adapt.merge import TOLERANCE, drift, merge
from underlay.data import Dataset
from underlay.errors import UserError
from underlay.formats.peft import read_adapter, write_adapter
from underlay.library import Artifact, Library
from underlay.models import Decoder
from underlay.models.storage import load_config, load_decoder, parameter_count, save_model
from underlay.plan.flops import training_flops
from underlay.progress import Progress, silent
from underlay.recipe import stages
from underlay.recipe.heldout import HeldOut
from underlay.recipe.job import Job
from underlay.recipe.reading import read_in_examples
from underlay.recipe.recipe import Recipe, make_recipe
from underlay.recipe.training import recorders_of, trained
from underlay.text import Tokenizer
from underlay.text.files import TOKENIZER
from underlay.text.templates import with_template
from underlay.train import Onlookers, Outcome

_COMPARED = 64
"""Rows of random tokens on which a merged model is compared with what it was merged from."""


@dataclass(frozen=True)
class Split:
    """Examples to learn from, and others to measure on."""

    learned: Sequence[Example]
    heldout: Sequence[Example]


def adapt(job: Job) -> None:
    """Teach a model by examples."""
    settings: stages.AdaptStage = job.settings
    base, train = job.inputs["model"], settings.train
    tokenizer = tokenizer_of(base, settings)
    with job.world.weights():
        model = load_decoder(base.folder)
    if train.context > model.config.context:
        raise UserError(f"adapt.train.context {train.context} is longer than the model's {model.config.context}")
    split = split_of(job.library, job.inputs)
    if settings.method == "lora":
        start = read_adapter(job.folder("adapter"), model.config) if "adapter" in job.inputs else None
        attach(model, settings.lora, job.seed, train.dtype(), start)
    lesson = lesson_of(model, tokenizer, split.learned, settings, job.seed, job.progress)
    source = lesson.source
    out = "".join(f", {count:,} {reason}" for reason, count in lesson.left_out.items())
    job.log(f"{lesson.count:,} {job.inputs['examples'].manifest.metrics['form']}s in {len(source):,} rows{out}")
    onlookers = Onlookers(
        _held_out(job, model, tokenizer, split) if train.examine_steps else None,
        recorders_of(job),
        lambda samples: [str(read) for read in read_in_examples(source, split.learned, samples)],
    )
    work = training_flops(model.config, 1, train.context)

    def save(outcome: Outcome) -> None:
        if settings.method == "lora":
            write_adapter(adapter_of(model), model.config, job.draft.folder, base.reference)
        else:
            save_model(model, job.draft.folder, outcome.weights)

    if trained(job, model, lesson.objective, source, len(source), tokenizer, work, onlookers, save) is None:
        return
    job.draft.metrics |= {"examples": lesson.count, "left_out": dict(lesson.left_out), "rows": len(source)}
    job.draft.metrics["learning"] = sum(p.numel() for p in model.parameters() if p.requires_grad)


def tokenizer_of(base: Artifact, settings: stages.AdaptStage) -> Tokenizer:
    """The base's, with the template that the stage chooses."""
    tokenizer = Tokenizer.load(base.folder)
    return tokenizer if settings.template is None else with_template(tokenizer, settings.template)


def lesson_of(
    model: Decoder,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    settings: stages.AdaptStage,
    seed: int,
    progress: Progress = silent,
) -> Lesson:
    """What the stage's objective makes of examples. Raises UserError where they are of another form."""
    train = settings.train
    return instruct.lesson(
        model, tokenizer, examples, settings.objective, train.context, seed, train.dtype(), train.compiles(), progress
    )


def split_of(library: Library, inputs: Mapping[str, Artifact]) -> Split:
    """The examples of a stage: without those of documents that were held out from its model, which are measured on.

    Raises UserError where nothing is left to learn from.
    """
    examples = Examples(inputs["examples"].folder)
    apart = held_out_documents(library, inputs["model"])
    learned = [example for example in examples if example.document not in apart]
    heldout = [example for example in examples if example.document in apart]
    if "heldout" in inputs:
        heldout += list(Examples(inputs["heldout"].folder))
    if not learned:
        raise UserError(f"{inputs['examples'].reference}: all are of documents that were held out from the model")
    return Split(learned, heldout)


def held_out_documents(library: Library, base: Artifact) -> set[str]:
    """Documents that were kept from a model; none are known of one that came from elsewhere."""
    line = [base, *library.ancestors(base)]
    if any(artifact.manifest.verb == "import" for artifact in line):
        return set()
    return set(Dataset(library.ancestor(base, "dataset").folder, "heldout").ids)


def _held_out(job: Job, model: Decoder, tokenizer: Tokenizer, split: Split) -> HeldOut:
    """Examples that are measured on only. Raises UserError where there are none."""
    settings: stages.AdaptStage = job.settings
    if not split.heldout:
        raise UserError(
            "adapt.train.examine_steps: there are no examples to measure on; name some as heldout, or leave it out"
        )
    lesson = lesson_of(model, tokenizer, split.heldout, settings, job.seed, job.progress)
    return HeldOut(model, lesson.objective, lesson.source, len(lesson.source), settings.train, tokenizer)


def merge_adapter(job: Job) -> None:
    """Make one model of an adapter and the model that it changes, and measure how far the two drift apart."""
    adapter, base = job.inputs["adapter"], job.inputs["model"]
    made_for = next((parent for parent in adapter.manifest.parents if parent.role == "model"), None)
    if made_for is not None and made_for.hash != base.manifest.hash:
        raise UserError(
            f"{adapter.reference} changes {made_for.reference}, not {base.reference}; name the model it was made for"
        )
    model = load_decoder(base.folder)
    change = read_adapter(adapter.folder, model.config)
    merged = merge(model, change)
    rows = torch.randint(
        model.config.vocabulary,
        (_COMPARED, min(128, model.config.context)),
        generator=torch.Generator().manual_seed(job.seed),
    ).tolist()
    attach(model, LoraConfig(), job.seed, start=change)
    found = drift(model, merged, rows)
    if found.divergence > TOLERANCE:
        raise UserError(
            f"merging {adapter.reference} changes what it says by {found.divergence:.2g} nats a token, "
            f"more than {TOLERANCE:g}; serve it as an adapter instead"
        )
    save_model(merged, job.draft.folder)
    Tokenizer.load(adapter.folder if (adapter.folder / TOKENIZER).exists() else base.folder).save(job.draft.folder)
    job.draft.licences = adapter.manifest.licences
    job.draft.metrics |= {"drift": asdict(found), "parameters": parameter_count(merged)}


def adapt_recipe(
    library: Library,
    model: Artifact,
    examples: Mapping[str, Any],
    heldout: Mapping[str, Any],
    settings: Mapping[str, Any],
    name: str,
    assignments: Sequence[str] = (),
) -> Recipe:
    """The stages that adapt a model by files, or by examples that are there.

    examples, heldout: either `reference`, of what is in the library, or what a stage `examples` is told. settings: of
    the stage that adapts, but for its inputs. What they leave open depends on the method: how fast it learns, and that
    it reads everything three times. Raises UserError as `read_recipe` does.
    """
    stages_: dict[str, Any] = {}
    roles: dict[str, str] = {"model": model.reference}
    for role, given in (("examples", examples), ("heldout", heldout)):
        if "reference" in given:
            roles[role] = library.find(given["reference"], "examples").reference
        elif given:
            stages_[role] = {"verb": "examples", "name": name if role == "examples" else f"{name}-heldout", **given}
            roles[role] = role
    context = min(load_config(model.folder).context, _LONGEST_ROW)
    train = {"passes": 3, "context": context, **_PACE[settings.get("method", "full")]}
    stages_["adapt"] = {**settings, **roles, "train": {**train, **settings.get("train", {})}}
    return make_recipe({"name": name, "stages": stages_}, "adapt", assignments)


_LONGEST_ROW = 1024
"""Tokens of a row where nothing else is asked for: what attention on a CPU does in blocks."""
_PACE: Mapping[str, Mapping[str, Any]] = {
    "full": {"optimizer": {"lr": 0.002, "adam_lr": 0.0003}},
    "lora": {"optimizer": {"adam_lr": 0.001}},
}
