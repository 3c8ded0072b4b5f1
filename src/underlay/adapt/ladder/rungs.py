"""The ways to adapt a model to one task, from the cheapest to the dearest, and which of them a model can go.

nothing      majority, tfidf                                           no foundation model at all
its prompt   prompt, few_shot, chain_of_thought, self_consistency      no weight is touched
its weights  head, lora, full, distilled
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RungName = Literal[
    "majority",
    "tfidf",
    "prompt",
    "few_shot",
    "chain_of_thought",
    "self_consistency",
    "head",
    "lora",
    "full",
    "distilled",
]
Kind = Literal["baseline", "prompt", "weights"]


@dataclass(frozen=True)
class Rung:
    """One way."""

    title: str
    how: str
    """In a sentence, for who reads a report."""
    kind: Kind
    labels: bool = False
    """Whether answers have to be labels."""


RUNGS: Mapping[RungName, Rung] = {
    "majority": Rung("majority", "Always the most frequent answer of what is learned from.", "baseline"),
    "tfidf": Rung(
        "TF-IDF, logistic regression",
        "Runs of one or two words and of two to five letters, weighed; its strength is chosen on a tenth of what is "
        "learned from.",
        "baseline",
        labels=True,
    ),
    "prompt": Rung("prompt", "The instruction and the text, nothing else.", "prompt"),
    "few_shot": Rung("few-shot", "Demonstrations before the text.", "prompt"),
    "chain_of_thought": Rung("chain of thought", "The model writes its way to the answer first.", "prompt"),
    "self_consistency": Rung("self-consistency", "Several such ways, and the answer that most reach.", "prompt"),
    "head": Rung("head, frozen", "A head on vectors of the model as it is, which are computed once.", "weights", True),
    "lora": Rung("LoRA", "Low-rank additions to the matrices.", "weights"),
    "full": Rung("full fine-tuning", "All weights.", "weights"),
    "distilled": Rung(
        "distilled", "Half of the blocks, which learn the answers and what the fully tuned model thinks of all.",
        "weights",
    ),
}  # fmt: skip
"""All of them, in their order."""


def why_not(rung: RungName, decoder: bool, labels: bool) -> str | None:
    """Why a model cannot go this way with this task; None: it can."""
    if RUNGS[rung].labels and not labels:
        return "needs labels, and the answers of this task are text"
    if RUNGS[rung].kind == "prompt" and not decoder:
        return "needs a model that writes, and this one is an encoder"
    if RUNGS[rung].kind == "weights" and not decoder and not labels:
        return "an encoder learns labels here, and the answers of this task are text"
    return None


def by_chance(rung: RungName, labels: int, shots: int) -> bool:
    """Whether seeds make a difference, so that one run would tell nothing of the next."""
    if rung == "few_shot":
        return shots > 0 and nearest(labels, shots) is False
    return rung in ("self_consistency", "head", "lora", "full", "distilled")


def nearest(labels: int, shots: int) -> bool:
    """Whether demonstrations are those nearest to the text: where not every label can be shown."""
    return labels > shots
