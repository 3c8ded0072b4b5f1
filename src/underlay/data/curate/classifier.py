"""A linear classifier of documents, trained from examples: those it should find, and others.

Quality filters of web corpora are of this kind: examples of good text against a crawl (GPT-3, arXiv:2005.14165,
appendix A; DCLM, arXiv:2406.11794), and so are cheap filters for hate. Features are runs of words and of characters
(`underlay.kernels.grams`); a logistic regression weighs them. It is trained in seconds on one core, and the same
examples give the same weights.

The score of a document is how much it is like the first kind of examples, from 0 to 1. Both kinds count the same
however many there are of each, so it is no probability where one is rare.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from underlay.config import Config, parse
from underlay.data.curate.texts import Texts
from underlay.errors import UserError
from underlay.kernels.grams import Shape, features, fit, scores

WEIGHTS, CONFIG = "classifier.safetensors", "classifier.json"
_RATE: Final = 0.05
_DECAY: Final = 1e-6


class ClassifierConfig(Config):
    """How a classifier looks at documents, and how it learns."""

    bits: int = Field(default=18, ge=10, le=24)
    """It has 2^bits weights."""
    words: int = Field(default=2, ge=0, le=5)
    """Longest run of words that is a feature."""
    characters: int = Field(default=4, ge=0, le=8)
    """Longest run of characters that is a feature, the shortest being 3; 0: none."""
    read: int = Field(default=8192, ge=64, le=1 << 20)
    """Bytes at the start of a document that it looks at."""
    examples: int = Field(default=20_000, ge=10)
    """Documents of each kind that it learns from at most; which ones, their hashes decide."""
    epochs: int = Field(default=5, ge=1, le=100)
    """How often it reads them."""
    heldout: float = Field(default=0.2, gt=0, lt=1)
    """Share of them that it does not learn from but is measured on."""

    @property
    def shape(self) -> Shape:
        """Its features."""
        return Shape(self.bits, self.words, 3, self.characters, self.read)


class Classifier:
    """Scores documents."""

    def __init__(self, config: ClassifierConfig, weights: NDArray[np.float32], bias: float) -> None:
        """Take weights, (2^bits,), and the bias."""
        self.config, self.weights, self.bias = config, weights, bias

    def score(self, texts: Texts) -> NDArray[np.float32]:
        """How much texts are like the first kind of examples: (n,) float32 from 0 to 1."""
        return scores(texts.bytes, texts.offsets, self.config.shape, self.weights, self.bias)

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights, "bias": np.array([self.bias])}, folder / WEIGHTS)
        config = self.config.model_dump(mode="json", include={*ClassifierConfig.model_fields})
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Read it from a folder. Raises UserError where it is missing or damaged."""
        try:
            config = parse(ClassifierConfig, json.loads((folder / CONFIG).read_text("utf-8")), str(folder / CONFIG))
            tensors = load_file(folder / WEIGHTS)
            weights, bias = tensors["weights"], tensors["bias"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"{folder}: no classifier: {str(error).splitlines()[0]}") from error
        if weights.shape != (1 << config.bits,) or weights.dtype != np.float32 or bias.shape != (1,):
            raise UserError(f"{folder / WEIGHTS}: damaged: not the {1 << config.bits} weights that it should hold")
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise UserError(f"{folder / WEIGHTS}: damaged: weights that are not finite")
        return cls(config, weights, float(bias[0]))

    @staticmethod
    def identity(folder: Path) -> str:
        """SHA-256 over a classifier's files."""
        total = hashlib.sha256()
        for name in (CONFIG, WEIGHTS):
            total.update(hashlib.sha256((folder / name).read_bytes()).digest())
        return total.hexdigest()


def train(like: Iterable[str], unlike: Iterable[str], config: ClassifierConfig) -> tuple[Classifier, dict[str, Any]]:
    """Learn to tell the texts in `like` from those in `unlike`; returns it with how well it does on what was held out.

    Texts that stand on both sides are left out. Raises UserError where a side has fewer than ten left.
    """
    found, others = _examples(like, config.examples), _examples(unlike, config.examples)
    both = found.keys() & others.keys()
    sides = [[(key, text) for key, text in side.items() if key not in both] for side in (found, others)]
    for name, side in zip(("like", "unlike"), sides, strict=True):
        if len(side) < _FEWEST:
            raise UserError(f"{name}: {len(side)} texts to learn from; at least {_FEWEST} are needed")
    rows = sorted([(key, text, 1.0) for key, text in sides[0]] + [(key, text, 0.0) for key, text in sides[1]])
    texts = Texts(pa.array([text for _, text, _ in rows], pa.large_string()))
    likes = np.array([kind for _, _, kind in rows], dtype=np.float32)
    apart = _held_out([key for key, _, _ in rows], likes, config.heldout)
    classifier = _fitted(texts, likes, np.flatnonzero(~apart), config)
    measured = measures(classifier.score(texts)[apart], likes[apart])
    counts = {"like": len(sides[0]), "unlike": len(sides[1]), "both": len(both), "heldout": int(apart.sum())}
    return classifier, {"examples": counts, **measured}


_FEWEST: Final = 10


def _examples(texts: Iterable[str], most: int) -> dict[str, str]:
    """Distinct texts by their hashes; of too many those with the least hashes."""
    found = {hashlib.sha256(text.encode()).hexdigest()[:32]: text for text in texts if text.strip()}
    return dict(sorted(found.items())[:most])


def _held_out(keys: list[str], likes: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    """Which rows are not learned from, by their hashes: at least one of each kind, and never all."""
    places = np.array([int(key[-8:], 16) for key in keys])
    apart = np.zeros(len(keys), dtype=np.bool_)
    for kind in (0, 1):
        rows = np.flatnonzero(likes == kind)
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        apart[rows[np.argsort(places[rows], kind="stable")[:count]]] = True
    return apart


def _fitted(texts: Texts, likes: NDArray[np.float32], rows: NDArray[np.int64], config: ClassifierConfig) -> Classifier:
    random = np.random.default_rng(0)
    order = np.concatenate([random.permutation(rows) for _ in range(config.epochs)])
    share = likes[rows].mean()
    importance = np.where(likes == 1, 0.5 / share, 0.5 / (1 - share)).astype(np.float32)
    found = features(texts.bytes, texts.offsets, config.shape)
    weights, bias = fit(found, likes, importance, order, config.bits, _RATE, _DECAY)
    return Classifier(config, weights, bias)


def measures(found: NDArray[np.float32], likes: NDArray[np.float32]) -> dict[str, float]:
    """Precision, recall and F1 at 0.5, and the area under the ROC curve, of scores against what is so, (n,) each."""
    yes, true = found >= 0.5, likes == 1
    hits = int((yes & true).sum())
    precision, recall = hits / max(1, int(yes.sum())), hits / max(1, int(true.sum()))
    # The chance that one of the first kind scores higher than one of the second; equal ones count half (Mann-Whitney).
    _, places, counts = np.unique(found, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    n, m = int(true.sum()), int((~true).sum())
    area = (float(ranks[true].sum()) - n * (n + 1) / 2) / max(1, n * m)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "auc": area}
