"""The report stage: collects what the other stages left, completes three texts, traces them, and draws the page."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from underlay.data import Corpus, Dataset
from underlay.data.curate import funnel
from underlay.data.curate.summary import private_data
from underlay.errors import UserError
from underlay.evaluate.report import ReportData, Share, Written, write_report
from underlay.generate import Engine, Request, Sampling
from underlay.library import Artifact, Draft, Library
from underlay.models.storage import load_decoder
from underlay.progress import Progress
from underlay.recipe.evaluating import BASE, EVALUATION
from underlay.recipe.stages import ReportStage
from underlay.text import Tokenizer
from underlay.trace.tracer import Tracer
from underlay.train.journal import EVALUATIONS, metrics_in, rows_of

PAGE, COMPLETIONS = "report.html", "completions.json"


def make_report(
    settings: ReportStage,
    inputs: Mapping[str, Artifact],
    library: Library,
    draft: Draft,
    seed: int,
    progress: Progress,
) -> None:
    """Write `report.html` and `completions.json`, and the headline figures into the draft's metrics.

    Raises UserError where the base model read several corpora: the page follows one from its sources.
    """
    dataset = library.ancestor(inputs["base"], "dataset")
    if parts := Dataset(dataset.folder).parts:
        raise UserError(
            f"a report shows one corpus, but {dataset.reference} was packed from {', '.join(parts)}; "
            "leave the report out, and evaluate each corpus by a stage of its own"
        )
    completions = _complete(settings, inputs, library, seed, progress)
    (draft.folder / COMPLETIONS).write_text(json.dumps(completions, indent=1) + "\n", "utf-8")
    made = _lineage(inputs, library)
    seconds: dict[str, float] = {}
    for manifest in (artifact.manifest for artifact in made):
        seconds[manifest.verb] = seconds.get(manifest.verb, 0.0) + manifest.cost.wall_seconds
    measured = inputs["evaluation"].manifest.metrics
    draft.metrics |= {
        key: measured[key]
        for key in (
            "heldout_bits_per_byte",
            "xz_bits_per_byte",
            "xz_solid_bits_per_byte",
            "heldout_files",
            "heldout_bytes",
            "valid_function_share",
            "doing_function_share",
        )
        if key in measured
    }
    draft.metrics |= {"seconds": seconds, "page": PAGE}
    draft.licences = inputs["corpus"].manifest.licences
    write_report(_collect(inputs, library, made, completions), draft.folder / PAGE)


def _evaluated(evaluation: Artifact, library: Library, names: Sequence[str]) -> dict[str, Artifact]:
    """The models that an evaluation measured beside the base, by their names, step after step."""
    parents = library.parents(evaluation)
    found = {name: parents.get(f"models.{name}") for name in names}
    if gone := [name for name, model in found.items() if model is None]:
        raise UserError(f"{evaluation.reference}: the model that it calls {gone[0]} is not in the library any more")
    return {name: model for name, model in found.items() if model is not None}


def _complete(
    settings: ReportStage, inputs: Mapping[str, Artifact], library: Library, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """Three texts, continued by the base model and traced to the training data."""
    model = inputs["base"]
    tokenizer = Tokenizer.load(model.folder)
    engine = Engine(load_decoder(model.folder), tokenizer)
    tracer = Tracer.of_index(library, inputs["index"])
    prompts = settings.prompts or _beginnings(library.ancestor(model, "dataset"), tokenizer)
    requests = [
        Request(
            tokenizer.prompt(prompt),
            settings.max_tokens,
            Sampling(temperature=0.5, top_p=0.95, seed=seed + number),
        )
        for number, prompt in enumerate(prompts)
    ]
    answers = engine.generate(requests, progress)
    return [
        {
            "prompt": prompt,
            "text": prompt + answer.text,
            "trace": tracer.trace(prompt + answer.text).to_dict(),
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _beginnings(dataset: Artifact, tokenizer: Tokenizer, count: int = 3, length: int = 24) -> tuple[str, ...]:
    """The first tokens of some held-out documents."""
    heldout = Dataset(dataset.folder, "heldout")
    starts = [heldout.document(number).start + 1 for number in range(min(count, len(heldout.ids)))]
    return tuple(tokenizer.decode(heldout.tokens[start : start + length].tolist()) for start in starts)


def _lineage(inputs: Mapping[str, Artifact], library: Library) -> list[Artifact]:
    """Every artifact the report rests on, oldest first."""
    found = {artifact.manifest.hash: artifact for artifact in inputs.values()}
    for artifact in inputs.values():
        found |= {ancestor.manifest.hash: ancestor for ancestor in library.ancestors(artifact)}
    return sorted(found.values(), key=lambda artifact: artifact.manifest.created)


def _collect(
    inputs: Mapping[str, Artifact],
    library: Library,
    made: list[Artifact],
    completions: list[dict[str, Any]],
) -> ReportData:
    raw, corpus = Corpus(inputs["raw"].folder), Corpus(inputs["corpus"].folder)
    base, evaluation = (inputs[role].manifest for role in ("base", "evaluation"))
    dataset = library.ancestor(inputs["base"], "dataset").manifest
    config = json.loads((inputs["base"].folder / "config.json").read_text("utf-8"))
    measured = json.loads((inputs["evaluation"].folder / EVALUATION).read_text("utf-8"))
    models = _evaluated(inputs["evaluation"], library, measured["models"])
    gathered = inputs["raw"].manifest
    inherited = base.metrics.get("inherited") or {"tokens": 0, "flops": 0.0}
    name = next(reversed(models.values())).manifest.name
    return ReportData(
        title=name,
        created=evaluation.created,
        machine={**base.environment, "mode": str(base.metrics["mode"])},
        funnel=funnel(raw, corpus),
        redactions=private_data(corpus),
        licences=corpus_licences(inputs["corpus"]),
        corpus={
            "source": ", ".join(gathered.config["source"]),
            "documents": inputs["corpus"].manifest.metrics["documents"],
            "bytes": inputs["corpus"].manifest.metrics["bytes"],
        },
        tokens={
            "vocabulary": config["vocabulary"],
            "train": dataset.metrics["tokens"]["train"],
            "heldout": dataset.metrics["tokens"]["heldout"],
            "bytes_per_token": dataset.metrics["bytes_per_token"],
        },
        model={"parameters": base.metrics["parameters"]} | {k: v for k, v in config.items() if k != "vocabulary"},
        pretrain=rows_of(metrics_in(inputs["base"].folder)),
        adaptations={name: rows_of(metrics_in(model.folder)) for name, model in models.items()},
        cost={
            "seconds": sum(artifact.manifest.cost.wall_seconds for artifact in made),
            "tokens": (base.cost.tokens or 0) + inherited["tokens"],
            "flops": (base.cost.flops or 0.0) + inherited["flops"],
            "tokens_per_second": base.metrics["tokens_per_second"],
            "energy_wh": sum(artifact.manifest.cost.energy_wh or 0.0 for artifact in made),
            "energy_basis": base.cost.energy_basis,
        },
        heldout=[
            (
                file["source"],
                file["bytes"],
                file["model_bits"] / file["bytes"],
                file["xz_bits"] / file["bytes"],
            )
            for file in measured["files"]
        ],
        heldout_bits_per_byte=evaluation.metrics["heldout_bits_per_byte"],
        xz_bits_per_byte=evaluation.metrics["xz_bits_per_byte"],
        xz_solid_bits_per_byte=evaluation.metrics["xz_solid_bits_per_byte"],
        shares=_shares(evaluation.metrics, [BASE, *models]),
        functions=_functions(measured["functions"]),
        completions=completions,
        stages=[(a.manifest.verb, a.manifest.cost.wall_seconds, a.reference) for a in made],
        lineage=[(a.reference, ", ".join(f"{p.role} {p.reference}" for p in a.manifest.parents)) for a in made],
        commands=next_commands(name),
        evaluations={
            stage: rows_of(model.folder / EVALUATIONS)
            for stage, model in {"pretrain": inputs["base"], **models}.items()
        },
    )


def next_commands(name: str) -> list[str]:
    """What to try with a model of this name."""
    return [
        f'underlay generate model:{name} "def fibonacci(n):"',
        f"underlay chat model:{name}",
        f'underlay trace model:{name} "some text"',
        f"underlay serve model:{name}",
        f"underlay library lineage model:{name}",
    ]


def corpus_licences(corpus: Artifact) -> dict[str, int]:
    """Bytes under each licence, most first."""
    return dict(Counter(corpus.manifest.licences).most_common())


def _shares(metrics: Mapping[str, Any], names: Sequence[str]) -> list[Share]:
    """Of each model's functions, step after step."""
    valid = metrics["valid_function_share"]
    if valid is None:
        return []
    doing, count = metrics["doing_function_share"], metrics["functions_sampled"]
    return [Share(name, valid[name], doing[name], count) for name in names]


def _functions(samples: Mapping[str, list[dict[str, Any]]]) -> list[tuple[str, list[Written]]]:
    """Each prompt, and what every model made of it."""
    return [
        (
            together[0]["prompt"],
            [Written(name, one["body"], one["valid"]) for name, one in zip(samples, together, strict=True)],
        )
        for together in zip(*samples.values(), strict=True)
    ]
