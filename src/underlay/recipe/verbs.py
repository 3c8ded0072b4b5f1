"""What each verb does: take inputs out of the library, call one package, leave files and figures in the draft."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from underlay.adapt import Conversations, find_pairs, functions_in
from underlay.adapt.pairs import PairKind
from underlay.config import Config
from underlay.data import Corpus, Dataset, Masked, Middles, Rows, curate, fingerprint, gather, pack
from underlay.data.layout import BestFit
from underlay.data.mixture import Mixture
from underlay.errors import UserError
from underlay.evaluate.compression import compare
from underlay.evaluate.curve import draw_curve
from underlay.evaluate.functions import FunctionSample, sample_functions
from underlay.generate import Engine
from underlay.library import Artifact, Draft, Kind, Library
from underlay.models import AnyConfig, Decoder, Encoder, count, sized
from underlay.models.config import TextConfig
from underlay.models.spectral import spectral_embedding
from underlay.models.storage import load_decoder, save_model
from underlay.plan.flops import training_flops
from underlay.progress import Progress
from underlay.recipe import extend, stages
from underlay.recipe.heldout import HeldOut, Speech
from underlay.recipe.reading import read_in_pairs, read_in_rows
from underlay.recipe.report import make_report
from underlay.text import Tokenizer, train_tokenizer
from underlay.trace.index import build
from underlay.train import CausalLM, Onlookers, Outcome, Source, stable, train
from underlay.train.record import Recorder, recorders, run_title
from underlay.train.world import World

CURVE = "loss.png"


@dataclass(frozen=True)
class Job:
    """All that a verb may look at."""

    name: str
    """Of the artifact."""
    settings: Any
    """The stage's own config; a verb knows its type."""
    inputs: Mapping[str, Artifact]
    seed: int
    draft: Draft
    library: Library
    progress: Progress
    log: Callable[[str], None]
    world: World
    """The processes that train together."""

    def folder(self, role: str) -> Path:
        """Where an input's files are."""
        return self.inputs[role].folder

    def corpora(self) -> dict[str, Artifact]:
        """The corpora that were given by names, ordered by them; or one without a name."""
        named = {role.partition(".")[2]: one for role, one in self.inputs.items() if role.startswith("corpora.")}
        return dict(sorted(named.items())) or {"": self.inputs["corpus"]}


@dataclass(frozen=True)
class Verb:
    """A kind of stage."""

    makes: Kind
    takes: Mapping[str, Kind]
    """The kinds of its inputs, by the key that names one, several, or none."""
    work: Callable[[Job], None]
    seeded: bool = False
    """Whether chance plays a part."""
    trains: bool = False
    """Whether it trains, which many processes do together."""
    revision: int = 1
    """Raised when the code makes something else from the same settings."""
    outside: Callable[[Config], dict[str, str]] = lambda _: {}
    """What it reads that is not in the library, as hashes that belong to its order."""

    def config(self, settings: Config) -> dict[str, Any]:
        """What belongs to a stage's order beside its inputs, as JSON."""
        return settings.model_dump(mode="json", exclude={"verb", "name", "record", *self.takes}) | self.outside(
            settings
        )

    def inputs(self, settings: Config) -> dict[str, tuple[str, Kind]]:
        """Name and kind of each input of a stage, by role: its key, or with several under one key, `corpora.code`."""
        found: dict[str, tuple[str, Kind]] = {}
        for key, kind in self.takes.items():
            given = getattr(settings, key)
            several = given if isinstance(given, dict) else {}
            found |= {f"{key}.{name}": (one, kind) for name, one in several.items()}
            if isinstance(given, str):
                found[key] = (given, kind)
        return found


def _gather(job: Job) -> None:
    corpus = gather(job.settings, job.draft.folder, job.progress)
    _describe_corpus(corpus, job.draft)


def _curate(job: Job) -> None:
    corpus = curate(Corpus(job.folder("corpus")), job.settings, job.draft.folder, job.progress)
    _describe_corpus(corpus, job.draft)
    dropped = Counter(entry.reason for entry in corpus.ledger() if entry.decision == "drop")
    job.draft.metrics["dropped"] = dict(dropped)


def _describe_corpus(corpus: Corpus, draft: Draft) -> None:
    licences: Counter[str] = Counter()
    for document in corpus:
        licences[document.licence] += len(document.text.encode())
    draft.licences = dict(licences)
    draft.metrics |= {"documents": len(corpus), "bytes": licences.total()}


def _tokenizer(job: Job) -> None:
    corpora = [Corpus(corpus.folder) for corpus in job.corpora().values()]
    seen, total = 0, sum(map(len, corpora))

    def texts() -> Any:
        nonlocal seen
        for document in chain(*corpora):
            seen += 1
            if seen % 200 == 0:
                job.progress(seen, total)
            yield document.text

    tokenizer = train_tokenizer(texts(), job.settings.vocabulary, job.settings.mask, job.settings.fim)
    tokenizer.save(job.draft.folder)
    job.draft.metrics["vocabulary"] = tokenizer.size


def _pack(job: Job) -> None:
    tokenizer = Tokenizer.load(job.folder("tokenizer"))
    corpora = {name: Corpus(corpus.folder) for name, corpus in job.corpora().items()}
    info = pack(corpora.get("", corpora), tokenizer, job.settings, job.draft.folder, job.progress).info
    job.draft.metrics |= {
        "tokens": info.tokens,
        "documents": info.documents,
        "bytes": info.bytes,
        "bytes_per_token": sum(info.bytes.values()) / max(1, sum(info.tokens.values())),
    }
    if info.parts:
        job.draft.metrics["parts"] = info.parts
    licences: Counter[str] = Counter()
    for corpus in job.corpora().values():
        licences.update(corpus.manifest.licences)
    job.draft.licences = dict(licences)


def _pretrain(job: Job) -> None:
    settings: stages.PretrainStage = job.settings
    dataset = Dataset(job.folder("dataset"))
    rows = rows_of(dataset, settings, job.seed)
    if isinstance(rows.layout, BestFit):
        job.log(str(rows.layout))
    tokenizer = _tokenizer_of(job.library, job.inputs["dataset"])
    torch.manual_seed(job.seed)
    config = _in_full(settings, dataset)
    with job.world.weights():
        model = config.build()
    source: Source = rows
    predicted = 1.0
    if isinstance(model, Encoder):
        source, predicted = Masked(rows, tokenizer, settings.masking), settings.masking.share
    elif settings.embedding == "spectral" and job.world.leads:
        model.start_from(spectral_embedding(dataset.tokens, config.vocabulary, config.width, job.seed))
    if settings.fim:
        source = Middles(rows, tokenizer, settings.fim)
    objective = CausalLM(settings.train.dtype(), settings.train.compiles())
    chance, work = math.log(config.vocabulary), training_flops(config, 1, settings.train.context, predicted)
    onlookers = Onlookers(
        _examination(job, model, tokenizer) if settings.train.examine_steps else None,
        _recorders(job),
        lambda samples: [str(read) for read in read_in_rows(rows, samples)],
    )
    _take_up(job)
    scratch, progress, log, world = job.draft.scratch, job.progress, job.log, job.world
    outcome = train(model, objective, source, settings.train, scratch, progress, log, chance, work, onlookers, world)
    if not world.leads:
        return
    save_model(model, job.draft.folder, outcome.weights)
    tokenizer.save(job.draft.folder)
    _describe_training(job, outcome, config, work)
    job.draft.metrics["passes"] = outcome.progression.samples / rows.count
    if isinstance(rows.order, Mixture):
        job.draft.metrics["parts"] = {
            name: {"tokens": count * settings.train.context, "passes": passes}
            for name, (count, passes) in rows.order.read(outcome.progression.samples).items()
        }
    if isinstance(rows.layout, BestFit):
        job.draft.metrics["padding"] = rows.layout.padding


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


def _recorders(job: Job) -> dict[str, Recorder]:
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


def _adapt(job: Job) -> None:
    settings: stages.AdaptStage = job.settings
    base = job.inputs["model"]
    with job.world.weights():
        model = load_decoder(base.folder)
    tokenizer = Tokenizer.load(base.folder)
    if settings.train.context > model.config.context:
        raise UserError(
            f"adapt.train.context {settings.train.context} is longer than the model's {model.config.context}"
        )
    kind, source = conversations(job.library, base, job.inputs["corpus"], settings, tokenizer, job.seed)
    job.log(f"{len(source):,} pairs from {kind}, {source.longer:,} too long for a row")
    objective = CausalLM(settings.train.dtype(), settings.train.compiles())
    work = training_flops(model.config, 1, settings.train.context)
    onlookers = Onlookers(
        _held_out_pairs(job, model, tokenizer, kind) if settings.train.examine_steps else None,
        _recorders(job),
        lambda samples: [str(read) for read in read_in_pairs(source, Corpus(job.folder("corpus")), samples)],
    )
    _take_up(job)
    scratch, progress, log, world = job.draft.scratch, job.progress, job.log, job.world
    outcome = train(model, objective, source, settings.train, scratch, progress, log, None, work, onlookers, world)
    if not world.leads:
        return
    save_model(model, job.draft.folder, outcome.weights)
    tokenizer.save(job.draft.folder)
    _describe_training(job, outcome, model.config, work)
    job.draft.metrics |= {"pairs": len(source), "pairs_too_long": source.longer, "pairs_from": kind}


def conversations(
    library: Library, base: Artifact, corpus: Artifact, settings: stages.AdaptStage, tokenizer: Tokenizer, seed: int
) -> tuple[PairKind, Conversations]:
    """What a model is adapted on, and which kind of pairs it is."""
    heldout = _held_out(library, base)
    kind, pairs = find_pairs((d for d in Corpus(corpus.folder) if d.id not in heldout), settings.pairs)
    return kind, Conversations(pairs, tokenizer, settings.train.context, seed)


def _held_out_pairs(job: Job, model: Decoder, tokenizer: Tokenizer, kind: PairKind) -> HeldOut:
    """Pairs of the documents that were kept from the model. Raises UserError where there are none."""
    settings: stages.AdaptStage = job.settings
    wanted = _held_out(job.library, job.inputs["model"])
    try:
        _, pairs = find_pairs((d for d in Corpus(job.folder("corpus")) if d.id in wanted), kind)
        source = Conversations(pairs, tokenizer, settings.train.context, job.seed)
    except UserError as error:
        raise UserError(
            f"adapt.train.examine_steps: no document was held out from {job.inputs['model'].reference} that gives "
            f"{kind} which fit into a row; leave it out"
        ) from error
    objective = CausalLM(settings.train.dtype())
    return HeldOut(model, objective, source, len(source), settings.train, tokenizer)


def _held_out(library: Library, base: Artifact) -> set[str]:
    """Documents that were kept from a model; none are known of one that came from elsewhere."""
    line = [base, *library.ancestors(base)]
    if any(artifact.manifest.verb == "import" for artifact in line):
        return set()
    return set(Dataset(library.ancestor(base, "dataset").folder, "heldout").ids)


def _take_up(job: Job) -> None:
    """Go on from the run that is to be extended, if there is one."""
    parent = job.inputs.get(extend.ROLE)
    if parent is not None:
        config = VERBS[job.settings.verb].config(job.settings)
        kept = extend.check(job.settings, config, job.seed, job.inputs, job.library)
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


def _evaluate(job: Job) -> None:
    settings: stages.EvaluateStage = job.settings
    base, adapted = job.inputs["base"], job.inputs["model"]
    tokenizer = Tokenizer.load(base.folder)
    packed = job.library.ancestor(base, "dataset")
    heldout = Dataset(packed.folder, "heldout")
    wanted = _held_out_of(packed, heldout, job.inputs["corpus"])
    documents = [document for document in Corpus(job.folder("corpus")) if document.id in wanted]
    if {document.id for document in documents} != wanted:
        raise UserError(
            f"{job.inputs['corpus'].reference} is not the corpus that {base.reference} held documents out of"
        )
    base_engine = Engine(load_decoder(base.folder), tokenizer, slots=16)
    scorer = Engine(load_decoder(base.folder), tokenizer, dtype=torch.bfloat16)
    compression = compare(scorer, heldout, documents, settings.max_bytes, job.progress)
    job.log(f"{compression.model_bits_per_byte:.3f} bits per byte, xz {compression.xz_bits_per_byte:.3f}")
    job.draft.metrics |= {
        "heldout_bits_per_byte": compression.model_bits_per_byte,
        "xz_bits_per_byte": compression.xz_bits_per_byte,
        "xz_solid_bits_per_byte": compression.xz_solid_bits_per_byte,
        "heldout_files": len(compression.files),
        "heldout_bytes": compression.bytes,
        "valid_function_share": None,
    }
    pairs = [pair for document in documents for pair in functions_in(document)]
    fitting = [p for p in pairs if len(tokenizer.encode(p.prompt)) + settings.max_tokens + 8 <= base_engine.context]
    chosen = fitting[:: max(1, len(fitting) // max(1, settings.functions))][: settings.functions]
    samples: dict[str, list[FunctionSample]] = {}
    if chosen:
        engines = {"base": base_engine, "adapted": Engine(load_decoder(adapted.folder), tokenizer, slots=16)}
        for role, engine in engines.items():
            samples[role] = sample_functions(
                engine, tokenizer, chosen, role == "adapted", settings.max_tokens, job.seed, job.progress
            )
        shares = {role: sum(s.valid for s in found) / len(found) for role, found in samples.items()}
        job.draft.metrics["valid_function_share"] = shares
        job.draft.metrics["functions_sampled"] = len(chosen)
    result = {
        "files": [asdict(file) for file in compression.files],
        "functions": {role: [asdict(sample) for sample in found] for role, found in samples.items()},
    }
    (job.draft.folder / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _held_out_of(packed: Artifact, heldout: Dataset, corpus: Artifact) -> set[str]:
    """The held-out documents of one corpus that a dataset was packed from, or of the only one."""
    roles = {parent.role for parent in packed.manifest.parents if parent.hash == corpus.manifest.hash}
    stretches = [tokens for name, tokens in heldout.parts.items() if f"corpora.{name}" in roles]
    return {id_ for tokens in stretches or [range(len(heldout))] for id_ in heldout.ids[heldout.inside(tokens)]}


def _trace(job: Job) -> None:
    dataset = Dataset(job.folder("dataset"))
    tokenizer = _tokenizer_of(job.library, job.inputs["dataset"])
    build(
        dataset.tokens,
        job.draft.folder,
        job.progress,
        separators=tokenizer.special_ids,
        vocabulary=tokenizer.size,
    )
    job.draft.tokens = len(dataset)
    job.draft.licences = job.inputs["dataset"].manifest.licences


def _report(job: Job) -> None:
    make_report(job.settings, job.inputs, job.library, job.draft, job.seed, job.progress)


def _tokenizer_of(library: Library, dataset: Artifact) -> Tokenizer:
    return Tokenizer.load(library.ancestor(dataset, "tokenizer").folder)


def _fingerprint(settings: Config) -> dict[str, str]:
    assert isinstance(settings, stages.GatherStage)
    return {"source_sha256": fingerprint(settings)}


VERBS: Mapping[str, Verb] = {
    "gather": Verb("corpus", {}, _gather, outside=_fingerprint),
    "curate": Verb("corpus", {"corpus": "corpus"}, _curate),
    "tokenizer": Verb("tokenizer", {"corpus": "corpus", "corpora": "corpus"}, _tokenizer),
    "pack": Verb("dataset", {"corpus": "corpus", "corpora": "corpus", "tokenizer": "tokenizer"}, _pack),
    "pretrain": Verb("model", {"dataset": "dataset", "extend": "model"}, _pretrain, seeded=True, trains=True),
    "adapt": Verb("model", {"model": "model", "corpus": "corpus", "extend": "model"}, _adapt, seeded=True, trains=True),
    "evaluate": Verb("report", {"base": "model", "model": "model", "corpus": "corpus"}, _evaluate, seeded=True),
    "trace": Verb("index", {"dataset": "dataset"}, _trace),
    "report": Verb(
        "report",
        {
            "raw": "corpus",
            "corpus": "corpus",
            "base": "model",
            "model": "model",
            "evaluation": "report",
            "index": "index",
        },
        _report,
        seeded=True,
    ),
}
