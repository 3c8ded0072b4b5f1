"""The verbs that adapt: `adapt` teaches a model by examples, `merge` makes one model of a model and its adapter."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from underlay.adapt.examples import Example, Examples
from underlay.adapt.lesson import Lesson
from underlay.adapt.lora import LoraConfig, adapter_of, as_kept, attach, folded
from underlay.adapt.merge import TOLERANCE, drift, merge
from underlay.adapt.new_tokens import enlarge, learn_rows, settle, tell_missing
from underlay.adapt.prompting.task import fingerprint
from underlay.adapt.reinforce import without_critic
from underlay.adapt.reinforce.source import KEPT
from underlay.config import Config, parse
from underlay.data import Dataset
from underlay.errors import UserError
from underlay.formats.peft import read_adapter, write_adapter
from underlay.library import Artifact, Library
from underlay.library.manifest import file_digest
from underlay.models import Decoder, Model
from underlay.models.growing import with_rows
from underlay.models.shorter import shortened
from underlay.models.storage import load_config, load_decoder, load_model, parameter_count, save_model
from underlay.plan.flops import training_flops
from underlay.recipe import stages
from underlay.recipe.job import Job
from underlay.recipe.lessons import Teaching, objective_for
from underlay.recipe.objectives import (
    AnyObjective,
    DistilObjective,
    HeadObjective,
    InstructObjective,
    ReinforceObjective,
    RewardObjective,
)
from underlay.recipe.reading import read_in_examples
from underlay.recipe.recipe import Recipe, make_recipe
from underlay.recipe.robustness import Measure, hardened, under_attack
from underlay.recipe.softening import is_soft, soft_lesson, soft_measure, write_soft
from underlay.recipe.training import recorders_of, trained
from underlay.text import Tokenizer
from underlay.text.files import TOKENIZER
from underlay.text.templates import NAMES as TEMPLATES
from underlay.text.templates import with_template
from underlay.train import Onlookers, Outcome, TrainConfig
from underlay.train.examine import undisturbed

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
    split = split_of(job.library, job.inputs)
    objective = objective_of(settings, split)
    train = length_of(settings, objective)
    model, teaching = _begin(job, train, split.learned)
    lesson = _lesson(job, model, teaching, split.learned, objective)
    source = lesson.source
    out = "".join(f", {count:,} {reason}" for reason, count in lesson.left_out.items())
    job.log(f"{lesson.count:,} examples, to learn {objective.name}, in {len(source):,} rows{out}")
    measure = _measure(settings, lesson, teaching, split.heldout, objective, model)
    if train.examine_steps and measure is None:
        raise UserError(
            "adapt.train.examine_steps: there are no examples to measure on; name some as heldout, or leave it out"
        )
    onlookers = Onlookers(
        measure if train.examine_steps else None,
        recorders_of(job),
        lambda samples: [str(read) for read in read_in_examples(source, split.learned, samples)],
    )
    learning = sum(p.numel() for p in lesson.model.parameters() if p.requires_grad)
    alone = isinstance(objective, HeadObjective) and objective.frozen  # texts were read before, once
    work = 6 * learning / train.context if alone else training_flops(lesson.model.config, 1, train.context)
    save = partial(_save, job, lesson, objective)
    timed = replace(job, settings=settings.model_copy(update={"train": train}))
    outcome = trained(
        timed, lesson.model, lesson.objective, source, len(source), teaching.tokenizer, work, onlookers, save
    )
    if measure is not None and not train.examine_steps:
        with undisturbed(lesson.model, train.compiles()):  # by all processes: each may hold a part of the model
            job.draft.metrics |= measure().figures
    if outcome is None:
        return
    figures = {"examples": lesson.count, "left_out": dict(lesson.left_out), "rows": len(source), **lesson.metrics}
    job.draft.metrics |= figures | {"learning": learning, "objective": objective.name}


def _begin(job: Job, train: TrainConfig, learned: Sequence[Example]) -> tuple[Model, Teaching]:
    """The model to adapt, with as many blocks and tokens as the stage asks for, and who teaches it."""
    settings: stages.AdaptStage = job.settings
    base = job.inputs["model"]
    tokenizer = tokenizer_of(base, settings)
    with job.world.weights():
        model = load_model(base.folder)
    if settings.blocks is not None:
        model = shortened(model, settings.blocks)
    if settings.new_tokens:
        model, tokenizer = enlarge(model, tokenizer, settings.new_tokens)
        tell_missing(settings.new_tokens, learned, job.log)
    if train.context > model.config.context:
        raise UserError(f"adapt.train.context {train.context} is longer than the model's {model.config.context}")
    teacher, judge = job.inputs.get("teacher"), job.inputs.get("reward_model")
    return model, Teaching(tokenizer, train, job.seed, job.draft.scratch, teacher, judge, job.progress)


def _lesson(job: Job, model: Model, teaching: Teaching, learned: Sequence[Example], objective: AnyObjective) -> Lesson:
    """What the model learns, and which of its parameters; what is attached to it changes the model itself."""
    settings: stages.AdaptStage = job.settings
    start = read_adapter(job.folder("adapter"), model.config) if "adapter" in job.inputs else None
    if start is not None and start.tokens is not None:
        raise UserError(f"{job.inputs['adapter'].reference}: brings tokens of its own; merge it into its model first")
    size = teaching.tokenizer.size
    new, dtype = range(size - len(settings.new_tokens), size), teaching.train.dtype()
    if is_soft(settings):
        return soft_lesson(model, settings, teaching, learned)
    if settings.method == "lora" and not with_head(settings):
        attach(model, settings.lora, job.seed, dtype, start)
        learn_rows(model, new)
    lesson = hardened(teaching.lesson(model, learned, objective), settings, objective, teaching, learned)
    if settings.method == "lora" and with_head(settings):
        attach(lesson.model, settings.lora, job.seed, dtype, start, lesson.fresh)
        learn_rows(lesson.model, new)
    return lesson


def _measure(
    settings: stages.AdaptStage,
    lesson: Lesson,
    teaching: Teaching,
    heldout: Sequence[Example],
    objective: AnyObjective,
    start: Model,
) -> Measure | None:
    """What examples that are not learned from tell; None where there are none."""
    measure: Measure | None = None
    if heldout and is_soft(settings):
        measure = soft_measure(lesson, settings, teaching, heldout)
    elif heldout:
        measure = teaching.measure(lesson, heldout, objective, start)
    return under_attack(measure, settings, lesson.model, teaching, heldout)


def _save(job: Job, lesson: Lesson, objective: AnyObjective, outcome: Outcome) -> None:
    """Leave a model, or what changes one, in the draft."""
    settings: stages.AdaptStage = job.settings
    base, folder, weights = job.inputs["model"], job.draft.folder, outcome.weights
    if isinstance(objective, ReinforceObjective) and isinstance(lesson.model, Decoder):
        weights = {name: one for name, one in weights.items() if not name.startswith("task.")}
        without_critic(lesson.model)
        if (kept := job.draft.scratch / KEPT).is_dir():
            shutil.copytree(kept, folder / KEPT)
    if settings.method == "full":
        save_model(lesson.model, folder, weights)
    elif is_soft(settings):
        write_soft(lesson.model, folder, base.reference)
    elif with_head(settings):
        before = load_model(base.folder)
        settle(lesson.model, before)
        save_model(lesson.model, folder, folded(lesson.model, before))
    else:
        write_adapter(adapter_of(lesson.model), lesson.model.config, folder, base.reference)


def objective_of(settings: stages.AdaptStage, split: Split) -> AnyObjective:
    """What the stage learns. Raises UserError where that decides what is made, and is not said."""
    objective = settings.objective or objective_for(split.learned)
    if settings.method == "lora" and settings.objective is None and isinstance(objective, HeadObjective):
        raise UserError("adapt: with lora and such examples, say what is learned: objective head (--objective head)")
    return objective


def files_beside(settings: Config) -> dict[str, str]:
    """Files of the user's that the stage reads: a reward's, a template's; as hashes."""
    assert isinstance(settings, stages.AdaptStage)
    reward = settings.objective.reward if isinstance(settings.objective, ReinforceObjective) else None
    places = {"reward_sha256": (reward or "").rpartition(":")[0], "template_sha256": settings.template or ""}
    found = {}
    if isinstance(settings.objective, ReinforceObjective) and settings.objective.rubric:
        found["rubric_sha256"] = fingerprint(settings.objective.rubric)
    for key, place in places.items():
        if place and place not in TEMPLATES:
            if not Path(place).is_file():
                raise UserError(f"{place}: no such file")
            found[key] = file_digest(Path(place))
    return found


def rewarded(settings: Config) -> bool:
    """Whether the stage learns from its own answers, which one process makes."""
    return isinstance(settings, stages.AdaptStage) and isinstance(settings.objective, ReinforceObjective)


def with_head(settings: stages.AdaptStage) -> bool:
    """Whether the model gets a head for a task."""
    return isinstance(settings.objective, HeadObjective | RewardObjective)


def length_of(settings: stages.AdaptStage, objective: AnyObjective) -> TrainConfig:
    """How the stage trains: what is compiled for one shape is of no use where every batch has another.

    Nor is it where matrices are made again at each use.
    """
    train = settings.train
    ragged = not isinstance(objective, InstructObjective | DistilObjective) or settings.lora.base != "float"
    ragged |= is_soft(settings)
    return train.model_copy(update={"compile": False}) if ragged and train.compile is None else train


def tokenizer_of(base: Artifact, settings: stages.AdaptStage) -> Tokenizer:
    """The base's, with the template that the stage chooses."""
    tokenizer = Tokenizer.load(base.folder)
    return tokenizer if settings.template is None else with_template(tokenizer, settings.template)


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


def merge_adapter(job: Job) -> None:
    """Make one model of an adapter and the model that it changes, and measure how far the two drift apart."""
    adapter, base = job.inputs["adapter"], job.inputs["model"]
    made_for = next((parent for parent in adapter.manifest.parents if parent.role == "model"), None)
    if made_for is not None and made_for.hash != base.manifest.hash:
        raise UserError(
            f"{adapter.reference} changes {made_for.reference}, not {base.reference}; name the model it was made for"
        )
    # Never into rounded numbers: where changes were learned upon such, they are added to what these stand for.
    kept = parse(LoraConfig, adapter.manifest.config.get("lora", {}), adapter.reference)
    model = as_kept(load_decoder(base.folder), kept)
    change = read_adapter(adapter.folder, model.config)
    if change.tokens is not None:
        model = with_rows(model, change.tokens)
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
    model: Artifact,
    examples: Artifact,
    heldout: Artifact | None,
    settings: Mapping[str, Any],
    name: str,
    assignments: Sequence[str] = (),
    seed: int = 0,
) -> Recipe:
    """The stage that adapts a model by examples.

    settings: of the stage, but for its inputs. What they leave open depends on what is learned: how fast, and that
    everything is read three times. Raises UserError as `read_recipe` does.
    """
    roles = {"model": model.reference, "examples": examples.reference}
    if heldout is not None:
        roles["heldout"] = heldout.reference
    form, method = examples.manifest.metrics["form"], settings.get("method", "full")
    spoken = form in ("conversation", "preference", "judgement")
    context = min(load_config(model.folder).context, _LONGEST_ROW if spoken else _LONGEST_TEXT)
    kind = "spoken" if form == "conversation" else "preferred" if spoken else "labelled"
    pace = dict(_PACE[kind].get(method, _SOFT_PACE))
    objective = settings.get("objective")
    if isinstance(objective, dict) and objective.get("frozen"):
        pace = {"muon": False, "adam_lr": 0.003}
    train = {"passes": 3, "context": context, "optimizer": pace, **_BATCH["spoken" if spoken else "labelled"]}
    if isinstance(objective, dict) and objective.get("name") in ("grpo", "ppo"):
        paced = {"optimizer": _PACE["rewarded"][method], **_BATCH["labelled"]}
        train = {"steps": 100, "context": context, **paced}
    stage = {"verb": "adapt", **settings, **roles, "train": {**train, **settings.get("train", {})}}
    return make_recipe({"name": name, "seed": seed, "stages": {"adapt": stage}}, "adapt", assignments)


_LONGEST_ROW, _LONGEST_TEXT = 1024, 256
"""Tokens of a row where nothing is asked for: what attention on a CPU does in blocks, and what few texts exceed."""
_BATCH: Mapping[str, Mapping[str, int]] = {
    "spoken": {"batch_rows": 8, "micro_rows": 8},
    "labelled": {"batch_rows": 32, "micro_rows": 32},
}
_PACE: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "spoken": {"full": {"lr": 0.002, "adam_lr": 0.0003}, "lora": {"adam_lr": 0.001}},
    "preferred": {"full": {"muon": False, "adam_lr": 0.00005}, "lora": {"adam_lr": 0.0005}},
    "rewarded": {"full": {"muon": False, "adam_lr": 0.0001}, "lora": {"adam_lr": 0.0005}},
    "labelled": {"full": {"muon": False, "adam_lr": 0.0003}, "lora": {"adam_lr": 0.001}},
}
"""How fast models learn by default."""
_SOFT_PACE = {"muon": False, "adam_lr": 0.01}
"""How fast learns what stands before conversations; it is little, and nothing else can give way."""
