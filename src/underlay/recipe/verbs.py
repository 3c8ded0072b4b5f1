"""What each verb does: take inputs out of the library, call one package, leave files and figures in the draft."""

from collections import Counter
from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

from underlay.config import Config
from underlay.data import Attributes, Corpus, Dataset, curate, fingerprint, gather, pack, tag
from underlay.data.curate import canaries, contamination
from underlay.data.curate.classifier import train as train_classifier
from underlay.data.curate.decide import decide
from underlay.data.curate.harm import fingerprint as fingerprint_words
from underlay.data.curate.privacy import Pseudonyms, read_key
from underlay.library import Artifact, Draft, Kind, Library
from underlay.recipe import stages
from underlay.recipe.adapting import adapt, files_beside, merge_adapter, rewarded, with_head
from underlay.recipe.answering import files_read, make_answers
from underlay.recipe.carding import make_card
from underlay.recipe.comparing import compare as compare_ways
from underlay.recipe.evaluating import evaluate
from underlay.recipe.exampling import make_examples, which_files
from underlay.recipe.job import Job, Verb
from underlay.recipe.quantising import quantise
from underlay.recipe.report import make_report
from underlay.recipe.training import pretrain
from underlay.text import Tokenizer, train_tokenizer
from underlay.trace.index import build


def _gather(job: Job) -> None:
    excluded = job.library.excluded()
    corpus = gather(job.settings, job.draft.folder, job.progress, job.draft.scratch, excluded=excluded)
    _describe_corpus(corpus, job.draft)


def _tag(job: Job) -> None:
    corpus = Corpus(job.folder("corpus"))
    if "contamination" in job.settings.taggers:
        for name, items, short in contamination.Benchmarks.read(job.settings.contamination).counts():
            left_out = f", {short:,} of them too short or too plain to be looked for" if short else ""
            job.log(f"{name}: {items:,} items{left_out}")
    folders = {name: str(job.folder(f"classifiers.{name}")) for name in job.settings.classifiers}
    settings = job.settings.model_copy(update={"classifiers": folders})
    attributes = tag(corpus, settings, job.draft.folder, job.progress, job.engine)
    job.draft.metrics |= {"documents": len(corpus), "attributes": attributes.names}


def _classifier(job: Job) -> None:
    # The documents of a corpus are in the order of their hashes.
    sides = (islice(Corpus(job.folder(role)), job.settings.examples) for role in ("like", "unlike"))
    like, unlike = ([document.text for document in side] for side in sides)
    classifier, measured = train_classifier(like, unlike, job.settings)
    classifier.save(job.draft.folder)
    job.draft.metrics |= measured


def _curate(job: Job) -> None:
    raw, attributes = Corpus(job.folder("corpus")), Attributes(job.folder("attributes"))
    excluded = job.library.excluded()
    verdicts = decide(raw, attributes, job.settings, excluded)
    corpus = curate(raw, attributes, job.settings, job.draft.folder, job.progress, verdicts, excluded)
    _describe_corpus(corpus, job.draft)
    job.draft.metrics["dropped"] = {reason: n for decision, reason, n, _ in corpus.tally() if decision == "drop"}
    if job.settings.canaries:
        planted = canaries.read(corpus.folder)
        job.draft.metrics["canaries"] = {"different": len(planted), "documents": sum(one["copies"] for one in planted)}
    make_card(job, raw, attributes, verdicts, corpus)


def _describe_corpus(corpus: Corpus, draft: Draft) -> None:
    licences: Counter[str] = Counter()
    for unit in corpus.units():
        stated = corpus.table(unit, ["licence"]).column(0).to_pylist()
        for licence, size in zip(stated, corpus.sizes(unit).tolist(), strict=True):
            licences[licence] += size
    draft.licences = dict(licences)
    draft.metrics |= {"documents": len(corpus), "bytes": licences.total()}


def _tokenizer(job: Job) -> None:
    if "model" in job.inputs:
        taken = Tokenizer.load(job.folder("model"))
        taken.save(job.draft.folder)
        job.draft.metrics["vocabulary"] = taken.size
        return
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


def _makes_adapter(settings: Config) -> Kind | None:
    assert isinstance(settings, stages.AdaptStage)
    return "adapter" if settings.method != "full" and not with_head(settings) else None


def _which_key(settings: Config) -> dict[str, str]:
    assert isinstance(settings, stages.CurateStage)
    return {"key_fingerprint": Pseudonyms(read_key(settings.key)).fingerprint} if settings.key else {}


def _fingerprint(settings: Config) -> dict[str, str]:
    assert isinstance(settings, stages.GatherStage)
    return {"source_sha256": fingerprint(settings)}


def _read_beside(settings: Config) -> dict[str, str]:
    """The word lists and benchmarks that texts are compared with."""
    assert isinstance(settings, stages.TagStage)
    found = {"harm_words_sha256": fingerprint_words(settings.harm.words)} if settings.harm.words else {}
    if "contamination" in settings.taggers:
        found["benchmarks_sha256"] = contamination.fingerprint(settings.contamination)
    return found


VERBS: Mapping[str, Verb] = {
    "gather": Verb("corpus", {}, _gather, revision=3, outside=_fingerprint),
    "classifier": Verb("classifier", {"like": "corpus", "unlike": "corpus"}, _classifier),
    "tag": Verb("attributes", {"corpus": "corpus", "classifiers": "classifier"}, _tag, outside=_read_beside),
    "curate": Verb("corpus", {"corpus": "corpus", "attributes": "attributes"}, _curate, outside=_which_key),
    "tokenizer": Verb("tokenizer", {"corpus": "corpus", "corpora": "corpus", "model": "model"}, _tokenizer),
    "pack": Verb("dataset", {"corpus": "corpus", "corpora": "corpus", "tokenizer": "tokenizer"}, _pack),
    "examples": Verb(
        "examples",
        {"corpus": "corpus", "dataset": "dataset", "examples": "examples"},
        make_examples,
        outside=which_files,
    ),
    "answer": Verb(
        "examples",
        {"model": "model", "prompts": "examples", "reward_model": "model"},
        make_answers,
        seeded=True,
        outside=files_read,
    ),
    "pretrain": Verb(
        "model", {"dataset": "dataset", "start": "model", "extend": "model"}, pretrain, seeded=True, trains=True
    ),
    "adapt": Verb(
        "model",
        {
            "model": "model",
            "examples": "examples",
            "heldout": "examples",
            "teacher": "model",
            "reward_model": "model",
            "adapter": "adapter",
            "extend": "model",
        },
        adapt,
        seeded=True,
        trains=True,
        alone=rewarded,
        outside=files_beside,
        instead=_makes_adapter,
    ),
    "ladder": Verb(
        "report",
        {"models": "model", "trained": "model", "adapters": "adapter", "examples": "examples", "test": "examples"},
        compare_ways,
    ),
    "merge": Verb("model", {"model": "model", "adapter": "adapter"}, merge_adapter, seeded=True),
    "quantise": Verb("model", {"model": "model", "dataset": "dataset", "corpus": "corpus"}, quantise, seeded=True),
    "evaluate": Verb(
        "report", {"base": "model", "models": "model", "corpus": "corpus"}, evaluate, seeded=True, revision=2
    ),
    "trace": Verb("index", {"dataset": "dataset"}, _trace),
    "report": Verb(
        "report",
        {
            "raw": "corpus",
            "corpus": "corpus",
            "base": "model",
            "evaluation": "report",
            "index": "index",
        },
        _report,
        seeded=True,
        revision=2,
    ),
}
