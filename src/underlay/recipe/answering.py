"""The verb `answer`: what a teacher says becomes examples, whose parents are the teacher and the prompts."""

import json
from pathlib import Path

import torch

from underlay.adapt.answers import Answered, Labelled, answered, write_tasks
from underlay.adapt.examples import Examples, write_examples
from underlay.adapt.prompting import read_task
from underlay.adapt.prompting.task import fingerprint
from underlay.config import Config
from underlay.errors import UserError
from underlay.generate import Engine
from underlay.library.manifest import file_digest
from underlay.recipe import stages
from underlay.recipe.exampling import describe
from underlay.recipe.job import Job
from underlay.recipe.rewarding import reward_of

LABELS = "labels.jsonl"
"""Every text that was labelled, how likely each label is, and whether it is among the examples."""
_SLOTS = 32
"""Answers that are written at once."""


def make_answers(job: Job) -> None:
    """Let the teacher answer, and keep what is to be learned from."""
    settings: stages.AnswerStage = job.settings
    teacher, judge = job.inputs["model"], job.inputs.get("reward_model")
    engine = Engine.load(teacher.folder, _SLOTS)
    task = None if settings.task is None else read_task(settings.task)
    prompts = list(Examples(job.folder("prompts")))
    reward = None
    if settings.keep is not None or judge is not None:
        reward = reward_of(settings.keep, judge, settings.rubric, torch.float32)
    found = answered(engine, prompts, settings, job.seed, job.draft.scratch, task, reward, job.progress)
    describe(job, write_examples(found.examples, job.draft.folder), found.examples)
    job.draft.metrics |= {
        "prompts": len(prompts),
        "answers": len(prompts) * settings.samples,
        "left_out": dict(found.left_out.counts.most_common()),
        "left_out_first": found.left_out.first,
        "unsure": len(found.unsure),
        "teacher_licences": sorted(teacher.manifest.licences),
    }
    for line in found.left_out.lines():
        job.log(line)
    if task is not None and task.output.labels:
        _write_labels(found, job.draft.folder / LABELS)
        if found.unsure:
            write_tasks(found.unsure, task.output.labels, teacher.reference, job.draft.folder)
            job.log(f"{len(found.unsure):,} texts are left to people, as tasks for Label Studio beside the examples")


def files_read(settings: Config) -> dict[str, str]:
    """What the stage reads of the user's files, as hashes."""
    assert isinstance(settings, stages.AnswerStage)
    found = {}
    for key, name in {"task_sha256": settings.task, "rubric_sha256": settings.rubric}.items():
        if name is not None:
            found[key] = fingerprint(name)
    place = (settings.keep or "").rpartition(":")[0]
    if place:
        if not Path(place).is_file():
            raise UserError(f"{place}: no such file")
        found["keep_sha256"] = file_digest(Path(place))
    return found


def _write_labels(found: Answered, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for kept, some in ((True, found.sure), (False, found.unsure)):
            for one in some:
                print(json.dumps(_row(one) | {"kept": kept}, ensure_ascii=False), file=file)


def _row(one: Labelled) -> dict[str, object]:
    second = {"second": one.second} if one.second else {}
    said = {"label": one.label, "probability": one.probability, "probabilities": dict(one.probabilities)}
    return {"text": one.text, **second, **said, "source": one.example.source, "line": one.example.line}
