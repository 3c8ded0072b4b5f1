"""The verb `evaluate`: how well a base model predicts what was held out, and what adapting it step by step came to."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from underlay.adapt import Pair, functions_in
from underlay.data import Corpus, Dataset, Document
from underlay.errors import UserError
from underlay.evaluate.compression import compare
from underlay.evaluate.functions import FunctionSample, sample_functions
from underlay.generate import Engine
from underlay.library import Artifact
from underlay.models.storage import load_config, load_decoder
from underlay.recipe import stages
from underlay.recipe.job import Job
from underlay.text import Tokenizer

BASE = "base"
"""What the base model is called beside those that were made of it."""
EVALUATION = "evaluation.json"
_RUNS_ON = 8
"""Tokens of the format that a question is put in, at most."""
_SLOTS = 16


def evaluate(job: Job) -> None:
    """Score the base model on what was held out, beside `xz`, and sample functions from it and what was made of it."""
    settings: stages.EvaluateStage = job.settings
    base = job.inputs["base"]
    tokenizer = Tokenizer.load(base.folder)
    packed = job.library.ancestor(base, "dataset")
    heldout = Dataset(packed.folder, "heldout")
    documents = _documents(job, packed, heldout)
    scorer = Engine(load_decoder(base.folder), tokenizer, precision="bfloat16")
    compression = compare(scorer, heldout, documents, settings.max_bytes, job.progress)
    job.log(f"{compression.model_bits_per_byte:.3f} bits per byte, xz {compression.xz_bits_per_byte:.3f}")
    samples = _sampled(job, tokenizer, [pair for document in documents for pair in functions_in(document)])
    job.draft.metrics |= {
        "heldout_bits_per_byte": compression.model_bits_per_byte,
        "xz_bits_per_byte": compression.xz_bits_per_byte,
        "xz_solid_bits_per_byte": compression.xz_solid_bits_per_byte,
        "heldout_files": len(compression.files),
        "heldout_bytes": compression.bytes,
        **_shares(samples),
    }
    result = {
        "files": [asdict(file) for file in compression.files],
        "models": list(settings.models),
        "functions": {name: [asdict(sample) for sample in found] for name, found in samples.items()},
    }
    (job.draft.folder / EVALUATION).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _documents(job: Job, packed: Artifact, heldout: Dataset) -> list[Document]:
    """What was held out of the stage's corpus. Raises UserError where that is not the one that was packed."""
    wanted = _held_out_of(packed, heldout, job.inputs["corpus"])
    documents = [document for document in Corpus(job.folder("corpus")) if document.id in wanted]
    if {document.id for document in documents} != wanted:
        raise UserError(
            f"{job.inputs['corpus'].reference} is not the corpus that {job.inputs['base'].reference} held documents "
            "out of"
        )
    return documents


def _held_out_of(packed: Artifact, heldout: Dataset, corpus: Artifact) -> set[str]:
    """The held-out documents of one corpus that a dataset was packed from, or of the only one."""
    roles = {parent.role for parent in packed.manifest.parents if parent.hash == corpus.manifest.hash}
    stretches = [tokens for name, tokens in heldout.parts.items() if f"corpora.{name}" in roles]
    return {id_ for tokens in stretches or [range(len(heldout))] for id_ in heldout.ids[heldout.inside(tokens)]}


def _sampled(job: Job, tokenizer: Tokenizer, pairs: list[Pair]) -> dict[str, list[FunctionSample]]:
    """Functions that each model wrote, the base first; of the same prompts, by the same chance."""
    settings: stages.EvaluateStage = job.settings
    models = {BASE: job.inputs["base"], **{name: job.inputs[f"models.{name}"] for name in settings.models}}
    longest = load_config(models[BASE].folder).context - settings.max_tokens - _RUNS_ON
    fitting = [pair for pair in pairs if len(tokenizer.encode(pair.prompt)) <= longest]
    chosen = fitting[:: max(1, len(fitting) // max(1, settings.functions))][: settings.functions]
    samples = {}
    for name, model in models.items() if chosen else ():
        engine = Engine(load_decoder(model.folder), tokenizer, _SLOTS)
        instruct = name != BASE
        samples[name] = sample_functions(
            engine, tokenizer, chosen, instruct, settings.max_tokens, job.seed, job.progress
        )
    return samples


def _shares(samples: Mapping[str, list[FunctionSample]]) -> dict[str, Any]:
    """Of each model's functions, how many are valid, and how many of all are and do something."""
    if not samples:
        return {"valid_function_share": None}
    return {
        "valid_function_share": {name: sum(s.valid for s in found) / len(found) for name, found in samples.items()},
        "doing_function_share": {name: sum(s.doing for s in found) / len(found) for name, found in samples.items()},
        "functions_sampled": len(samples[BASE]),
    }
