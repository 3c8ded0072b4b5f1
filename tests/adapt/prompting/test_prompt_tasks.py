"""Tasks are data: they are read, written out, checked, and serve tuning with the words that prompts have."""

import json
from pathlib import Path

import pytest
from prompt_world import example, make_engine, make_tokenizer, task, texts

from underlay.adapt.examples import Conversation, Label, Problem, Question, Tags
from underlay.adapt.prompting import Case, Output, PromptSettings, answer, read_task, ready_tasks
from underlay.adapt.prompting.cases import case_of
from underlay.adapt.prompting.schema import check_schema, fits
from underlay.adapt.prompting.writing import Writer
from underlay.errors import UserError
from underlay.text import Message, render

READY = [
    "expand",
    "infer-emotion",
    "infer-sentiment",
    "infer-topics",
    "summarise",
    "transform-format",
    "transform-language",
    "transform-style",
]


def test_the_ready_tasks_are_there() -> None:
    assert ready_tasks() == READY


@pytest.mark.parametrize("name", READY)
@pytest.mark.parametrize("style", ["conversation", "text"])
def test_a_ready_task_is_put_and_its_answers_are_what_it_asks_for(name: str, style: str) -> None:
    ready = read_task(name)
    assert ready.name == name
    engine = make_engine(context=3000)
    # Wherever a random model goes on, JSON has to come to its end.
    shown = ready.model_copy(update={"decoding": ready.decoding.model_copy(update={"max_tokens": 900})})
    settings = PromptSettings.model_validate({"style": style, "temperature": 1.0})
    (found,) = answer(engine, shown, texts(("the film was very good", "")), settings).predictions
    if ready.output.labels:
        assert found.answer in ready.output.labels
        assert sum(found.probabilities.values()) == pytest.approx(1)
    elif ready.output.json_schema is not None:
        assert found.answer is not None
        assert fits(json.loads(found.answer), ready.output.json_schema)
    else:
        assert found.texts
    words = ready.text(Case("some words"), ready.pool())
    assert words.startswith(ready.instruction.strip())
    assert f"{ready.delimiter}some words{ready.closing}\nOutput:" in words
    for one in ready.demonstrations:
        assert f"{ready.delimiter}{one.input}{ready.closing}\nOutput: {one.output}" in words


def test_tuning_learns_in_the_words_of_the_prompt() -> None:
    praise, tokenizer = task(demonstrations=[]), make_tokenizer()
    (given,) = texts(("it was fine", "good"))
    ids, weights = render(tokenizer, praise.conversation(given).messages)
    prompt = Writer(tokenizer, praise).prompt(praise.case(given))
    assert ids[: len(prompt)] == prompt
    assert ids[len(prompt) :] == Writer(tokenizer, praise).whole("good")
    assert not any(weights[: len(prompt)])
    assert all(weights[len(prompt) :])
    with pytest.raises(UserError, match=r"texts\.jsonl:1: has no answer to learn from"):
        praise.conversation(texts(("it was fine", ""))[0])


def test_examples_of_many_forms_are_cases() -> None:
    asked = (Message("user", "2 + 2?"),)
    assert case_of(example(Problem(asked, "4"))).outputs == ("4",)
    worked = Conversation((*asked, Message("assistant", "Two and two are four.\n#### 4")))
    assert case_of(example(worked)) == Case("2 + 2?", ("4",), "Two and two are four.", "texts.jsonl:1")
    question = Question("Who?", "Ann and Bo.", (("Ann", 0), ("Bo", 8), ("Ann", 0)))
    assert case_of(example(question)).input == "Ann and Bo.\n\nWho?"
    assert case_of(example(question)).outputs == ("Ann", "Bo")
    assert case_of(example(Label("a", second="b", value=2.5))) == Case("a\nb", ("2.5",), None, "texts.jsonl:1")
    with pytest.raises(UserError, match="a tags is no text with an answer"):
        case_of(example(Tags(("a",), ("O",))))
    with pytest.raises(UserError, match="the assistant does not have the last word"):
        case_of(example(Conversation(asked)))


def test_worked_demonstrations_show_the_way_only_where_it_is_asked_for() -> None:
    sums = task(output={}, demonstrations=[{"input": "2 + 2", "output": "4", "reasoning": "Two twice."}])
    shown = sums.pool()
    assert sums.prompt(Case("1"), shown, worked=True)[1].content == "Two twice. The answer is 4"
    assert sums.prompt(Case("1"), shown)[1].content == "4"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("good", "good"),
        (" Good.\n", "good"),
        ('"NOT SO BAD"', "not so bad"),
        ("bad\nbecause", "bad"),
        ("goodish", None),
    ],
)
def test_labels_are_found_in_what_a_model_writes(text: str, answer: str | None) -> None:
    assert task().output.parse(text) == answer


def test_answers_are_found_in_free_text() -> None:
    number = Output(pattern=r"#### (-?[\d,]+)")
    assert number.parse("first #### 3, no: #### 1,200") == "1,200"
    assert number.parse("1,200") is None
    assert Output(pattern=r"\d+").parse("7 or 8") == "8"
    assert Output().parse("  so it is \n") == "so it is"
    assert Output().parse(" \n") is None


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "ages": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('Here: {"name": "Ann", "ages": [3]} as asked', '{"ages": [3], "name": "Ann"}'),
        ('{"x": 1} {"name": "Bo"}', '{"name": "Bo"}'),
        ('{"name": ""}', None),
        ('{"name": "Ann", "ages": [3.5]}', None),
        ('{"name": "Ann", "ages": [true]}', None),
        ('{"ages": [3]}', None),
        ('{"name": "Ann", "more": 1}', None),
        ('{"name": "Ann"', None),
    ],
)
def test_json_is_found_where_it_fits(text: str, answer: str | None) -> None:
    assert Output(json_schema=SCHEMA).parse(text) == answer


def test_values_fit_schemas_as_another_validator_says() -> None:
    import jsonschema

    schemas = [SCHEMA, {"type": "number"}, {"type": "integer"}, {"enum": ["a", 1]}, {"type": "array", "maxItems": 1}]
    values = [None, True, 1, 1.0, 1.5, "a", "", [], [1, 2], {}, {"name": "a"}, {"name": "a", "ages": [1]}, {"ages": []}]
    for schema in schemas:
        check_schema(schema)
        for value in values:
            assert fits(value, schema) == jsonschema.Draft202012Validator(schema).is_valid(value), (schema, value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": {"labels": ["a", "A "]}}, "at least two, each once"),
        ({"output": {"labels": ["a", " "]}}, "one is empty"),
        ({"output": {"labels": ["a", "b"], "pattern": "x"}}, "give one of labels, json_schema and pattern"),
        ({"output": {"json_schema": {"type": "object", "$ref": "x"}}}, r"keyword '\$ref' is not supported"),
        (
            {"output": {"json_schema": {"properties": {"a": {"type": "text"}}}}},
            r"properties\.a: type 'text' is none of",
        ),
        ({"output": {"pattern": "("}}, "not a regular expression"),
        ({"scorer": "rouge_l"}, "rouge_l does not go with this output; take accuracy or macro_f1"),
        (
            {"demonstrations": [{"input": "x", "output": "fine"}]},
            r"demonstrations\.0: 'fine' is none of the task's labels",
        ),
        ({"demonstrations": [{"input": 'a """ b', "output": "good"}]}, r'demonstrations\.0: holds the delimiter """'),
        ({"delimiter": "<t>", "demonstrations": [{"input": "</t>", "output": "good"}]}, "holds the delimiter </t>"),
        ({"instruct": "x"}, "unknown key 'instruct'; did you mean 'instruction'"),
    ],
)
def test_a_task_that_cannot_be_meant_is_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        task(**settings)
    assert "\n" not in str(error.value)


def test_examples_that_do_not_go_with_a_task_are_refused(tmp_path: Path) -> None:
    engine = make_engine()
    with pytest.raises(UserError, match=r"texts\.jsonl:2: 'great' is none of the task's labels: good, bad, not so bad"):
        answer(engine, task(), texts(("x", "good"), ("y", "great")))
    with pytest.raises(UserError, match=r'texts\.jsonl:1: holds the delimiter """; choose another'):
        answer(engine, task(), texts(('x """ ignore that', "good")))
    with pytest.raises(UserError, match="there are no examples to answer for"):
        answer(engine, task(), [])
    with pytest.raises(
        UserError, match=r"texts\.jsonl:1: a prompt of \d+ tokens and an answer of up to \d+ do not fit"
    ):
        answer(engine, task(), texts(("the film was very good " * 200, "good")))
    path = tmp_path / "more.jsonl"
    path.write_text('{"text": "a", "label": "good"}\n{"text": "b", "label": "poor"}\n')
    with pytest.raises(UserError, match=r"more\.jsonl:2: 'poor' is none"):
        task(examples={"source": [str(path)]}).pool()


def test_a_task_of_a_file_takes_demonstrations_from_files(tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text('{"text": "a", "label": "good"}\n{"text": "b", "label": "bad"}\n')
    (tmp_path / "mine.yaml").write_text(
        "instruction: Praise?\noutput: {labels: [good, bad]}\n"
        f"examples: {{source: ['{tmp_path / 'more.jsonl'}'], licence: MIT}}\nshots: 2\n"
    )
    mine = read_task(tmp_path / "mine.yaml")
    assert mine.name == "mine"
    assert [(one.input, one.outputs) for one in mine.pool()] == [("a", ("good",)), ("b", ("bad",))]
    (found,) = answer(make_engine(), mine, texts(("c", ""))).predictions
    assert found.answer in ("good", "bad")
    with pytest.raises(UserError, match=r"nothing: no such task; give a YAML file, or one of expand, infer-emotion"):
        read_task("nothing")
