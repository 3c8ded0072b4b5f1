"""The stage `ladder`: what was adapted, and what needs no learning, answers the same texts; costs are measured."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from underlay.adapt.examples import Example, Examples, Label
from underlay.adapt.heads import predict_labels
from underlay.adapt.heads.texts import text_of
from underlay.adapt.ladder import (
    RUNGS,
    Classical,
    Learning,
    Majority,
    RungName,
    Serving,
    Trial,
    by_chance,
    nearest,
    timed,
    why_not,
)
from underlay.adapt.ladder.trial import Answerer
from underlay.adapt.merge import merge
from underlay.adapt.prompting import Demonstration, Prediction, PromptSettings, Task, answer
from underlay.adapt.prompting.cases import Case, case_of
from underlay.adapt.prompting.measure import score_each
from underlay.errors import UserError
from underlay.evaluate.ladder import LadderData, write_ladder
from underlay.formats.peft import read_adapter
from underlay.generate import Engine
from underlay.library import Artifact, Library
from underlay.models.decoder import DecoderConfig
from underlay.models.storage import load_config, load_decoder, load_model, parameter_count
from underlay.recipe import stages
from underlay.recipe.job import Job
from underlay.text import Tokenizer
from underlay.train.memory import PeakMemory

_SLOTS = 16
_WAY = 256
"""Tokens of a chain of thought, or a quarter of what the model reads."""


def compare(job: Job) -> None:
    """The stage: measure all ways on the test, those that learn nothing gone here and now."""
    settings: stages.LadderStage = job.settings
    task, known = settings.task, list(Examples(job.folder("examples")))
    test = _chosen(list(Examples(job.folder("test"))), settings.limit)
    cases = [task.case(example) for example in test]
    if bare := [case for case in cases if not case.outputs]:
        raise UserError(f"{bare[0].where}: it is not known what is right; leave it out, or add its answer")
    trials = list(_Trials(job, task, known, test, cases).all())
    if not trials:
        raise UserError("there is nothing to compare; ask for more rungs, or take a model that can go them")
    data = LadderData(
        name=job.name,
        task=task,
        trials=tuple(trials),
        texts=tuple(case.input for case in cases),
        right=tuple(case.outputs for case in cases),
        learned_from=len(known),
        repeated=_repeated(known, cases),
        left_out=settings.left_out,
        models={label: _facts(job.inputs[f"models.{label}"]) for label in settings.models},
        settings=settings.model_dump(mode="json", include={"seeds", "shots", "votes", "limit"}),
        machine=_machine(),
    )
    summary = write_ladder(data, job.draft.folder)
    job.draft.metrics |= summary
    job.draft.licences = job.inputs["test"].manifest.licences


class _Trials:
    """All runs that are to be measured, each kept once it is."""

    def __init__(
        self, job: Job, task: Task, known: Sequence[Example], test: Sequence[Example], cases: Sequence[Case]
    ) -> None:
        self._job, self._task, self._known, self._test, self._cases = job, task, known, test, cases
        self._settings: stages.LadderStage = job.settings
        self._labels = len(task.output.labels)

    def all(self) -> Iterator[Trial]:
        """One after another: what needs no model, then model after model."""
        for rung in self._settings.rungs:
            if rung == "majority" or (rung == "tfidf" and self._labels):
                yield self._kept("", rung, 0, partial(self._baseline, rung))
        for label in self._settings.models:
            config = load_config(self._job.folder(f"models.{label}"))
            for rung in self._settings.rungs:
                if RUNGS[rung].kind == "prompt" and not why_not(
                    rung, isinstance(config, DecoderConfig), bool(self._labels)
                ):
                    often = self._settings.seeds if by_chance(rung, self._labels, self._settings.shots) else 1
                    for seed in range(often):
                        yield self._kept(label, rung, seed, partial(self._prompted, label, rung, seed))
            for role in sorted(self._job.inputs, key=_by_rung):
                kind, _, key = role.partition(".")
                model, _, rest = key.rpartition(".")[0].rpartition(".")
                if kind in ("trained", "adapters") and model == label:
                    seed = int(key.rpartition(".")[2])
                    yield self._kept(label, rest, seed, partial(self._learned, role))  # type: ignore[arg-type]

    def _kept(self, model: str, rung: RungName, seed: int, run: Any) -> Trial:
        """The run as it was measured, also before this process began."""
        place = self._job.draft.scratch / "trials" / f"{hashlib.sha256(model.encode()).hexdigest()[:12]}-{rung}-{seed}"
        if place.exists():
            return Trial.model_validate_json(place.read_text("utf-8"))
        answerer, learning, size, settings = run()
        found, seconds, alone, memory = timed(answerer, len(self._test), self._job.progress)
        trial = Trial(
            model=model,
            rung=rung,
            seed=seed,
            answers=tuple(one.answer for one in found),
            scores=tuple(score_each(self._task, found, self._cases)),
            confidences=tuple(one.confidence for one in found),
            learning=learning,
            serving=Serving(seconds=seconds, alone=alone, memory=memory, size=size),
            settings=settings,
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        part.write_text(trial.model_dump_json(), "utf-8")
        part.rename(place)
        title = f"{model}, {RUNGS[rung].title}" if model else RUNGS[rung].title
        share = sum(trial.scores) / len(trial.scores)
        self._job.log(f"{title}, seed {seed}: {share:.1%}, {1000 * seconds:.3g} ms a text")
        return trial

    def _baseline(self, rung: RungName) -> "_Run":
        shown = [case_of(example) for example in self._known]
        shown = [case for case in shown if case.outputs]
        texts, right = [case.input for case in shown], [case.outputs[0] for case in shown]
        memory, began = PeakMemory(), time.perf_counter()
        model: Majority | Classical = Majority(right) if rung == "majority" else Classical(texts, right)
        seconds = time.perf_counter() - began
        parameters = model.parameters if isinstance(model, Classical) else 0
        settings = {"strength": model.strength} if isinstance(model, Classical) else {"answer": model.answer}
        learning = Learning(
            examples=len(shown), passes=1, seconds=seconds, memory=memory.bytes(), parameters=parameters
        )

        def say(numbers: Sequence[int]) -> list[Prediction]:
            return model([self._cases[number].input for number in numbers])

        return say, learning, 8 * parameters, settings

    def _prompted(self, label: str, rung: RungName, seed: int) -> "_Run":
        folder = self._job.folder(f"models.{label}")
        task, pool = self._task, self._task.pool()
        shots = {"prompt": 0, "few_shot": self._settings.shots}.get(rung, 0)
        thinks = rung in ("chain_of_thought", "self_consistency")
        shown = [one for one in map(task.case, self._known) if one.outputs] + pool if shots or thinks else []
        worked = [one for one in shown if one.reasoning]
        if thinks and len(worked) >= self._settings.shots:
            shown, shots = worked, self._settings.shots
        settings = PromptSettings(
            shots=shots,
            selector="nearest" if self._labels and nearest(self._labels, shots) else "balanced" if shots else "fixed",
            reasoning="none" if not thinks else "worked" if shots else "step_by_step",
            direct=False,
            too_long="leave",
            reasoning_tokens=min(_WAY, load_config(folder).context // 4),
            votes=self._settings.votes if rung == "self_consistency" else 1,
            seed=seed,
        )
        shown_task = task.model_copy(
            update={
                "examples": None,
                "demonstrations": tuple(
                    Demonstration(input=one.input, output=one.outputs[0], reasoning=one.reasoning) for one in shown
                ),
            }
        )
        engine = Engine.load(folder, _SLOTS)
        learning = Learning(examples=len(shown) if shots else 0)
        return self._asked(engine, shown_task, settings), learning, _size(folder), settings.model_dump(mode="json")

    def _learned(self, role: str) -> "_Run":
        made = self._job.inputs[role]
        learning, settings = _cost(self._job.library, made), dict(made.manifest.config)
        if made.manifest.kind == "adapter":
            base = self._job.folder(f"models.{role.partition('.')[2].rpartition('.')[0].rpartition('.')[0]}")
            model = load_decoder(base)
            merged = merge(model, read_adapter(made.folder, model.config))
            engine = Engine(merged, Tokenizer.load(made.folder), _SLOTS, "bfloat16")
            size = _size(base) + _size(made.folder)
            return self._asked(engine, self._task, PromptSettings(shots=0, too_long="leave")), learning, size, settings
        if load_config(made.folder).task is None:
            engine = Engine.load(made.folder, _SLOTS)
            return (
                self._asked(engine, self._task, PromptSettings(shots=0, too_long="leave")),
                learning,
                _size(made.folder),
                settings,
            )
        head, tokenizer = load_model(made.folder), Tokenizer.load(made.folder)
        bodies = [example.body for example in self._test]
        texts = [text_of(body) for body in bodies if isinstance(body, Label)]
        if len(texts) < len(bodies):
            raise UserError("the test's examples are no labels, and the models have learned labels; give such a test")

        def say(numbers: Sequence[int]) -> list[Prediction]:
            guesses = predict_labels(head, tokenizer, [texts[number] for number in numbers])
            return [Prediction(one.labels[0], one.probabilities[one.labels[0]]) for one in guesses]

        return say, learning, _size(made.folder), settings

    def _asked(self, engine: Engine, task: Task, settings: PromptSettings) -> Answerer:
        def say(numbers: Sequence[int]) -> list[Prediction]:
            return answer(engine, task, [self._test[number] for number in numbers], settings).predictions

        return say


_Run = tuple[Answerer, Learning, int, dict[str, Any]]
"""What answers, what it took to learn, the bytes of its weights, and what was chosen."""


def _by_rung(role: str) -> tuple[int, str]:
    """Ways in their order, then models and seeds."""
    names = list(RUNGS)
    rung = role.rpartition(".")[0].rpartition(".")[2]
    return (names.index(rung) if rung in names else 0), role


def _chosen(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """So many of them, in their order; which ones, their hashes decide: files are often sorted."""
    if limit is None or limit >= len(examples):
        return list(examples)
    keys = [hashlib.sha256(f"{one.source}:{one.line}:{one.body!r}".encode()).digest() for one in examples]
    kept = sorted(sorted(range(len(examples)), key=keys.__getitem__)[:limit])
    return [examples[number] for number in kept]


def _repeated(known: Sequence[Example], cases: Sequence[Case]) -> tuple[int, ...]:
    """Numbers of the test's texts that were there to be learned from, whatever their case and spaces."""
    seen = {_plain(case_of(example).input) for example in known}
    return tuple(number for number, case in enumerate(cases) if _plain(case.input) in seen)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _cost(library: Library, made: Artifact) -> Learning:
    """What it took to make a model, its teacher included."""
    metrics, cost = made.manifest.metrics, made.manifest.cost
    read = made.manifest.config["train"]
    teacher = library.parents(made).get("teacher")
    return Learning(
        examples=metrics["examples"],
        passes=metrics["steps"] * read["batch_rows"] / metrics["rows"],
        seconds=cost.wall_seconds + (teacher.manifest.cost.wall_seconds if teacher else 0),
        memory=metrics.get("peak_memory"),
        parameters=metrics["learning"],
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _facts(model: Artifact) -> dict[str, Any]:
    """What a report says of a model."""
    config = load_config(model.folder)
    return {
        "reference": model.reference,
        "family": config.family,
        "parameters": parameter_count(load_model(model.folder)),
    }


def _machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"device": gpu or f"{torch.get_num_threads()} processor cores", "torch": torch.__version__}
