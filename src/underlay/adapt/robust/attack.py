"""How a model holds up where somebody looks for what it gets wrong: by its own loss, one text after the other.

    spelling     greedily: words in the order of how much the loss grows when one is cut to its first letter; of each,
                 the slip that raises the loss most is kept (DeepWordBug, arXiv:1801.04354; TextBugger, 1812.05271)
    paraphrase   the worst of as many as are tried: a sentence in other words has no parts to be ranked
    gradient     the text's embeddings, moved where the loss grows fastest

A search by the loss says more than slips at random, most of which hit words that do not matter. What is spelled stays
readable: as many words change as `share` allows. A text holds up if the model is right about it as it stands and in all
forms that were tried; so no attacked accuracy is above the clean one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from underlay.adapt.examples import Example, Label
from underlay.adapt.heads.objectives import SeveralLabels, TextClass, states, text_scores, text_vectors
from underlay.adapt.heads.predict import text_label_scores
from underlay.adapt.heads.source import TaskBatch
from underlay.adapt.heads.texts import Text, frame_texts, text_of
from underlay.adapt.robust.chance import Chance
from underlay.adapt.robust.config import AttackConfig
from underlay.adapt.robust.gradient import embedded, worst_move
from underlay.adapt.robust.paraphrase import rephrase
from underlay.adapt.robust.spelling import misspelled, words
from underlay.errors import UserError
from underlay.generate.padded import BATCH_TOKENS, padded
from underlay.models import Model
from underlay.text import Tokenizer

Place = tuple[int, int, int]
"""Which text of a pair, and the first and last character, exclusive, of a word in it."""


@dataclass(frozen=True)
class Attacked:
    """What came of an attack."""

    held: tuple[bool, ...]
    """Of each text, whether the model was right about all that was tried."""
    worst: tuple[Text, ...]
    """Of each text, what raised the loss most; for `gradient` the text as it stands."""

    @property
    def accuracy(self) -> float:
        """Share of texts that hold up."""
        return sum(self.held) / len(self.held)


@dataclass(frozen=True)
class Victim:
    """A model with a head for labels, some texts, and what is right about them."""

    model: Model
    tokenizer: Tokenizer
    texts: Sequence[Text]
    right: Tensor
    """(texts, labels) bool: which labels hold."""
    known: NDArray[np.bool_]
    """Whether the model has all labels of a text; it cannot be right where it has not."""
    context: int | None = None

    def judge(self, texts: Sequence[Text], of: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The loss of each text, in nats, and whether the model is right about it; `of`: whose labels are its own."""
        scores = text_label_scores(self.model, self.tokenizer, texts, self.context)
        right = self.right[torch.tensor(of, dtype=torch.int64)]
        losses, guessed = _judged(self.model, scores, right)
        return losses.numpy(), guessed.numpy() & self.known[np.array(of, np.int64)]


def victim_of(model: Model, tokenizer: Tokenizer, examples: Sequence[Example], context: int | None = None) -> Victim:
    """Raises UserError where the model tells no labels of texts apart, or the examples have none."""
    task = model.config.task
    if task is None or task.kind != "text" or task.number:
        raise UserError("attack: needs a model that tells labels of texts apart; adapt one by labels first")
    bodies = [one.body for one in examples if isinstance(one.body, Label) and one.body.value is None]
    if not bodies or len(bodies) < len(examples):
        raise UserError("attack: needs texts with labels to measure on, and nothing else; name such as heldout")
    place = {name: number for number, name in enumerate(task.labels)}
    right = torch.zeros(len(bodies), len(task.labels), dtype=torch.bool)
    for row, body in enumerate(bodies):
        for name in body.labels:
            if name in place:
                right[row, place[name]] = True
    known = np.array([set(body.labels) <= place.keys() and (bool(body.labels) or task.several) for body in bodies])
    return Victim(model, tokenizer, [text_of(body) for body in bodies], right, known, context)


def examine_attacked(
    model: Model,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    settings: AttackConfig,
    context: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracies by name: `attacked_clean` of the texts that are attacked, as they stand, and `attacked_spelling`, ...

    The attack depends on the model, the texts, the settings and the seed. Raises UserError as `victim_of` does.
    """
    victim = victim_of(model, tokenizer, spread(examples, settings.texts), context)
    return {f"attacked_{name}": found.accuracy for name, found in attack(victim, settings, seed).items()}


def spread(examples: Sequence[Example], most: int | None) -> Sequence[Example]:
    """At most so many of them, evenly spaced: files are often sorted by label."""
    count = len(examples) if most is None else min(most, len(examples))
    return [examples[number * len(examples) // count] for number in range(count)]


def attack(victim: Victim, settings: AttackConfig, seed: int) -> dict[str, Attacked]:
    """What comes of each kind of attack, and before them, as `clean`, of none."""
    _, clean = victim.judge(victim.texts, range(len(victim.texts)))
    found = {"clean": Attacked(tuple(clean.tolist()), tuple(victim.texts))}
    return found | {kind: ATTACKS[kind](victim, settings, seed) for kind in settings.kinds}


def by_spelling(victim: Victim, settings: AttackConfig, seed: int) -> Attacked:
    """Misspell the words that matter most, one after the other, until the model is wrong or enough are misspelled."""
    search = _Search(victim)
    places = [_places(text) for text in victim.texts]
    budget = [max(1, round(settings.share * len(own))) if own else 0 for own in places]
    cut = [(n, _put(victim.texts[n], p, _word(victim.texts[n], p)[:1])) for n in search.standing() for p in places[n]]
    losses, _ = victim.judge([text for _, text in cut], [n for n, _ in cut])
    matters = _by_number(len(places), [n for n, _ in cut], losses)
    order = [sorted(range(len(own)), key=lambda at: -own[at]) for own in matters]
    changed: list[dict[Place, str]] = [{} for _ in places]
    for turn in range(max(budget, default=0)):
        tried = []
        for n in search.standing():
            if turn >= budget[n]:
                continue
            place = places[n][order[n][turn]]
            for number in range(settings.tries):
                word = _word(victim.texts[n], place)
                slip = misspelled(word, Chance(seed, n, turn, number), settings.first_letters)
                tried.append((n, changed[n] | {place: slip}))
        texts = [_rewritten(victim.texts[n], slips) for n, slips in tried]
        for best in search.look(texts, [n for n, _ in tried]):
            n, slips = tried[best]
            changed[n] = slips
    return search.found()


def by_paraphrase(victim: Victim, settings: AttackConfig, seed: int) -> Attacked:
    """Try paraphrases, each drawn by itself."""
    search = _Search(victim)
    tried: dict[tuple[int, Text], None] = {}
    for n in search.standing():
        for number in range(settings.tries):
            tried[n, _rephrased(victim.texts[n], Chance(seed, n, number))] = None
    search.look([text for _, text in tried], [n for n, _ in tried])
    return search.found()


def by_gradient(victim: Victim, settings: AttackConfig, seed: int) -> Attacked:  # noqa: ARG001 - it leaves nothing open
    """Move embeddings by `worst_move`."""
    model, texts = victim.model, victim.texts
    objective = SeveralLabels() if model.config.task is not None and model.config.task.several else TextClass()
    _, held = victim.judge(texts, range(len(texts)))
    framed, _ = frame_texts(model, victim.tokenizer, texts, victim.context)
    numbers = [n for n, one in enumerate(framed) if one is not None and held[n]]
    rows = [one for n, one in enumerate(framed) if one is not None and held[n]]
    training = model.training
    model.eval()
    for batch in padded(rows, BATCH_TOKENS, model.embedding.weight.device):
        own = [numbers[row] for row in batch.rows]
        right = victim.right[own].to(batch.tokens.device)
        targets = right.long() if isinstance(objective, SeveralLabels) else right.long().argmax(-1, keepdim=True)
        read = TaskBatch(batch.tokens, targets, present=batch.present, types=batch.types)
        move = worst_move(objective, model, read, settings.epsilon, settings.ascents)
        with torch.no_grad(), embedded(model, _moved_by(move)):
            scores = text_scores(model, text_vectors(model, states(model, read, torch.float32), batch.present))
        _, guessed = _judged(model, scores, right)
        held[own] &= guessed.cpu().numpy()
    model.train(training)
    return Attacked(tuple(held.tolist()), tuple(texts))


ATTACKS: dict[str, Callable[[Victim, AttackConfig, int], Attacked]] = {
    "spelling": by_spelling,
    "paraphrase": by_paraphrase,
    "gradient": by_gradient,
}


class _Search:
    """What is known of each text: whether it holds up so far, and what was worst."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self._losses, self._held = victim.judge(victim.texts, range(len(victim.texts)))
        self._worst = list(victim.texts)

    def standing(self) -> list[int]:
        """The texts that are still to be broken."""
        return np.flatnonzero(self._held).tolist()

    def look(self, texts: Sequence[Text], of: Sequence[int]) -> list[int]:
        """Try texts in the place of others; which of them are now the worst of theirs."""
        losses, right = self._victim.judge(texts, of)
        best: dict[int, int] = {}
        for number, (n, loss, holds) in enumerate(zip(of, losses, right, strict=True)):
            self._held[n] &= holds
            if loss > self._losses[n]:
                self._losses[n], self._worst[n], best[n] = loss, texts[number], number
        return list(best.values())

    def found(self) -> Attacked:
        """What came of it."""
        return Attacked(tuple(self._held.tolist()), tuple(self._worst))


def _judged(model: Model, scores: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (texts,) of scores (texts, labels), and whether they say what is right."""
    assert model.config.task is not None
    if model.config.task.several:
        losses = F.binary_cross_entropy_with_logits(scores, right.float(), reduction="none").mean(-1)
        return losses, ((scores > 0) == right).all(-1)
    target = right.long().argmax(-1)
    return F.cross_entropy(scores, target, reduction="none"), scores.argmax(-1) == target


def _moved_by(move: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda rows: rows + move.to(rows.dtype)


def _rephrased(text: Text, chance: Chance) -> Text:
    return rephrase(text, chance) if isinstance(text, str) else (rephrase(text[0], chance), rephrase(text[1], chance))


def _places(text: Text) -> list[Place]:
    parts = (text,) if isinstance(text, str) else text
    return [(number, *span) for number, part in enumerate(parts) for span in words(part)]


def _word(text: Text, place: Place) -> str:
    part = text if isinstance(text, str) else text[place[0]]
    return part[place[1] : place[2]]


def _put(text: Text, place: Place, word: str) -> Text:
    number, start, end = place
    if isinstance(text, str):
        return text[:start] + word + text[end:]
    first, second = (part[:start] + word + part[end:] if at == number else part for at, part in enumerate(text))
    return first, second


def _rewritten(text: Text, slips: dict[Place, str]) -> Text:
    """Words in the place of others, the last first, so that the places of the others stay true."""
    for place in sorted(slips, reverse=True):
        text = _put(text, place, slips[place])
    return text


def _by_number(count: int, numbers: Sequence[int], values: NDArray[np.float32]) -> list[list[float]]:
    lists: list[list[float]] = [[] for _ in range(count)]
    for number, value in zip(numbers, values.tolist(), strict=True):
        lists[number].append(value)
    return lists
