"""What the verbs that train have in common, and the first of them, `pretrain`."""

import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace

import torch

from underlay.data import Dataset, Masked, Middles, Rows
from underlay.data.layout import BestFit
from underlay.data.mixture import Mixture
from underlay.errors import UserError
from underlay.evaluate.curve import draw_curve
from underlay.models import AnyConfig, Decoder, Encoder, count, sized
from underlay.models.config import TextConfig
from underlay.models.spectral import spectral_embedding
from underlay.models.storage import save_model
from underlay.plan.flops import training_flops
from underlay.recipe import extend, stages, starting
from underlay.recipe.heldout import HeldOut, Speech
from underlay.recipe.job import Job
from underlay.recipe.reading import read_in_rows
from underlay.text import Tokenizer
from underlay.train import CausalLM, Objective, Onlookers, Outcome, Source, TrainConfig, stable, train
from underlay.train.examine import Examine
from underlay.train.memory import PeakMemory
from underlay.train.record import Recorder, recorders, run_title

CURVE = "loss.png"


def pretrain(job: Job) -> None:
    """Grow a base model on a dataset, from chance or from another model."""
    settings: stages.PretrainStage = job.settings
    starts = starting.ROLE in job.inputs
    if starts:
        settings = settings.model_copy(update={"train": starting.at_both_ends(settings.train)})
        job = replace(job, settings=settings)
    dataset = Dataset(job.folder("dataset"))
    rows = rows_of(dataset, settings, job.seed)
    if isinstance(rows.layout, BestFit):
        job.log(str(rows.layout))
    tokenizer = Tokenizer.load(job.library.ancestor(job.inputs["dataset"], "tokenizer").folder)
    torch.manual_seed(job.seed)
    with job.world.weights():
        model = starting.starting_model(job, dataset, tokenizer) if starts else _in_full(settings, dataset).build()
    config = model.config
    source: Source = rows
    predicted = 1.0
    if isinstance(model, Encoder):
        source, predicted = Masked(rows, tokenizer, settings.masking), settings.masking.share
    elif settings.embedding == "spectral" and job.world.leads and not starts:
        model.start_from(spectral_embedding(dataset.tokens, config.vocabulary, config.width, job.seed))
    if settings.fim:
        source = Middles(rows, tokenizer, settings.fim)
    chance, work = math.log(config.vocabulary), training_flops(config, 1, settings.train.context, predicted)
    examine: Examine | None = None
    if settings.train.examine_steps:
        whole = _examination(job, model, tokenizer)
        examine = starting.sets_of(job, model, tokenizer, whole) if starts else whole
    onlookers = Onlookers(
        examine,
        recorders_of(job),
        lambda samples: [str(read) for read in read_in_rows(rows, samples)],
        beforehand=starts,
    )
    objective = CausalLM(settings.train.dtype(), settings.train.compiles())

    def save(outcome: Outcome) -> None:
        save_model(model, job.draft.folder, outcome.weights)

    known = None if starts else chance
    outcome = trained(job, model, objective, source, rows.count, tokenizer, work, onlookers, save, known)
    if outcome is None:
        return
    if starts:
        job.draft.licences = dict(Counter(job.draft.licences) + Counter(job.inputs[starting.ROLE].manifest.licences))
        job.draft.metrics["transfer"] = found = starting.compared(list(outcome.evaluations))
        for line in starting.lines(found):
            job.log(line)
    job.draft.metrics["passes"] = outcome.progression.samples / rows.count
    if isinstance(rows.order, Mixture):
        job.draft.metrics["parts"] = {
            name: {"tokens": count * settings.train.context, "passes": passes}
            for name, (count, passes) in rows.order.read(outcome.progression.samples).items()
        }
    if isinstance(rows.layout, BestFit):
        job.draft.metrics["padding"] = rows.layout.padding


def trained(
    job: Job,
    model: Decoder | Encoder,
    objective: Objective,
    source: Source,
    rows: int,
    tokenizer: Tokenizer,
    work: float,
    onlookers: Onlookers,
    save: Callable[[Outcome], None],
    chance: float | None = None,
) -> Outcome | None:
    """Train a model, and leave it in the draft, by `save`; None in processes that only help.

    rows: of a pass over the source. The rest is as `train` has it.
    """
    train_config: TrainConfig = job.settings.train.over(rows)
    _take_up(replace(job, settings=job.settings.model_copy(update={"train": train_config})))
    scratch, progress, log, world = job.draft.scratch, job.progress, job.log, job.world
    memory = PeakMemory(world.device)
    outcome = train(model, objective, source, train_config, scratch, progress, log, chance, work, onlookers, world)
    if not world.leads:
        return None
    save(outcome)
    tokenizer.save(job.draft.folder)
    _describe_training(job, outcome, model.config, work)
    job.draft.metrics["peak_memory"] = memory.bytes()
    return outcome


def rows_of(dataset: Dataset, settings: stages.PretrainStage, seed: int) -> Rows:
    """The rows that a model is pretrained on, in their order."""
    return Rows(dataset, settings.train.context, seed, settings.isolate, settings.packing, settings.mixture)


def _examination(job: Job, model: Decoder | Encoder, tokenizer: Tokenizer) -> HeldOut:
    """Held-out rows of the dataset, made as those that are learned from; an encoder's are masked by the same rules."""
    settings: stages.PretrainStage = job.settings
    heldout = Dataset(job.folder("dataset"), "heldout")
    rows = Rows(heldout, settings.train.context, job.seed, settings.isolate)
    objective = CausalLM(settings.train.dtype())
    if isinstance(model, Encoder):
        return HeldOut(model, objective, Masked(rows, tokenizer, settings.masking), rows.count, settings.train)
    speech = Speech.of(model, tokenizer, settings.samples, job.seed)
    return HeldOut(model, objective, rows, rows.count, settings.train, tokenizer, speech)


def recorders_of(job: Job) -> dict[str, Recorder]:
    """What else draws the run's figures."""
    settings: stages.PretrainStage | stages.AdaptStage = job.settings
    if not settings.record or not job.world.leads:
        return {}
    shown = settings.model_dump(mode="json", exclude={"verb", "name", "record"}) | {"seed": job.seed}
    title = run_title(job.name, job.draft.scratch)
    return recorders(settings.record, job.library.root / "runs", title, shown)


def _in_full(settings: stages.PretrainStage, dataset: Dataset) -> AnyConfig:
    """The model's config, with what the data fixes."""
    chosen, vocabulary, context = settings.model, dataset.info.vocabulary, settings.train.context
    if chosen.vocabulary and chosen.vocabulary < vocabulary:
        raise UserError(f"pretrain.model.vocabulary {chosen.vocabulary} is less than the dataset's {vocabulary}")
    if chosen.context and chosen.context < context:
        raise UserError(f"pretrain.model.context {chosen.context} is less than pretrain.train.context {context}")
    fixed = {"vocabulary": chosen.vocabulary or vocabulary, "context": chosen.context or context}
    config = type(chosen)(**{**chosen.model_dump(exclude_unset=True), **fixed})
    parameters = settings.parameters()
    return config if parameters is None else sized(config, parameters)


def _take_up(job: Job) -> None:
    """Go on from the run that is to be extended, if there is one."""
    parent = job.inputs.get(extend.ROLE)
    if parent is not None:
        kept = extend.check(job.settings, job.config, job.seed, job.inputs, job.library)
        if job.world.leads:
            stable.take_up(parent.folder, kept, job.draft.scratch)
        job.log(f"goes on from {parent.reference}, where it stood after {kept.step:,} steps")


def _describe_training(job: Job, outcome: Outcome, config: TextConfig, work: float) -> None:
    """`work`: FLOPs of training on a token."""
    state, draft = outcome.progression, job.draft
    evaluations = list(outcome.evaluations)
    for journal in (outcome.journal, outcome.evaluations, outcome.samples):
        if journal.path.stat().st_size:
            shutil.copyfile(journal.path, draft.folder / journal.path.name)
    draw_curve(draft.folder / CURVE, list(outcome.journal), evaluations)
    last = outcome.journal.tail(20)
    kept, inherited = stable.publish(draft.scratch, draft.folder), extend.inherited(job.inputs, state)
    draft.tokens = state.tokens - inherited.tokens
    draft.flops = work * draft.tokens
    draft.earlier_seconds = outcome.earlier_seconds - inherited.seconds
    draft.earlier_cpu_seconds = outcome.earlier_cpu_seconds - inherited.cpu_seconds
    draft.metrics |= {
        "parameters": count(config),
        "steps": state.step,
        "skipped_steps": state.skipped,
        "loss": sum(row["loss"] for row in last) / len(last),
        "tokens_per_second": outcome.tokens_per_second,
        "of_peak": outcome.of_peak,
        "mode": outcome.mode,
        "stable": asdict(kept) if kept else None,
        "inherited": asdict(inherited) | {"flops": work * inherited.tokens} if inherited.step else None,
    }
    if evaluations:
        draft.metrics |= {name: value for name, value in evaluations[-1].items() if name not in ("step", "tokens")}
    draft.licences = next(iter(job.inputs.values())).manifest.licences
