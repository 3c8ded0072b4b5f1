"""What is attacked gives way where it is weak, and less where it was hardened."""

import string
from pathlib import Path

import pytest
import torch
from head_world import EVERY, LABELS, PAIRS, QUESTIONS, TAGS, examples, learn, letters, prepared, words
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors

from underlay.adapt.examples import Label
from underlay.adapt.heads import HeadConfig, examine
from underlay.adapt.heads import lesson as head_lesson
from underlay.adapt.lesson import Lesson
from underlay.adapt.robust import (
    AttackConfig,
    Beside,
    RobustConfig,
    by_gradient,
    by_paraphrase,
    by_spelling,
    embedded,
    examine_attacked,
    harden,
    victim_of,
    worst_move,
)
from underlay.adapt.robust.spelling import slips
from underlay.errors import UserError
from underlay.models import Batch
from underlay.models.bert import BertConfig
from underlay.text import Tokenizer

WORDS = {"up": ["good", "fine", "great", "lovely"], "down": ["poor", "awful", "dreadful", "nasty"]}
FILL = ["paper", "garden", "window", "coffee", "river", "music"]


def by_letters() -> Tokenizer:
    """Words that it knows as a whole; others letter by letter."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    signs = string.ascii_lowercase + string.digits
    whole = [*WORDS["up"], *WORDS["down"], *FILL]
    pieces = [*names, *signs, *("##" + sign for sign in signs), *whole]
    backend = Backend(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    backend.add_special_tokens(names)
    return Tokenizer(backend, {f"{name.strip('[]').lower()}_token": name for name in names})


TOLD = examples(
    *(
        Label(f"{FILL[n % 6]} {word} {FILL[(n + at) % 6]}", (label,))
        for label, own in WORDS.items()
        for at, word in enumerate(own)
        for n in range(6)
    )
)
SPELLED = RobustConfig(kinds=("spelling",), share=0.5)
ATTACK = AttackConfig(kinds=("spelling",), share=0.5, tries=6)


def made(robust: RobustConfig | None = None, batch_rows: int = 8) -> Lesson:
    tokenizer = by_letters()
    torch.manual_seed(0)
    model = BertConfig(vocabulary=tokenizer.size, width=48, depth=2, heads=4, hidden=96, context=48).build()
    one = head_lesson(model, tokenizer, TOLD, HeadConfig(pooler=False), 40, 0, batch_rows=batch_rows)
    return one if robust is None else harden(one, tokenizer, TOLD, robust, 40, 0)


def test_what_learned_from_misspelled_texts_holds_up_better(tmp_path: Path) -> None:
    found = {}
    for name, robust in (("plain", None), ("robust", SPELLED)):
        one = made(robust)
        learn(one, tmp_path / name, 150, batch_rows=8, micro_rows=8)
        assert examine(one.model, by_letters(), TOLD)["accuracy"] == 1
        found[name] = examine_attacked(one.model, by_letters(), TOLD, ATTACK, 40)
    assert found["plain"]["attacked_clean"] == found["robust"]["attacked_clean"] == 1
    assert found["plain"]["attacked_spelling"] < 0.6
    assert found["robust"]["attacked_spelling"] > found["plain"]["attacked_spelling"] + 0.25


def test_what_learned_from_moved_embeddings_holds_up_better(tmp_path: Path) -> None:
    lost = []
    for name, robust in (("plain", None), ("robust", RobustConfig(kinds=("gradient",), epsilon=0.3))):
        one = made(robust)
        learn(one, tmp_path / name, 250, batch_rows=8, micro_rows=8)
        assert examine(one.model, by_letters(), TOLD)["accuracy"] == 1
        objective, batch = made().objective, made().source.batch(0, len(TOLD))
        move = worst_move(objective, one.model, batch, 1.2)
        with torch.no_grad(), embedded(one.model, lambda rows, move=move: rows + move):
            lost.append(float(objective(one.model, batch).sum) / len(TOLD))
    assert lost[0] > 0.5
    assert lost[1] < 0.1


def test_the_search_finds_the_word_that_matters_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    one = made()
    learn(one, tmp_path, 150, batch_rows=8, micro_rows=8)
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    victim = victim_of(one.model, by_letters(), TOLD)
    found = by_spelling(victim, AttackConfig(kinds=("spelling",), share=0.3, tries=8), 0)
    broken = [n for n, held in enumerate(found.held) if not held]
    assert len(broken) > 10
    telling = {word for own in WORDS.values() for word in own}
    hit = [telling.isdisjoint(str(found.worst[n]).split()) for n in broken]
    assert sum(hit) / len(hit) > 0.9
    for n, text in enumerate(found.worst):
        pairs = list(zip(str(victim.texts[n]).split(), str(text).split(), strict=True))
        changed = [(one_, other) for one_, other in pairs if one_ != other]
        assert len(changed) <= 1
        assert all(other in {slip for kind in slips(one_).values() for slip in kind} for one_, other in changed)
    losses, _ = victim.judge(found.worst, range(len(found.worst)))
    clean, _ = victim.judge(victim.texts, range(len(victim.texts)))
    assert (losses >= clean).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.model.state_dict().items())
    assert found == by_spelling(victim, AttackConfig(kinds=("spelling",), share=0.3, tries=8), 0)


@pytest.mark.parametrize("what", ["labels", "several", "pairs"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_labels_of_every_sort_can_be_attacked_in_every_way(kind: str, what: str, tmp_path: Path) -> None:
    one = prepared(kind, what)
    learn(one, tmp_path, 60)
    victim = victim_of(one.model, words() if kind == "encoder" else letters(), EVERY[what])
    clean = victim.judge(victim.texts, range(len(victim.texts)))[1]
    for attack in (by_spelling, by_paraphrase, by_gradient):
        found = attack(victim, AttackConfig(kinds=("spelling",), epsilon=3.0, share=1.0), 0)
        assert all(was for was, holds in zip(clean, found.held, strict=True) if holds)
        before, after = (victim.judge(texts, range(len(clean)))[0] for texts in (victim.texts, found.worst))
        assert (after >= before).all()
        if attack is by_spelling:
            assert found.worst != tuple(victim.texts)


def test_a_label_that_the_model_has_not_cannot_hold(tmp_path: Path) -> None:
    one = made()
    strange = examples(*(one.body for one in TOLD[:2] if isinstance(one.body, Label)), Label("good", ("sideways",)))
    victim = victim_of(one.model, by_letters(), strange)
    assert victim.known.tolist() == [True, True, False]
    with pytest.raises(UserError, match="needs texts with labels"):
        victim_of(one.model, by_letters(), QUESTIONS)
    with pytest.raises(UserError, match="tells labels of texts apart"):
        victim_of(prepared("encoder", "tags").model, by_letters(), LABELS)


def test_each_copy_has_the_target_of_its_text_and_other_words_in_each_pass() -> None:
    one = made(SPELLED)
    source = one.source
    assert isinstance(source, Beside)
    told = [example.body for example in TOLD]
    rows = len(source)
    copies: dict[int, set[object]] = {}
    for sample in range(3 * rows):
        (number,) = source.examples(sample)
        body = told[number]
        assert isinstance(body, Label)
        assert source.copy(sample) != body.text
        assert source.copy(sample) == made(SPELLED).source.copy(sample) if sample < 3 else True
        copies.setdefault(number, set()).add(source.copy(sample))
    assert sum(len(own) == 3 for own in copies.values()) > 0.8 * rows
    batch = source.batch(5, 4)
    assert batch.tokens.shape[0] == 8
    assert torch.equal(batch.targets[:4], batch.targets[4:])
    clean = source.rows.batch(5, 4)
    assert torch.equal(batch.tokens[:4, : clean.tokens.shape[1]], clean.tokens)
    assert batch.present is not None
    for row in range(4):
        text = source.copy(5 + row)
        assert isinstance(text, str)
        ids = by_letters().frame(text).ids
        assert batch.tokens[4 + row, : len(ids)].tolist() == ids
        assert int(batch.present[4 + row].sum()) == len(ids)


def test_pairs_keep_the_types_of_their_texts() -> None:
    plain = prepared("encoder", "pairs")
    settings = RobustConfig(kinds=("paraphrase", "spelling"))
    robust = harden(plain, words(), PAIRS, settings, 40, 0)
    batch = robust.source.batch(0, 4)
    assert batch.types is not None
    assert all(kinds.any() for kinds in batch.types)
    assert batch.types.shape == batch.tokens.shape


@pytest.mark.parametrize("kinds", [("spelling", "paraphrase"), ("gradient",), ("spelling", "gradient")])
def test_stopped_and_resumed_equals_never_stopped(kinds: tuple[str, ...], tmp_path: Path) -> None:
    settings = RobustConfig.model_validate({"kinds": kinds})

    class Stops:
        def __init__(self, source: object, after: int) -> None:
            self.source, self.left = source, after

        def batch(self, first: int, count: int) -> Batch:
            self.left -= 1
            if not self.left:
                raise InterruptedError
            return self.source.batch(first, count)

    whole = made(settings, 4)
    learn(whole, tmp_path / "whole", 6)
    first = made(settings, 4)
    stopping = Lesson(first.model, Stops(first.source, 5), first.objective, first.count)
    with pytest.raises(InterruptedError):
        learn(stopping, tmp_path / "other", 6, checkpoint_seconds=1e-9)
    again = made(settings, 4)
    learn(again, tmp_path / "other", 6)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_only_texts_with_labels_are_put_into_other_words() -> None:
    one = prepared("encoder", "tags")
    with pytest.raises(UserError, match="spelling is for texts with labels"):
        harden(one, words(), TAGS, SPELLED, 40, 0)
    assert harden(one, words(), TAGS, RobustConfig(kinds=("gradient",)), 40, 0).source is one.source
