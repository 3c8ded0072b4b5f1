"""Formats: what the columns of a record say about what it is, and how an example is made of it.

A record is what the first format says that has all its columns in it; formats with more columns stand before those
with fewer. Nothing is guessed from the values: where one reading would be as good as another, a person has to say
`form`. One exception is a label: where any of a column has a fraction, all are numbers (see `read.py`).
"""

import math
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from underlay.adapt.examples.chat import answer_of, in_order, is_transcript, messages_of, prompt_of, text_of, transcript
from underlay.adapt.examples.config import FormName
from underlay.adapt.examples.forms import (
    Conversation,
    Form,
    Judgement,
    Label,
    Preference,
    Problem,
    Question,
    Similar,
    Tags,
)
from underlay.adapt.examples.label_studio import label_studio
from underlay.adapt.examples.records import Fields
from underlay.adapt.examples.unusable import Unusable
from underlay.text import Message

_FRACTION = re.compile(r"[-+]?\d*[.]\d+(?:[eE][-+]?\d+)?")
_FINAL = "####"
_CARRYING = {"context", "input", "system", "history"}
"""Columns that change what is asked: a format that does not read them is not meant."""


@dataclass(frozen=True)
class Format:
    """A way in which people write examples of one form."""

    form: FormName
    needs: tuple[tuple[str, ...], ...]
    """Columns that have to be there; of several in one place any one."""
    make: Callable[[Fields], Form]
    """Makes an example of a record. Raises Unusable."""
    also: tuple[str, ...] = ()
    """Columns that are read where they are there."""

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether a record with these columns can be this."""
        there = set(columns)
        return all(there.intersection(names) for names in self.needs) and not (there & _CARRYING) - self.reads(there)

    def reads(self, columns: Collection[str]) -> set[str]:
        """Those of the columns that it looks at: of several for one thing only the first."""
        needed = {name for names in self.needs for name in [one for one in names if one in columns][:1]}
        return needed | {name for name in self.also if name in columns}

    def __str__(self) -> str:
        return f"{self.form} from " + ", ".join("/".join(names) for names in self.needs)


def one_of(fields: Fields, names: Iterable[str]) -> Any:
    """What stands in the first of these columns that is there."""
    return next((fields[name] for name in names if name in fields), None)


def _blank(value: Any) -> bool:
    """Whether a column that may be empty is."""
    return value is None or (isinstance(value, str) and not value.strip())


def _asked(fields: Fields) -> tuple[Message, ...]:
    """Alpaca's columns up to the answer (crfm.stanford.edu/2023/03/13/alpaca.html), as one user's turn."""
    asked = text_of(fields["instruction"], "the instruction")
    more = fields.get("input")
    words = f"{asked}\n\n{text_of(more, 'the input')}" if not _blank(more) else asked
    earlier: list[Message] = []
    history = fields.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise Unusable("a history that is no list of question and answer")
    for turn in history:
        earlier += [Message("user", text_of(turn[0], "a turn of the history"))]
        earlier += [Message("assistant", text_of(turn[1], "a turn of the history"))]
    return (*_system(fields), *earlier, Message("user", words))


def _system(fields: Fields) -> tuple[Message, ...]:
    said = fields.get("system")
    return () if _blank(said) else (Message("system", text_of(said, "the system message")),)


def _alpaca(fields: Fields) -> Form:
    return Conversation((*_asked(fields), Message("assistant", text_of(fields["output"], "the output"))))


def _alpaca_preference(fields: Fields) -> Form:
    return _preferred(_asked(fields), fields)


def _chat(fields: Fields) -> Form:
    if fields.get("tools") or fields.get("functions"):
        raise Unusable("calls of tools, which are not supported")
    turns = (*_system(fields), *messages_of(one_of(fields, ("messages", "conversations"))))
    return Conversation(in_order(turns, "assistant"))


def _prompted(fields: Fields, names: Iterable[str] = ("prompt",)) -> tuple[Message, ...]:
    return in_order((*_system(fields), *prompt_of(one_of(fields, names))), "user")


def _completion(fields: Fields) -> Form:
    prompt = _prompted(fields)
    answer = answer_of(one_of(fields, ("completion", "response")), prompt, "the completion")
    return Conversation((*prompt, Message("assistant", answer)))


def _preference(fields: Fields) -> Form:
    return _preferred(_prompted(fields), fields)


def _preferred(prompt: tuple[Message, ...], fields: Fields) -> Form:
    chosen, rejected = (answer_of(fields[key], prompt, f"the {key} answer") for key in ("chosen", "rejected"))
    return _different(Preference(prompt, chosen, rejected))


def _different(found: Preference) -> Form:
    if found.chosen.strip() == found.rejected.strip():
        raise Unusable("the chosen answer and the rejected are the same")
    return found


def _two_conversations(fields: Fields) -> Form:
    """The prompt is what both have in common, up to the last answer."""
    both = []
    for key in ("chosen", "rejected"):
        value = fields[key]
        if isinstance(value, str) and not is_transcript(value):
            raise Unusable("answers without a prompt")
        both.append(in_order(transcript(value) if isinstance(value, str) else messages_of(value), "assistant"))
    chosen, rejected = both
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("the chosen and the rejected conversation part before the last answer")
    return _different(Preference(chosen[:-1], chosen[-1].content, rejected[-1].content))


def _judgement(fields: Fields) -> Form:
    prompt = _prompted(fields)
    answer = answer_of(one_of(fields, ("completion", "response")), prompt, "the completion")
    said = fields["label"]
    good = {"true": True, "false": False}.get(said.strip().lower()) if isinstance(said, str) else said
    if not isinstance(good, bool):
        raise Unusable("a label that is neither true nor false", repr(said))
    return Judgement(prompt, answer, good)


_ASKS = ("question", "problem", "prompt")


def _problem(fields: Fields) -> Form:
    prompt = _prompted(fields, _ASKS)
    worked = text_of(str(fields["answer"]) if _is_number(fields["answer"]) else fields["answer"], "the answer")
    return Problem(prompt, text_of(worked.rpartition(_FINAL)[2].strip(), "the answer"))


def _marked_problem(fields: Fields) -> Form:
    if isinstance(fields["answer"], str) and fields["answer"].strip() and _FINAL not in fields["answer"]:
        raise Unusable(
            "an answer without ####, so say `form: problem` where it is to be checked whole, `form: conversation` "
            "where it is to be learned"
        )
    return _problem(fields)


def _worked(fields: Fields) -> Form:
    prompt = _prompted(fields, _ASKS)
    return Conversation((*prompt, Message("assistant", text_of(fields["answer"], "the answer"))))


def _prompt(fields: Fields) -> Form:
    return Problem(_prompted(fields))


_TEXT = ("text", "sentence")
_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"))
_LABELS = ("label", "category", "labels", "class")
_VALUES = ("score", "value")


def _label(fields: Fields) -> Form:
    first, second = next((pair for pair in _PAIRS if pair[0] in fields and pair[1] in fields), (None, None))
    text = text_of(fields[first] if first else one_of(fields, _TEXT), "the text")
    other = text_of(fields[second], "the second text") if second else None
    if any(name in fields for name in _LABELS):
        labels, value = _labels(one_of(fields, _LABELS))
        return Label(text, labels, value, other)
    return Label(text, (), _value(one_of(fields, _VALUES)), other)


def _labels(said: Any) -> tuple[tuple[str, ...], float | None]:
    if isinstance(said, list):
        return tuple(dict.fromkeys(map(_name, said))), None
    if isinstance(said, float) or (isinstance(said, str) and _FRACTION.fullmatch(said.strip())):
        value = _value(said)
        if not value.is_integer():
            return (), value
    return (_name(said),), None


def _name(said: Any) -> str:
    """A label as a text: true, 3, and 3.0 as a table with gaps has it, are `true`, `3` and `3`."""
    if isinstance(said, float) and said.is_integer():
        said = f"{said:.0f}"
    elif isinstance(said, int):
        said = str(said).lower()
    return text_of(said, "the label").strip()


def _value(said: Any) -> float:
    try:
        value = float(said) if isinstance(said, str) or _is_number(said) else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise Unusable("a value that is no number", repr(said))
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tags(fields: Fields) -> Form:
    words, tags = one_of(fields, ("tokens", "words")), one_of(fields, ("tags", "ner_tags"))
    if not isinstance(words, list) or not isinstance(tags, list):
        raise Unusable("words or tags that are no list")
    if len(words) != len(tags):
        raise Unusable("not as many tags as words", f"{len(words)} words, {len(tags)} tags")
    if not words:
        raise Unusable("a sentence without words")
    if any(_is_number(tag) for tag in tags):
        raise Unusable("tags that are numbers, whose names the file does not tell")
    return Tags(tuple(text_of(word, "a word") for word in words), tuple(text_of(tag, "a tag") for tag in tags))


def _question(fields: Fields) -> Form:
    question, context = text_of(fields["question"], "the question"), text_of(fields["context"], "the context")
    found = tuple(dict.fromkeys(_answers(fields["answers"])))
    if fields.get("is_impossible") is True and found:
        raise Unusable("a question that is_impossible, with answers")
    for answer, start in found:
        if context[start : start + len(answer)] != answer:
            raise Unusable("an answer that does not stand at its offset", answer)
    return Question(question, context, found)


def _answers(said: Any) -> Iterable[tuple[str, int]]:
    """SQuAD's list of objects, or the columns that Hugging Face made of it."""
    if isinstance(said, dict) and isinstance(said.get("text"), list) and isinstance(said.get("answer_start"), list):
        if len(said["text"]) != len(said["answer_start"]):
            raise Unusable("answers without an offset")
        said = [{"text": a, "answer_start": b} for a, b in zip(said["text"], said["answer_start"], strict=True)]
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise Unusable("answers that are no list of text and answer_start")
    for one in said:
        start = one.get("answer_start")
        if not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise Unusable("answers without an offset")
        yield text_of(one.get("text"), "an answer"), start


def _similar(fields: Fields) -> Form:
    said = one_of(fields, ("negative", "negatives"))
    negatives = said if isinstance(said, list) else [] if _blank(said) else [said]
    return Similar(
        text_of(one_of(fields, ("anchor", "query")), "the anchor"),
        text_of(fields["positive"], "the positive"),
        tuple(text_of(one, "a negative") for one in negatives),
    )


_SYSTEM = ("system",)
_ANSWER = (("completion", "response"),)
_CHOICE = (("chosen",), ("rejected",))
_WHAT = (("label", "category", "labels", "class", "score", "value"),)

FORMATS: tuple[Format, ...] = (
    Format("preference", (("instruction",), *_CHOICE), _alpaca_preference, ("input", "system", "history")),
    Format("preference", (("prompt",), *_CHOICE), _preference, _SYSTEM),
    Format("preference", _CHOICE, _two_conversations),
    Format("judgement", (("prompt",), *_ANSWER, ("label",)), _judgement, _SYSTEM),
    Format("conversation", (("messages", "conversations"),), _chat, ("system", "tools", "functions")),
    Format("conversation", (("instruction",), ("output",)), _alpaca, ("input", "system", "history")),
    Format("conversation", (("prompt",), *_ANSWER), _completion, _SYSTEM),
    Format("question", (("question",), ("context",), ("answers",)), _question, ("is_impossible",)),
    Format("problem", (_ASKS, ("answer",)), _marked_problem, _SYSTEM),
    Format("tags", (("tokens", "words"), ("tags", "ner_tags")), _tags),
    Format("similar", (("anchor", "query"), ("positive",)), _similar, ("negative", "negatives")),
    Format("label", (("data",), ("annotations",)), label_studio),
    *(Format("label", ((a,), (b,), *_WHAT), _label) for a, b in _PAIRS),
    Format("label", (_TEXT, *_WHAT), _label),
    Format("problem", (("prompt",),), _prompt, _SYSTEM),
)
"""All that are known; the first that fits is meant."""

_SAID: tuple[Format, ...] = (
    Format("problem", (_ASKS, ("answer",)), _problem, _SYSTEM),
    Format("conversation", (_ASKS, ("answer",)), _worked, _SYSTEM),
)
"""What is meant only where a person says so."""


def format_of(columns: Iterable[str], form: FormName | None, worked: bool) -> Format | None:
    """The format of a record with these columns; None where none fits."""
    wanted = "conversation" if worked else form
    known = (*_SAID, *FORMATS) if wanted else FORMATS
    return next((one for one in known if wanted in (None, one.form) and one.fits(columns)), None)


def known(form: FormName | None = None) -> str:
    """What formats there are, for people."""
    return "; ".join(str(one) for one in FORMATS if form in (None, one.form))
