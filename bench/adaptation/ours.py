"""Our side of `bench/adapt.py`: what `underlay adapt` does, without the library around it."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from adaptation.told import tell


def main(what: dict[str, Any]) -> None:
    """Train for some steps."""
    from underlay.adapt import instruct, preference, reinforce
    from underlay.adapt.examples import Example, Examples, Preference, Problem
    from underlay.adapt.lora import LoraConfig, attach
    from underlay.models.storage import load_decoder
    from underlay.text import Message, Tokenizer
    from underlay.train import TrainConfig, train
    from underlay.train.config import OptimizerConfig

    folder, packed = Path(what["model"]), what["way"] == "ours"
    model, tokenizer = load_decoder(folder), Tokenizer.load(folder)
    rows = what["tokens"] // what["context"]
    settings = TrainConfig(
        steps=what["steps"],
        context=what["context"],
        batch_rows=rows,
        micro_rows=rows,
        optimizer=OptimizerConfig(lr=0.002, adam_lr=0.0003),
        checkpoint_seconds=1e9,
    )
    if what["method"] == "lora":
        attach(model, LoraConfig(rank=16), 0, settings.dtype())
    scratch = Path(what["scratch"])
    if what["method"] == "dpo":
        settings = settings.model_copy(update={"batch_rows": 8, "micro_rows": 8, "compile": False})
        pairs = [json.loads(line) for line in Path(what["pairs"]).read_text().splitlines()]
        examples = [
            Example(Preference((Message("user", p["prompt"]),), p["chosen"], p["rejected"]), "bench", 1, "PSF-2.0")
            for p in pairs
        ]
        lesson = preference.lesson(
            model, tokenizer, examples, preference.PreferenceConfig(), what["context"], 0, settings.dtype(), scratch
        )
    elif what["method"] == "grpo":
        shape = what["rollouts"]
        rows = shape["prompts"] * shape["group"]
        changed = {"batch_rows": rows, "micro_rows": rows, "compile": False, "outliers": None}
        settings = settings.model_copy(update=changed)
        asked = [json.loads(line)["prompt"] for line in Path(what["prompts"]).read_text().splitlines()]
        examples = [Example(Problem((Message("user", one),)), "bench", 1, "PSF-2.0") for one in asked]
        rewarded = reinforce.ReinforceConfig(
            reward="length", group=shape["group"], max_tokens=shape["answer_tokens"], keep=what["steps"]
        )
        lesson = reinforce.lesson(model, tokenizer, examples, rewarded, what["context"], 0, settings, scratch)
    else:
        config = instruct.InstructConfig(packing=packed)
        examples = list(Examples(Path(what["examples"])))
        lesson = instruct.lesson(
            model, tokenizer, examples, config, what["context"], 0, settings.dtype(), settings.compiles()
        )
    times: list[float] = []
    source: Any = lesson.source
    watch = lambda *_, **__: times.append(time.perf_counter())  # noqa: E731
    outcome = train(model, lesson.objective, source, settings, scratch, watch)
    if what["method"] == "grpo":
        written = [row["length"] for row in outcome.journal]
        tell(times, rows, rows * sum(written) / len(written), True, mode=settings.mode())
        return
    share = settings.batch_rows / len(source)  # of a pass
    batches = (source.batch(row, 1) for row in range(len(source)))
    learned = sum(0.0 if batch.weights is None else float(batch.weights.sum()) for batch in batches)
    tell(times, share * lesson.count, share * learned, what["method"] == "dpo", mode=settings.mode())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
