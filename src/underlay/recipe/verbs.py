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
from underlay.config import Config
from underlay.data import Corpus, Dataset, Masked, Rows, curate, fingerprint, gather, pack
from underlay.data.layout import BestFit
from underlay.data.mixture import Mixture
from underlay.errors import UserError
from underlay.evaluate.compression import compare
from underlay.evaluate.functions import FunctionSample, sample_functions
from underlay.generate import Engine
from underlay.library import Artifact, Draft, Kind, Library
from underlay.models import AnyConfig, Encoder, count, sized
from underlay.models.config import TextConfig
from underlay.models.spectral import spectral_embedding
from underlay.models.storage import load_decoder, save_model
from underlay.plan.flops import training_flops
from underlay.progress import Progress
from underlay.recipe import stages
from underlay.recipe.report import make_report
from underlay.text import Tokenizer, train_tokenizer
from underlay.trace.index import build
from underlay.train import CausalLM, Outcome, Source, TrainConfig, train

LOG = "log.jsonl"


@dataclass(frozen=True)
class Job:
    """All that a verb may look at."""

    settings: Any
    """The stage's own config; a verb knows its type."""
    inputs: Mapping[str, Artifact]
    seed: int
    draft: Draft
    library: Library
    progress: Progress
    log: Callable[[str], None]

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
    revision: int = 1
    """Raised when the code makes something else from the same settings."""
    outside: Callable[[Config], dict[str, str]] = lambda _: {}
    """What it reads that is not in the library, as hashes that belong to its order."""

    def asked(self, settings: Config) -> dict[str, tuple[str, Kind]]:
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

    tokenizer = train_tokenizer(texts(), job.settings.vocabulary, job.settings.mask)
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
    model = config.build()
    source: Source = rows
    if isinstance(model, Encoder):
        source = Masked(rows, tokenizer, settings.masking)
    elif settings.embedding == "spectral":
        model.start_from(spectral_embedding(dataset.tokens, config.vocabulary, config.width, job.seed))
    objective = CausalLM(settings.train.dtype(), settings.train.compiles())
    chance, work = math.log(config.vocabulary), training_flops(config, 1, settings.train.context)
    outcome = train(model, objective, source, settings.train, job.draft.scratch, job.progress, job.log, chance, work)
    save_model(model, job.draft.folder)
    tokenizer.save(job.draft.folder)
    _describe_training(job, outcome, config, settings.train)
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
    model, tokenizer = load_decoder(base.folder), Tokenizer.load(base.folder)
    if settings.train.context > model.config.context:
        raise UserError(
            f"adapt.train.context {settings.train.context} is longer than the model's {model.config.context}"
        )
    kind, source = conversations(job.library, base, job.inputs["corpus"], settings, tokenizer, job.seed)
    job.log(f"{len(source):,} pairs from {kind}, {source.longer:,} too long for a row")
    objective = CausalLM(settings.train.dtype(), settings.train.compiles())
    work = training_flops(model.config, 1, settings.train.context)
    outcome = train(model, objective, source, settings.train, job.draft.scratch, job.progress, job.log, work=work)
    save_model(model, job.draft.folder)
    tokenizer.save(job.draft.folder)
    _describe_training(job, outcome, model.config, settings.train)
    job.draft.metrics |= {"pairs": len(source), "pairs_too_long": source.longer, "pairs_from": kind}


def conversations(
    library: Library, base: Artifact, corpus: Artifact, settings: stages.AdaptStage, tokenizer: Tokenizer, seed: int
) -> tuple[str, Conversations]:
    """What a model is adapted on, and which kind of pairs it is."""
    heldout = _held_out(library, base)
    kind, pairs = find_pairs((d for d in Corpus(corpus.folder) if d.id not in heldout), settings.pairs)
    return kind, Conversations(pairs, tokenizer, settings.train.context, seed)


def _held_out(library: Library, base: Artifact) -> set[str]:
    """Documents that were kept from a model; none are known of one that came from elsewhere."""
    line = [base, *library.ancestors(base)]
    if any(artifact.manifest.verb == "import" for artifact in line):
        return set()
    return set(Dataset(library.ancestor(base, "dataset").folder, "heldout").ids)


def _describe_training(job: Job, outcome: Outcome, config: TextConfig, settings: TrainConfig) -> None:
    state, draft = outcome.progression, job.draft
    shutil.copyfile(outcome.journal.path, draft.folder / LOG)
    last = outcome.journal.tail(20)
    draft.tokens = state.tokens
    draft.flops = training_flops(config, state.tokens, settings.context)
    draft.earlier_seconds, draft.earlier_cpu_seconds = outcome.earlier_seconds, outcome.earlier_cpu_seconds
    draft.metrics |= {
        "parameters": count(config),
        "steps": state.step,
        "skipped_steps": state.skipped,
        "loss": sum(row["loss"] for row in last) / len(last),
        "tokens_per_second": outcome.tokens_per_second,
        "of_peak": outcome.of_peak,
        "mode": outcome.mode,
    }
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
    "pretrain": Verb("model", {"dataset": "dataset"}, _pretrain, seeded=True),
    "adapt": Verb("model", {"model": "model", "corpus": "corpus"}, _adapt, seeded=True),
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
