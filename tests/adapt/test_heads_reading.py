"""From examples to rows, and from scores back to characters; and what cannot be learned from is told."""

import json

import pytest
import torch
from head_world import LABELS, NUMBERS, PAIRS, QUESTIONS, SIMILAR, decoder, encoder, examples, letters, made, words
from hypothesis import given
from hypothesis import strategies as st

from underlay.adapt.examples import Conversation, Form, Label, Question, Similar, Tags
from underlay.adapt.heads import (
    HeadConfig,
    examine,
    lesson,
    predict_answers,
    predict_labels,
    predict_tags,
    predict_values,
    with_head,
)
from underlay.adapt.heads.frame import Frame, cut_pair, frame_of
from underlay.adapt.heads.predict import best_span
from underlay.adapt.heads.source import NO_TARGET
from underlay.adapt.heads.spans import NOWHERE, place_answers, read
from underlay.adapt.heads.texts import frame_texts, label_texts
from underlay.adapt.heads.words import places, tag_words, word_tokens
from underlay.errors import UserError
from underlay.formats import hf
from underlay.models.heads import TaskConfig
from underlay.text import Message, Special, Tokenizer

KINDS = ["encoder", "decoder"]


def test_an_encoder_reads_pairs_between_its_marks_with_types() -> None:
    model, tokenizer = made("encoder")
    framed, cut = frame_texts(model, tokenizer, [("paris is", "the fox"), "paris is"])
    for found, expected in zip(
        framed, (tokenizer.frame("paris is", "the fox"), tokenizer.frame("paris is")), strict=True
    ):
        assert found == expected
    assert cut == 0


def test_a_decoder_reads_pairs_with_a_new_line_between() -> None:
    model, tokenizer = made("decoder")
    found = frame_texts(model, tokenizer, [("paris", "the fox")])[0][0]
    assert found is not None
    assert tokenizer.decode(found.ids) == "paris\nthe fox"
    assert found.ids[0] == tokenizer.special(Special.BOS)
    assert not any(found.type_ids)


def test_an_encoder_without_types_gets_none() -> None:
    tokenizer = words()
    model = encoder(tokenizer, types=0)
    one = lesson(model, tokenizer, PAIRS, HeadConfig(), 40, 0)
    assert one.source.batch(0, 4).types is None
    one.objective(one.model, one.source.batch(0, 4)).sum.backward()


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 12))
def test_the_longer_of_a_pair_is_cut(first: int, other: int, most: int) -> None:
    one, two = cut_pair(range(first), range(other), most)
    assert len(one) + len(two) == min(first + other, most)
    assert (list(one), list(two)) == (list(range(len(one))), list(range(len(two))))
    for kept, rest, whole in ((len(one), len(two), first), (len(two), len(one), other)):
        assert kept == whole or kept >= rest - (kept + rest) % 2


def test_long_texts_are_cut_and_empty_ones_left_out() -> None:
    model, tokenizer = made("encoder")
    labels = [Label("paris " * 50, ("a",)), Label("paris", ("b",)), Label(" ", ("b",)), Label("", ("c",))]
    found = label_texts(model, tokenizer, labels, context=10)
    assert found.task.labels == ("a", "b")
    assert found.framed[0].ids == [tokenizer.frame("paris " * 50).ids[at] for at in [*range(9), -1]]
    assert found.left_out == {"empty": 2, "longer than a row, cut": 1}
    one = lesson(model, tokenizer, examples(*labels), HeadConfig(), 10, 0)
    assert (one.count, one.left_out) == (2, {"empty": 2, "longer than a row, cut": 1})
    assert one.source.batch(0, 2).present.sum(1).max() == 10


def test_labels_are_sorted_and_sets_are_sets() -> None:
    model, tokenizer = made("encoder")
    found = label_texts(model, tokenizer, [Label("good", ("b", "a")), Label("bad", ("c",)), Label("dog")], 40)
    assert (found.task.labels, found.task.several) == (("a", "b", "c"), True)
    assert list(found.targets) == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    single = label_texts(model, tokenizer, [Label("good", ("b",)), Label("bad", ("a",))], 40)
    assert (list(single.targets), single.task.several) == ([[1], [0]], False)


@pytest.mark.parametrize("tokenizer", [words(), letters()], ids=KINDS)
def test_words_have_the_tokens_that_they_have_in_running_text(tokenizer: Tokenizer) -> None:
    sentence = ["paris", "is", "Größe", "dog", "why", "?"]
    tokens = word_tokens(tokenizer, sentence)
    assert [token for own in tokens for token in own] == tokenizer.encode(" ".join(sentence))
    assert all(tokens)
    for word, own in zip(sentence, tokens, strict=True):
        if tokenizer.native:
            assert tokenizer.decode(own).strip() == word


def test_words_that_a_tokenizer_drops_have_none() -> None:
    assert [bool(own) for own in word_tokens(words(), ["paris", "\x00", "", "dog"])] == [True, False, False, True]


def test_the_first_token_of_a_word_carries_its_tag() -> None:
    model, tokenizer = made("encoder")
    sentence = Tags(("paris", "walks", "\x00"), ("B-x", "O", "O"))
    found = tag_words(model, tokenizer, [sentence, Tags(("a",), ()), Tags((), ())], 40)
    one, two = (len(own) for own in word_tokens(tokenizer, sentence.words)[:2])
    assert one > 1 or two > 1
    assert found.task.labels == ("B-x", "O")
    silent = [NO_TARGET]
    assert list(found.targets) == [silent + [0] + silent * (one - 1) + [1] + silent * (two - 1) + silent]
    assert found.left_out == {
        "words without a token of their own": 1,
        "not as many tags as words": 1,
        "empty": 1,
        "words longer than a row, cut": 0,
    }


def test_a_long_sentence_becomes_rows_that_hold_every_word_once() -> None:
    model, tokenizer = made("encoder")
    sentence = Tags(tuple(["paris", "walks", "x" * 30, *"abcdefghijkl"] * 4), ("B-x", *["O"] * 14) * 4)
    found = tag_words(model, tokenizer, [sentence], 12)
    assert all(len(row.ids) <= 12 for row in found.framed)
    tags = [found.task.labels[target] for row in found.targets for target in row if target != NO_TARGET]
    assert tags == list(sentence.tags)
    assert found.left_out["words longer than a row, cut"] == 4
    assert found.count == 1


TEXT = "anna walks to london while ben sleeps in rome on monday"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_stand_in_windows_that_hold_them_whole(kind: str) -> None:
    model, tokenizer = made(kind)
    most = 24
    reading = read(tokenizer, frame_of(model, tokenizer, pairs=True), most, 8, "who", TEXT)
    assert len(reading.windows) > 1
    for answer in set(TEXT.split()) - {"on"}:  # it stands in london first
        question = Question("who", TEXT, ((answer, TEXT.index(answer)),))
        found = place_answers(model, tokenizer, [question], most, stride=8)
        assert [row.ids for row in found.framed] == [window.framed.ids for window in reading.windows]
        hits = [(row, ends) for row, ends in zip(found.framed, found.targets, strict=True) if tuple(ends) != NOWHERE]
        assert hits
        for row, (first, last) in hits:
            assert tokenizer.decode(row.ids[first : last + 1]).strip() == answer
    covered = {token for window in reading.windows for token in range(window.first, window.first + window.length)}
    assert covered == set(range(len(reading.characters)))
    for one, other in zip(reading.windows, reading.windows[1:], strict=False):
        assert one.first + one.length - other.first == 8


def test_an_answer_has_no_token_of_its_neighbours() -> None:
    model, tokenizer = made("encoder")
    reading = read(tokenizer, frame_of(model, tokenizer, pairs=True), 40, 0, "who", "xab y")
    assert reading.characters == [(0, 1), (1, 2), (2, 3), (4, 5)]
    assert reading.tokens(1, 2) == (1, 1)
    assert reading.tokens(1, 5) == (1, 3)
    assert reading.tokens(3, 4) is None


def test_answers_that_stand_elsewhere_are_left_out_and_long_questions_cut() -> None:
    model, tokenizer = made("encoder")
    wrong = Question("who", "anna walks", (("ben", 0),))
    long = Question("who " * 60, "anna walks", (("anna", 0),))
    found = place_answers(model, tokenizer, [wrong, long, Question("who", " ", ())], 20, 4)
    assert found.left_out == {
        "answers that do not stand where they are said to": 1,
        "questions longer than half a row, cut": 1,
        "empty": 1,
    }
    assert found.count == 1
    assert len(found.framed[0].ids) <= 20


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=12), st.integers(1, 14))
def test_the_best_span_is_the_best_of_all(scores: list[tuple[float, float]], longest: int) -> None:
    start, end = torch.tensor(scores).unbind(-1)
    score, first, last = best_span(start, end, longest)
    spans = [(i, j) for i in range(len(scores)) for j in range(i, min(len(scores), i + longest))]
    assert (first, last) in spans
    assert score == max(float(start[i] + end[j]) for i, j in spans) == float(start[first] + end[last])


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_beside_a_text_changes_no_prediction(kind: str) -> None:
    base, tokenizer = made(kind)
    texts = ["paris", "the quick brown fox jumps over the lazy dog", ("good", "bad"), "x"]
    model = with_head(base, TaskConfig(kind="text", labels=("a", "b", "c")), 0)
    together = predict_labels(model, tokenizer, texts)
    for text, guess in zip(texts, together, strict=True):
        alone = predict_labels(model, tokenizer, [text])[0]
        assert alone.labels == guess.labels
        assert alone.probabilities == pytest.approx(guess.probabilities, abs=1e-5)
        assert sum(guess.probabilities.values()) == pytest.approx(1)

    tagger = with_head(base, TaskConfig(kind="token", labels=("a", "b")), 0)
    sentences = [["paris", "is"], ["anna", "walks", "to", "london", "\x00"], []]
    found = predict_tags(tagger, tokenizer, sentences)
    assert [len(one) for one in found] == [2, 5, 0]
    assert [(word.start, word.end) for word in found[1]] == places(sentences[1])
    for sentence, one in zip(sentences, found, strict=True):
        alone = predict_tags(tagger, tokenizer, [sentence])[0]
        assert [word.tag for word in alone] == [word.tag for word in one]

    asker = with_head(base, TaskConfig(kind="span"), 0)
    asked = [("who", TEXT), ("where is the capital", "paris")]
    answers = predict_answers(asker, tokenizer, asked, context=24, stride=4, must=True)
    for question, answer in zip(asked, answers, strict=True):
        assert answer.text
        assert question[1][answer.start : answer.end] == answer.text
        alone = predict_answers(asker, tokenizer, [question], context=24, stride=4, must=True)[0]
        assert (alone.text, alone.start) == (answer.text, answer.start)
        assert alone.margin == pytest.approx(answer.margin, abs=1e-4)
        unsure = predict_answers(asker, tokenizer, [question], context=24, stride=4)[0]
        assert bool(unsure.text) == (answer.margin > 0)


@pytest.mark.parametrize("seed", range(6))
def test_the_answer_is_the_best_over_all_windows(seed: int) -> None:
    base, tokenizer = made("encoder")
    asker = with_head(base, TaskConfig(kind="span"), seed)
    reading = read(tokenizer, frame_of(asker, tokenizer, pairs=True), 24, 4, "who", TEXT)
    spans, none = [], []
    for window in reading.windows:
        tokens, types = (torch.tensor([part]) for part in window.framed)
        with torch.no_grad():
            start, end = asker.scores(tokens, types=types)[0].unbind(-1)
        none.append(float(start[0] + end[0]))
        for first in range(window.length):
            for last in range(first, min(window.length, first + 5)):
                score = float(start[window.at + first] + end[window.at + last])
                spans.append((score, window.first + first, window.first + last))
    score, first, last = max(spans)
    found = predict_answers(asker, tokenizer, [("who", TEXT)], 24, 4, longest=5, must=True)[0]
    assert (found.start, found.end) == (reading.characters[first][0], reading.characters[last][1])
    assert found.margin == pytest.approx(score - min(none), abs=1e-4)


def test_answers_have_at_most_so_many_tokens() -> None:
    base, tokenizer = made("encoder")
    asker = with_head(base, TaskConfig(kind="span"), 0)
    found = predict_answers(asker, tokenizer, [("who", TEXT)], longest=1, must=True)[0]
    assert len(tokenizer.encode(found.text)) <= len(tokenizer.encode(max(TEXT.split(), key=len)))
    assert " " not in found.text
    assert predict_answers(asker, tokenizer, [("who", "")], must=True)[0].text == ""


def test_predictions_leave_the_model_as_it_was_and_tell_what_was_cut() -> None:
    base, tokenizer = made("encoder")
    model = with_head(base, TaskConfig(kind="text", labels=("a", "b")), 0).train()
    told: list[str] = []
    predict_labels(model, tokenizer, ["paris " * 100, ""], log=told.append)
    assert model.training
    assert told == ["1 of 2 texts: longer than a row, cut"]


def test_several_labels_hold_or_not_each_by_itself() -> None:
    base, tokenizer = made("encoder")
    model = with_head(base, TaskConfig(kind="text", labels=("a", "b"), several=True), 0)
    with torch.no_grad():
        model.task.output.weight.zero_()
        model.task.output.bias.copy_(torch.tensor([2.0, 1.0]))
    guess = predict_labels(model, tokenizer, ["paris"])[0]
    assert guess.labels == ("a", "b")
    assert guess.probabilities == pytest.approx({"a": 0.880797, "b": 0.731059}, abs=1e-5)


BAD: list[tuple[list[Form], str]] = [
    ([], "there are no examples"),
    ([Label("good", ("up",)), Label("bad", ("up",))], "all texts have the label 'up'"),
    ([Label("", ("up",)), Label(" ", ("down",))], "all texts are empty"),
    ([Label("good", ("up",)), Label("bad", value=1.0)], "some texts have a value, others labels"),
    ([Label("good", value=1.0), Label("bad", value=1.0)], "all texts have the value 1"),
    ([Label("good"), Label("bad")], "no text has a label"),
    ([Label("good", value=float("inf")), Label("bad", value=1.0)], "not finite"),
    ([Tags(("paris",), ("O",))], "all words have the tag 'O'"),
    ([Tags(("paris",), ())], "no sentence has words with tags"),
    ([Question("who", "paris", ())], "no question has an answer"),
    ([Similar("good", "fine")], "1 pairs of texts"),
    ([Label("good", ("up",)), Tags(("paris",), ("O",))], "several forms"),
    ([Conversation((Message("user", "hi"),))], "no head learns from a conversation"),
]


@pytest.mark.parametrize(("bodies", "message"), BAD)
def test_nothing_to_learn_is_one_line(bodies: list[Form], message: str) -> None:
    model, tokenizer = made("encoder")
    with pytest.raises(UserError, match=message) as caught:
        lesson(model, tokenizer, examples(*bodies), HeadConfig(), 40, 0)
    assert "\n" not in str(caught.value)


def test_one_label_is_asked_for_where_several_are_not_wanted() -> None:
    model, tokenizer = made("encoder")
    two = examples(Label("good", ("a", "b")), Label("bad", ("a",)))
    with pytest.raises(UserError, match="'good' has 2 labels, not one"):
        lesson(model, tokenizer, two, HeadConfig(several=False), 40, 0)
    with pytest.raises(UserError, match="frozen"):
        lesson(model, tokenizer, SIMILAR, HeadConfig(frozen=True), 40, 0)


def test_an_encoder_needs_a_mark_between_texts() -> None:
    tokenizer = words()
    source = json.loads(tokenizer._backend.to_str())
    bare = Tokenizer(tokenizer._backend.from_str(json.dumps(source | {"post_processor": None})))
    with pytest.raises(UserError, match="no mark between two texts"):
        lesson(encoder(bare), bare, PAIRS, HeadConfig(), 40, 0)
    with pytest.raises(UserError, match="no mark between two texts"):
        lesson(encoder(bare), bare, QUESTIONS, HeadConfig(), 40, 0)
    assert frame_of(decoder(bare), bare) == Frame((), (), ())


def test_a_head_is_not_asked_for_what_it_does_not_do() -> None:
    base, tokenizer = made("encoder")
    model = with_head(base, TaskConfig(kind="text", labels=("a", "b")), 0)
    for call in (predict_values, predict_tags, predict_answers):
        with pytest.raises(UserError, match="a head of kind text with 2 scores"):
            call(model, tokenizer, ["a"])
    with pytest.raises(UserError, match="no head for a task"):
        predict_labels(base, tokenizer, ["a"])
    with pytest.raises(UserError, match="nothing to examine"):
        examine(model, tokenizer, [])


def test_what_a_head_means_goes_out_to_other_tools_or_is_refused() -> None:
    model, tokenizer = made("encoder")
    several = with_head(model, TaskConfig(kind="text", labels=("a", "b"), several=True), 0)
    assert hf.outgoing(several.config)[0]["problem_type"] == "multi_label_classification"
    one = lesson(model, tokenizer, LABELS, HeadConfig(), 40, 0)
    assert hf.outgoing(one.model.config)[0]["problem_type"] == "single_label_classification"
    plain = with_head(model, TaskConfig(kind="text", labels=("value",)), 0)
    assert hf.outgoing(plain.config)[0]["problem_type"] == "regression"
    number = lesson(model, tokenizer, NUMBERS, HeadConfig(), 40, 0)
    with pytest.raises(UserError, match="mean and scale"):
        hf.outgoing(number.model.config)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kind": "token", "labels": ("a",), "several": True}, "several: of texts alone"),
        ({"kind": "text", "labels": ("a", "b"), "mean": 1.0}, "of a number alone"),
        ({"kind": "text", "labels": ("a",), "scale": 0.0}, "greater than 0"),
    ],
)
def test_heads_that_cannot_be(more: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskConfig.model_validate(more)
