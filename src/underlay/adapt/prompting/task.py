"""A task as data: what to do, how inputs are marked, what answers look like, and how they are scored.

The same object prompts a model (`answer`), scores it (`measure`), labels texts and makes conversations to tune by, so a
task that was tried as a prompt is learned, and measured, in the very words it was tried in.

    instruction: Is this review positive or negative?
    output: {labels: [positive, negative]}
    demonstrations: [{input: I loved it., output: positive}]

Inputs stand between delimiters, so that a model can tell what is to be worked on from what it is told to do. An input
that holds the delimiter could end itself and go on as an instruction; it is refused.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from underlay.adapt.examples import Conversation, Example, ExamplesConfig, read_examples
from underlay.adapt.examples import fingerprint as fingerprint_files
from underlay.adapt.prompting.cases import Case, case_of
from underlay.adapt.prompting.schema import check_schema, fits
from underlay.config import Config
from underlay.config.base import parse, read_yaml
from underlay.errors import UserError
from underlay.generate import Constraint
from underlay.text import Message

Scorer = Literal["accuracy", "macro_f1", "exact", "number", "squad", "rouge_l", "json"]
READY = Path(__file__).parent / "tasks"
_MARKUP = re.compile(r"<(\w+)>")


class Demonstration(Config):
    """One example of how the task is done."""

    input: str
    output: str
    reasoning: str | None = None
    """The way from one to the other, for chains of thought."""


class Output(Config):
    """What an answer looks like: one of some labels, JSON of a schema, or text."""

    labels: tuple[str, ...] = ()
    """The answer is one of these."""
    json_schema: dict[str, Any] | None = None
    """The answer is JSON that fits this schema."""
    pattern: str | None = None
    """Text, of which the last match of this regular expression is the answer: its first group, if it has one."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum((bool(self.labels), self.json_schema is not None, self.pattern is not None)) > 1:
            raise ValueError("give one of labels, json_schema and pattern, or none")
        if self.labels and (len({_folded(label) for label in self.labels}) != len(self.labels) or len(self.labels) < 2):
            raise ValueError("labels: at least two, each once, whatever their case")
        if not all(_folded(label) for label in self.labels):
            raise ValueError("labels: one is empty")
        if self.json_schema is not None:
            check_schema(self.json_schema)
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern: not a regular expression: {error}") from error
        return self

    def constraint(self) -> Constraint | None:
        """What the engine is to keep to; None: text is free."""
        if self.labels:
            return Constraint(choices=self.labels)
        return None if self.json_schema is None else Constraint(json_schema=json.dumps(self.json_schema))

    def parse(self, text: str) -> str | None:
        """The answer that a text holds: a label as it is spelt here, JSON with sorted keys, or text; None: none."""
        if self.labels:
            found = {_folded(label): label for label in self.labels}
            return found.get(_folded(text)) or found.get(_folded(text.strip().partition("\n")[0]))
        if self.json_schema is not None:
            return _json_in(text, self.json_schema)
        if self.pattern is None:
            return text.strip() or None
        matches = list(re.finditer(self.pattern, text))
        if not matches:
            return None
        return (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) or None


class Decoding(Config):
    """How answers are written."""

    temperature: float = Field(default=0.0, ge=0)
    """0 always takes the likeliest token."""
    max_tokens: int = Field(default=128, gt=0)
    """Longest answer, in tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end it."""


class Task(Config):
    """What to do with a text."""

    name: str = Field(default="task", min_length=1)
    """What figures and messages call it."""
    instruction: str = Field(min_length=1)
    """What the model is told to do."""
    delimiter: str = Field(default='"""', min_length=1)
    """What stands before and after each input; `<text>` is closed by `</text>`."""
    output: Output = Output()
    """What an answer looks like."""
    demonstrations: tuple[Demonstration, ...] = ()
    """Examples of how it is done, to be shown."""
    examples: ExamplesConfig | None = None
    """Where more are, to choose from, and to learn from."""
    test: ExamplesConfig | None = None
    """Examples that are only measured on."""
    shots: int | None = Field(default=None, ge=0)
    """How many demonstrations are shown; by default all that stand here, of files none."""
    decoding: Decoding = Decoding()
    """How answers are written."""
    lead: str = Field(default="The answer is", min_length=1)
    """What comes between a chain of thought and the answer."""
    scorer: Scorer | None = None
    """How answers are scored: `accuracy` or `macro_f1` of labels, `json` (share that fits, and share of fields that are
    right), and of text `exact`, `number`, `squad` (F1 of words) or `rouge_l`; by default the first that goes with the
    output."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        kinds: tuple[Scorer, ...] = ("exact", "number", "squad", "rouge_l")
        if self.output.labels:
            kinds = ("accuracy", "macro_f1")
        elif self.output.json_schema is not None:
            kinds = ("json",)
        if self.scorer is not None and self.scorer not in kinds:
            raise ValueError(f"scorer: {self.scorer} does not go with this output; take {' or '.join(kinds)}")
        for number, shown in enumerate(self.demonstrations):
            try:
                self._checked(_inline(shown, number), (shown.output, shown.reasoning or ""))
            except UserError as error:
                raise ValueError(str(error)) from error
        return self

    @property
    def scored_by(self) -> Scorer:
        """The scorer, also where none is named."""
        return self.scorer or ("accuracy" if self.output.labels else "json" if self.output.json_schema else "exact")

    @property
    def closing(self) -> str:
        """The delimiter behind an input."""
        return _MARKUP.sub(r"</\1>", self.delimiter) if _MARKUP.fullmatch(self.delimiter) else self.delimiter

    def case(self, example: Example) -> Case:
        """What is shown of an example. Raises UserError where it does not go with the task."""
        return self._checked(case_of(example))

    def pool(self) -> list[Case]:
        """All demonstrations there are to choose from: those of the task, then those of its files.

        Raises UserError where the files cannot be used, or one of them does not go with the task.
        """
        shown = [_inline(one, number) for number, one in enumerate(self.demonstrations)]
        if self.examples is None:
            return shown
        read = [self.case(example) for example in read_examples(self.examples).examples]
        return shown + [case for case in read if case.outputs]

    def conversation(self, example: Example, worked: bool = False) -> Conversation:
        """The task, done right, to learn from; worked: with the way to the answer, where that is known.

        Raises UserError where the example has no answer.
        """
        case = self.case(example)
        if not case.outputs:
            raise UserError(f"{case.where}: has no answer to learn from")
        return Conversation((*self.prompt(case), Message("assistant", self._answer(case, worked))))

    def prompt(self, case: Case, demonstrations: Sequence[Case] = (), worked: bool = False) -> tuple[Message, ...]:
        """The turns to which the model is to reply: demonstrations as if it had done them, then the case.

        The instruction is part of the first turn, for not every model knows a system's. worked: with the way to
        each answer.
        """
        messages: list[Message] = []
        for one in demonstrations:
            messages += [Message("user", self._delimited(one)), Message("assistant", self._answer(one, worked))]
        messages.append(Message("user", self._delimited(case)))
        first = Message("user", f"{self.instruction.strip()}\n\n{messages[0].content}")
        return (first, *messages[1:])

    def text(self, case: Case, demonstrations: Sequence[Case] = (), worked: bool = False) -> str:
        """The same for a model that does not converse: pairs of inputs and outputs, to be gone on with."""
        shown = (f"Input: {self._delimited(one)}\nOutput: {self._answer(one, worked)}" for one in demonstrations)
        return "\n\n".join([self.instruction.strip(), *shown, f"Input: {self._delimited(case)}\nOutput:"])

    def _answer(self, case: Case, worked: bool) -> str:
        assert case.outputs, "a demonstration has an answer"
        return f"{case.reasoning} {self.lead} {case.outputs[0]}" if worked and case.reasoning else case.outputs[0]

    def _delimited(self, case: Case) -> str:
        return f"{self.delimiter}{self._checked(case).input}{self.closing}"

    def _checked(self, case: Case, more: Sequence[str] = ()) -> Case:
        for mark in {self.delimiter, self.closing}:
            if any(mark in text for text in (case.input, *more)):
                raise UserError(f"{case.where}: holds the delimiter {mark}; choose another as `delimiter`")
        for output in case.outputs:
            if self.output.labels and output not in self.output.labels:
                known = ", ".join(self.output.labels[:12])
                raise UserError(f"{case.where}: {output!r} is none of the task's labels: {known}; add it, or mend it")
            if self.output.json_schema is not None and self.output.parse(output) is None:
                raise UserError(f"{case.where}: its answer does not fit the task's json_schema; mend one of them")
        return case


def read_task(name: str | Path) -> Task:
    """A task from its YAML file, or a ready one by its name. Raises UserError where it is not there, or not valid."""
    return parse(Task, task_values(name), str(name))


def task_values(name: str | Path) -> dict[str, Any]:
    """What stands in the file of a task, or of a ready one by its name. Raises UserError where there is none."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in ready_tasks():
            raise UserError(f"{name}: no such task; give a YAML file, or one of {', '.join(ready_tasks())}")
        path = READY / f"{name}.yaml"
    return {"name": path.stem} | read_yaml(path)


def fingerprint(name: str | Path) -> str:
    """SHA-256 of what a task says, and of the files that its demonstrations are in.

    Raises UserError where there is no such task, or a file is missing.
    """
    values = task_values(name)
    found = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    if values.get("examples"):
        found.update(fingerprint_files(parse(ExamplesConfig, values["examples"], f"{name}: examples")).encode())
    return found.hexdigest()


def ready_tasks() -> list[str]:
    """The names of the tasks that come with Underlay."""
    return sorted(path.stem for path in READY.glob("*.yaml"))


def _inline(shown: Demonstration, number: int) -> Case:
    return Case(shown.input, (shown.output,), shown.reasoning, f"demonstrations.{number}")


def _folded(text: str) -> str:
    return " ".join(text.casefold().strip(" \t\n\"'.,;:!").split())


def _json_in(text: str, schema: dict[str, Any]) -> str | None:
    """The first JSON value in a text that fits, however much stands around it."""
    decoder = json.JSONDecoder()
    opening = {"object": "{", "array": "["}.get(schema.get("type", ""), "")
    starts = [found.start() for found in re.finditer(re.escape(opening), text)] if opening else [0]
    for start in starts:
        try:
            value, _ = decoder.raw_decode(text[start:].lstrip())
        except (ValueError, RecursionError):
            continue
        if fits(value, schema):
            return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return None
