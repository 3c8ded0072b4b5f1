"""Chains of thought and votes: what is asked, what is kept, and who wins."""

from collections.abc import Sequence

import pytest
from prompt_world import make_engine, make_tokenizer, task, texts

from underlay.adapt.prompting import PromptSettings, answer
from underlay.adapt.prompting.comparing import number_in, same_form
from underlay.adapt.prompting.reasoning import SIMPLER, STEPS, simpler_questions
from underlay.adapt.prompting.task import Task
from underlay.adapt.prompting.voting import vote
from underlay.errors import UserError
from underlay.generate import Answer, ContextLengthError, Engine, Request
from underlay.progress import Progress, silent

SUM = texts(("2 + 2", "4"))


def sums(**settings: object) -> Task:
    shown = [{"input": "1 + 2", "output": "3", "reasoning": "One and two."}]
    return task(**{"output": {}, "scorer": "number", "demonstrations": shown, "instruction": "Add."} | settings)


class Scripted(Engine):
    """Says what it is told to, in turn, and keeps what it was asked."""

    def __init__(self, *lines: str, context: int = 512) -> None:
        engine = make_engine(context)
        self.__dict__.update(engine.__dict__)
        self.lines = list(lines)
        self.asked: list[str] = []
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request], progress: Progress = silent) -> list[Answer]:
        for request in requests:
            self.check(request)
        self.requests += requests
        self.asked += [self.tokenizer.decode(request.prompt) for request in requests]
        return [Answer([], self.lines.pop(0), "stop", len(request.prompt)) for request in requests]


def test_votes_are_counted_by_hand() -> None:
    numbers = same_form("number")
    assert vote(["4", "five", "4.0", None, "3"], numbers) == ("4", 0.5, 1)
    assert vote(["a", "b"], str) == ("a", 0.5, 0)
    assert vote(["a", "b", "b"], str) == ("b", 2 / 3, 0)
    assert vote([None, None], str) == (None, None, 2)


def test_numbers_are_the_last_and_equal_however_they_are_written() -> None:
    assert number_in("first 3, then $1,200.50.") == number_in("1200.5")
    assert number_in("-7 apples") == -7
    assert number_in("none") is None
    assert same_form("exact")("The cat!") == same_form("exact")("cat")


def test_worked_demonstrations_lead_to_an_answer_behind_the_lead() -> None:
    engine = Scripted("5", "Two twice. The answer is 4", "It may be 7", "It is four. The answer is 4.0 indeed")
    settings = PromptSettings(reasoning="worked", votes=1)
    found = answer(engine, sums(output={"pattern": r"[\d.]+"}), SUM, settings)
    assert found.predictions[0].answer == "4"
    assert found.direct is not None
    assert found.direct.predictions[0].answer == "5"
    # The control is shown answers alone, the other the way to them.
    assert "One and two." not in engine.asked[0]
    assert "One and two. The answer is 3" in engine.asked[1]
    engine = Scripted("5", "5", "5", *engine.lines, "The answer is 9")
    found = answer(engine, sums(output={"pattern": r"[\d.]+"}), SUM, settings.model_copy(update={"votes": 3}))
    (one,) = found.predictions
    assert (one.answer, one.confidence, one.dropped, len(one.texts)) == ("4.0", 0.5, 1, 3)
    assert len({request.sampling.seed for request in engine.requests[3:]}) == 3
    assert all(request.sampling.temperature == 0.7 for request in engine.requests)


def test_step_by_step_asks_twice_and_the_second_call_knows_the_way() -> None:
    engine = Scripted(" Two and two.", "good")
    praise = task(output={}, scorer="exact", demonstrations=[])
    engine.lines.insert(0, "bad")
    found = answer(engine, praise, texts(("fine", "good")), PromptSettings(reasoning="step_by_step"))
    direct, first, second = engine.asked
    assert first == direct + STEPS
    assert second == first + " Two and two." + "\nThe answer is "
    assert found.predictions[0].answer == "good"
    assert found.predictions[0].texts == (f"{STEPS} Two and two.\nThe answer is good",)
    assert found.direct is not None
    assert found.direct.predictions[0].answer == "bad"


def test_least_to_most_answers_simpler_questions_in_turn() -> None:
    engine = Scripted("0", " What is 1 + 1?\n2. And 2 + 2?\n", " 2", " 4", "4")
    found = answer(
        engine, sums(demonstrations=[]), SUM, PromptSettings(reasoning="least_to_most", reasoning_tokens=130)
    )
    direct, first, second, third, last = engine.asked
    assert first == direct + SIMPLER
    assert second == direct + "\nQuestion: What is 1 + 1?\nAnswer:"
    assert third == second + " 2\nQuestion: And 2 + 2?\nAnswer:"
    assert last == third + " 4\nThe answer is "
    assert found.predictions[0].answer == "4"
    assert ["\n" in request.stop for request in engine.requests] == [False, False, True, True, False]


def test_other_answers_vote_over_the_orders_of_demonstrations() -> None:
    engine = Scripted("4", "5", "5", "7")
    shown = [{"input": "1 + 2", "output": "3"}, {"input": "1 + 1", "output": "2"}]
    found = answer(engine, sums(demonstrations=shown), SUM, PromptSettings(orders=2, votes=2))
    first, second = engine.asked[:2]
    assert engine.asked == [first, second, first, second]
    assert first.index("1 + 2") < first.index("1 + 1")
    assert second.index("1 + 1") < second.index("1 + 2")
    (one,) = found.predictions
    assert (one.answer, one.confidence) == ("5", 0.5)


def test_what_is_kept_of_a_long_way_is_its_end() -> None:
    settings = PromptSettings(reasoning="step_by_step", reasoning_tokens=10)
    engine = Scripted("0", "very " * 30 + "good", "4")
    answer(engine, sums(demonstrations=[]), SUM, settings)
    _, first, second = engine.requests
    led = engine.tokenizer.encode("\nThe answer is ")
    way = engine.tokenizer.encode("very " * 30 + "good")
    assert list(second.prompt) == [*first.prompt, *way[-10:], *led]


@pytest.mark.parametrize(
    ("reasoning", "lines"),
    [
        ("worked", ["0", "very " * 150]),
        ("step_by_step", ["0", "very " * 150, "4"]),
        ("least_to_most", ["0", "\n".join(f"{one} " + "very " * 12 for one in "abcdef"), *["very " * 60] * 6, "4"]),
    ],
)
def test_the_room_that_is_kept_is_enough_and_no_token_too_many(reasoning: str, lines: list[str]) -> None:
    settings = PromptSettings.model_validate({"reasoning": reasoning, "reasoning_tokens": 150})
    task = sums(decoding={"max_tokens": 1})
    for context in range(60, 512):
        engine = Scripted(*lines, context=context)
        try:
            answer(engine, task, SUM, settings)
            break
        except ContextLengthError:
            raise
        except UserError as error:
            assert "do not fit" in str(error)  # noqa: PT017 - others are taken for defects
    assert max(len(request.prompt) + request.max_tokens for request in engine.requests) == engine.context


def test_simpler_questions_are_read_off_a_list() -> None:
    assert simpler_questions(" - a?\n2) b?\n\n* a?\n") == ["a?", "b?"]
    assert len(simpler_questions("\n".join("abcdefghij"))) == 6
    assert simpler_questions("") == []


@pytest.mark.parametrize("reasoning", ["worked", "step_by_step", "least_to_most"])
def test_a_model_is_reasoned_with_within_its_context_and_again_alike(reasoning: str) -> None:
    settings = PromptSettings.model_validate({"reasoning": reasoning, "votes": 3, "reasoning_tokens": 40, "seed": 3})
    engine, praise = make_engine(context=400), task(decoding={"max_tokens": 12})
    worked = [{"input": "very good", "output": "good", "reasoning": "It says good."}]
    praise = task(decoding={"max_tokens": 12}, demonstrations=worked)
    found = answer(engine, praise, texts(("fine", "good")), settings)
    assert found == answer(make_engine(context=400), praise, texts(("fine", "good")), settings)
    (one,) = found.predictions
    assert len(one.texts) == 3
    if reasoning != "worked":
        assert one.answer in praise.output.labels  # the second call keeps to the labels
        assert one.confidence is not None
        assert one.dropped == 0
    assert found.direct is not None
    assert sum(found.direct.predictions[0].probabilities.values()) == pytest.approx(1)


def test_votes_of_labels_keep_to_the_labels() -> None:
    settings = PromptSettings(votes=5, temperature=2.0)
    # However few tokens text may have: a label may be written byte by byte.
    (one,) = answer(make_engine(), task(decoding={"max_tokens": 1}), texts(("fine", "good")), settings).predictions
    assert set(one.texts) <= set(task().output.labels)
    assert one.confidence == one.texts.count(str(one.answer)) / 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"votes": 2, "temperature": 0}, "votes: at temperature 0"),
        ({"votes": 2, "calibrate": ["N/A"]}, "votes are not"),
        ({"reasoning": "worked", "calibrate": ["N/A"]}, "no probabilities to calibrate"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptSettings.model_validate(settings)


def test_what_a_task_cannot_do_is_refused() -> None:
    engine = make_engine()
    with pytest.raises(UserError, match="only labels are calibrated"):
        answer(engine, sums(), SUM, PromptSettings(calibrate=("N/A",)))
    with pytest.raises(UserError, match=r"demonstrations\.0: has no reasoning to show"):
        answer(engine, task(), texts(("x", "")), PromptSettings(reasoning="worked"))
    with pytest.raises(UserError, match="worked needs demonstrations that show the way"):
        answer(engine, sums(), SUM, PromptSettings(reasoning="worked", shots=0))


def test_make_tokenizer_reads_back_what_it_wrote() -> None:
    # The scripted engine's prompts are compared as text.
    assert make_tokenizer().decode(make_tokenizer().encode(STEPS + SIMPLER)) == STEPS + SIMPLER
