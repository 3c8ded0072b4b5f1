"""Which demonstrations are shown: the nearest find what is alike, the balanced are even; what is too long is left."""

from collections import Counter

import pytest
import torch
from prompt_world import make_engine, make_model, make_tokenizer, task, texts

from underlay.adapt.prompting import Case, PromptSettings, answer, embedder
from underlay.adapt.prompting.selecting import orders, select
from underlay.adapt.prompting.tfidf import TfIdf
from underlay.adapt.prompting.writing import Writer
from underlay.errors import UserError
from underlay.generate.embed import embed

POOL = [
    Case(f"{text} {number}", (label,))
    for number, (text, label) in enumerate(
        [("the film was fine", "good")] * 6 + [("very bad answer", "bad")] * 3 + [("this is it", "not so bad")] * 2
    )
]


def near(text: str) -> list[float]:
    found: list[float] = TfIdf([case.input for case in POOL]).likeness([text])[0].tolist()
    return found


def test_a_texts_likeness_is_worked_out_by_hand() -> None:
    # Three texts; "a" stands in two, "b" in one: idf 1 + ln(4/3) and 1 + ln(4/2).
    found = TfIdf(["a b", "a", "c"]).likeness(["A, b!"])[0]
    one, two = 1 + torch.tensor(4 / 3).log(), 1 + torch.tensor(2.0).log()
    assert found == pytest.approx([1.0, float(one / (one**2 + two**2).sqrt()), 0.0])
    assert TfIdf(["a"]).likeness([""]).tolist() == [[0.0]]
    assert TfIdf(["", "?"]).likeness(["a"]).tolist() == [[0.0, 0.0]]
    # A word that stands twice weighs 1 + ln 2 times as much, not twice.
    twice = 1 + torch.tensor(2.0).log()
    assert TfIdf(["a a b"]).likeness(["a"])[0] == pytest.approx([float(twice / (twice**2 + 1).sqrt())])


def test_the_nearest_finds_the_duplicate_and_shows_it_last() -> None:
    # The same words, but not the same text: what has the very text is the example itself.
    query = Case("Very bad answer 7")
    (shown,) = select("nearest", POOL, [query], 3)
    assert shown[-1].input == "very bad answer 7"
    likeness = near(query.input)
    assert [likeness[POOL.index(one)] for one in shown] == sorted(likeness)[-3:]


def test_the_nearest_by_vectors_have_the_greatest_cosine() -> None:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    query = Case("bad answer")
    (shown,) = select("nearest", POOL, [query], 4, vectors=embedder(model, tokenizer))
    own, *others = embed(model, tokenizer, [query.input, *(one.input for one in POOL)])
    likeness = torch.stack([torch.nn.functional.cosine_similarity(own, other, dim=0) for other in others])
    assert [POOL.index(one) for one in shown] == likeness.topk(4).indices.tolist()[::-1]


def test_an_example_is_never_its_own_demonstration() -> None:
    for how in ("fixed", "random", "balanced", "nearest"):
        for query, shown in zip(POOL, select(how, POOL, POOL, len(POOL) - 1), strict=True):  # type: ignore[arg-type]
            assert len(shown) == len(POOL) - 1
            assert query not in shown


def test_the_balanced_are_even_over_labels() -> None:
    queries = [Case(f"query {number}") for number in range(20)]
    for shots in (3, 5, 6):
        for shown in select("balanced", POOL, queries, shots):
            counts = Counter(one.outputs for one in shown)
            assert len(counts) == 3
            assert max(counts.values()) - min(counts.values()) <= 1


def test_chance_depends_on_the_seed_and_the_text_alone() -> None:
    queries = [Case("one"), Case("two"), Case("three")]
    found = select("random", POOL, queries, 4, seed=1)
    assert select("random", POOL, queries[::-1], 4, seed=1) == found[::-1]
    assert found[0] != found[1]
    assert select("random", POOL, queries, 4, seed=2) != found
    assert all(len({one.input for one in shown}) == 4 for shown in found)


def test_the_fixed_are_the_first() -> None:
    assert select("fixed", POOL, [Case("x")], 2) == [POOL[:2]]
    assert select("fixed", POOL, [Case("x")], 0) == [[]]
    with pytest.raises(UserError, match="12 demonstrations are wanted, and there are 11"):
        select("fixed", POOL, [Case("x")], 12)


def test_orders_are_permutations_each_once_and_the_first_is_as_it_was() -> None:
    found = orders(POOL[:3], 9, seed=0)
    assert found[0] == POOL[:3]
    assert len(found) == len({tuple(one.input for one in order) for order in found}) == 6
    assert all(sorted(order, key=POOL.index) == POOL[:3] for order in found)
    assert orders([], 3, seed=0) == [[]]


def test_what_does_not_fit_is_left_out_from_the_farthest_and_counted() -> None:
    tokenizer, praise = make_tokenizer(), task()
    writer, query = Writer(tokenizer, praise), Case("the film")
    shown = [Case(f"{name} " + "very " * 10, ("good",)) for name in ("far", "near", "nearest")]
    whole = len(writer.prompt(query, shown))
    fitted = writer.fitted(query, [shown, shown[::-1]], room=10, context=whole + 10)
    assert fitted.left_out == 0
    assert fitted.prompts == [writer.prompt(query, shown), writer.prompt(query, shown[::-1])]
    fitted = writer.fitted(query, [shown, shown[::-1]], room=10, context=whole + 9)
    assert fitted.left_out == 1
    assert fitted.orders == [shown[1:], [shown[2], shown[1]]]
    assert fitted.prompts[0] == writer.prompt(query, shown[1:])
    found = answer(make_engine(context=64), task(), texts(("it", "good"), ("this is", "bad")), PromptSettings())
    assert 0 < found.left_out <= 6


def test_nearest_can_be_asked_for_by_a_task(tmp_path) -> None:  # type: ignore[no-untyped-def]
    engine, given = make_engine(), texts(("the film was very FINE", "good"))
    one = answer(engine, task(), given, PromptSettings(selector="nearest", shots=1)).predictions
    other = answer(engine, task(demonstrations=task().demonstrations[:1]), given).predictions
    assert one == other


@pytest.mark.parametrize("settings", [{}, {"reasoning": "step_by_step", "reasoning_tokens": 8}, {"votes": 2}])
def test_an_input_that_is_too_long_may_go_without_an_answer(settings: dict[str, object]) -> None:
    engine, asked = make_engine(context=128), task(demonstrations=[])
    long = "bad film " * 60
    examples = texts((long, "bad"), ("the film was fine", "good"), (long, "bad"), ("bad answer", "bad"))
    with pytest.raises(UserError, match="do not fit into the model's context of 128"):
        answer(engine, asked, examples, PromptSettings.model_validate(settings))
    found = answer(engine, asked, examples, PromptSettings.model_validate(settings | {"too_long": "leave"}))
    alone = answer(engine, asked, examples[1::2], PromptSettings.model_validate(settings))
    assert found.too_long == 2
    assert [one.answer is None for one in found.predictions[::2]] == [True, True]
    assert found.predictions[1::2] == alone.predictions
    if found.direct is not None:
        assert len(found.direct.predictions) == 4
    nothing = answer(engine, asked, examples[:1], PromptSettings.model_validate(settings | {"too_long": "leave"}))
    assert [one.answer for one in nothing.predictions] == [None]
