"""Labels are scored as a plain pass of the model scores them, and calibrated so that nothing is undecided about N/A."""

import pytest
import torch
from prompt_world import make_engine, make_model, make_tokenizer, task, texts

from underlay.adapt.prompting import PromptSettings, answer
from underlay.adapt.prompting.scoring import calibrated, log_probabilities, probabilities
from underlay.adapt.prompting.selecting import orders
from underlay.adapt.prompting.task import Task
from underlay.generate import Engine
from underlay.text import Message, render

REVIEWS = texts(("the film was good", "good"), ("this was very bad", "bad"), ("fine", "not so bad"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine()


def plain(ids: list[int], start: int) -> float:
    """Log-probability of all tokens from `start` on, by one pass without engine, cache or grammar."""
    with torch.inference_mode():
        scores = make_model(make_tokenizer())(torch.tensor([ids])).log_softmax(-1)[0]
    return float(sum(scores[place - 1, ids[place]] for place in range(start, len(ids))))


def by_hand(praise: Task, text: str, order: tuple[int, ...] = (0, 1, 2)) -> torch.Tensor:
    """Probabilities of a text's labels, the turns of the conversation written out."""
    turns = []
    for number in order:
        one = praise.demonstrations[number]
        turns += [Message("user", f'"""{one.input}"""'), Message("assistant", one.output)]
    turns.append(Message("user", f'"""{text}"""'))
    turns[0] = Message("user", f"Is this praise?\n\n{turns[0].content}")
    tokenizer = make_tokenizer()
    start = len(render(tokenizer, turns, reply=True)[0])
    whole = [render(tokenizer, [*turns, Message("assistant", label)])[0] for label in praise.output.labels]
    return torch.tensor([plain(ids, start) for ids in whole], dtype=torch.float64).softmax(-1)


def found_by(engine: Engine, praise: Task, text: str, **settings: object) -> torch.Tensor:
    (one,) = answer(engine, praise, texts((text, "")), PromptSettings.model_validate(settings)).predictions
    assert list(one.probabilities) == list(praise.output.labels)
    return torch.tensor(list(one.probabilities.values()), dtype=torch.float64)


@pytest.mark.parametrize("shots", [0, 3])
def test_label_probabilities_are_those_of_a_plain_pass(engine: Engine, shots: int) -> None:
    found = found_by(engine, task(), "the film was good", shots=shots)
    torch.testing.assert_close(found, by_hand(task(), "the film was good", tuple(range(shots))), atol=1e-5, rtol=0)


def test_labels_that_share_tokens_and_labels_that_begin_others_are_scored_each(engine: Engine) -> None:
    prompts = [[0, 20, 30, 40], [0, 50]]
    answers = [[20, 21], [20, 21, 22], [20, 23], [24]]
    found = log_probabilities(engine, prompts, answers)
    for row, prompt in zip(found, prompts, strict=True):
        wanted = [plain(prompt + ids, len(prompt)) for ids in answers]
        torch.testing.assert_close(row, torch.tensor(wanted, dtype=torch.float64), atol=1e-4, rtol=1e-4)


def test_a_label_too_unlikely_to_be_forced_is_scored_all_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from underlay.adapt.prompting import scoring

    wanted = log_probabilities(engine, [[0, 20]], [[21], [22]])
    monkeypatch.setattr(scoring, "MOST_BIAS", 0.0)
    torch.testing.assert_close(log_probabilities(engine, [[0, 20]], [[21], [22]]), wanted, atol=1e-4, rtol=1e-4)


def test_prompts_are_read_once_for_all_labels(engine: Engine) -> None:
    prompt = [0, *range(20, 220)]
    seen = []
    run = engine.runner.run
    try:
        engine.runner.run = lambda works: seen.append(sum(len(w.tokens) for w in works)) or run(works)  # type: ignore
        log_probabilities(engine, [prompt], [[place] for place in range(20, 60)])
    finally:
        engine.runner.run = run  # type: ignore[method-assign]
    # Forty labels behind 201 tokens: one prompt, and of each other label what no whole block holds.
    assert sum(seen) < 201 + 40 * 32 < 40 * 201


def test_the_mean_of_tokens_does_not_punish_length() -> None:
    scores = torch.tensor([-2.0, -3.0], dtype=torch.float64)
    assert probabilities(scores, [1, 3], "sum").argmax() == 0
    torch.testing.assert_close(probabilities(scores, [1, 3], "mean"), torch.tensor([-2.0, -1.0]).double().softmax(-1))


def test_orders_are_averaged(engine: Engine) -> None:
    found = found_by(engine, task(), "the film was good", orders=3, seed=4)
    places = [
        tuple(task().demonstrations.index(one) for one in order)
        for order in orders(task().demonstrations, 3, seed=4)  # type: ignore[arg-type]
    ]
    assert len(set(places)) == 3
    each = torch.stack([by_hand(task(), "the film was good", order) for order in places])
    assert (each[0] - each[1]).abs().max() > 1e-3
    torch.testing.assert_close(found, each.mean(0), atol=1e-5, rtol=0)


def test_a_content_free_input_is_undecided_once_calibrated(engine: Engine) -> None:
    before = found_by(engine, task(), "N/A")
    assert before.max() - before.min() > 0.05
    after = found_by(engine, task(), "N/A", calibrate=("N/A",))
    torch.testing.assert_close(after, torch.full((3,), 1 / 3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_calibration_divides_by_the_mean_of_what_says_nothing(engine: Engine) -> None:
    found = torch.tensor([0.6, 0.4])
    free = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    # Means 0.7 and 0.3: 0.6 / 0.7 against 0.4 / 0.3.
    torch.testing.assert_close(calibrated(found, free), torch.tensor([0.3913043, 0.6086957]))
    wanted = calibrated(by_hand(task(), "fine"), torch.stack([by_hand(task(), "N/A"), by_hand(task(), "")]))
    given = found_by(engine, task(), "fine", calibrate=("N/A", ""))
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=0)


def test_an_answer_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    together = answer(engine, task(), REVIEWS).predictions
    alone = [answer(engine, task(), [one]).predictions[0] for one in REVIEWS]
    assert together == alone
    for one in together:
        assert one.answer == max(one.probabilities, key=one.probabilities.__getitem__)
        assert one.confidence == max(one.probabilities.values())


def test_what_is_right_is_not_looked_at(engine: Engine) -> None:
    others = texts(("the film was good", "bad"), ("this was very bad", "good"), ("fine", ""))
    assert answer(engine, task(), others) == answer(engine, task(), REVIEWS)


def test_plain_text_is_for_models_that_write_on(engine: Engine) -> None:
    found = found_by(engine, task(), "fine", style="text", shots=1)
    tokenizer = engine.tokenizer
    prompt = tokenizer.prompt(
        'Is this praise?\n\nInput: """the film was very fine"""\nOutput: good\n\nInput: """fine"""\nOutput:'
    )
    ends = tokenizer.encode("\n\n")
    wanted = [plain(prompt + tokenizer.encode(f" {label}") + ends, len(prompt)) for label in task().output.labels]
    torch.testing.assert_close(found, torch.tensor(wanted).double().softmax(-1), atol=1e-5, rtol=0)
