"""The doctor: what a model would learn of its examples, token by token, and whether that is what people mean.

Adaptation goes wrong silently. The loss falls also where the weights are all one, where the end of a turn is never
learned, or where the template leaves the system message out; what comes out is a model that repeats its users or does
not stop. Each check here finds one such mistake, and none depends on how the weights came about. Conversations are
written by `underlay.text.render`, as in training and serving.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from underlay.adapt.examples import Conversation, Example, Judgement, Preference
from underlay.errors import UserError
from underlay.progress import Progress, silent
from underlay.text import Message, Special, Tokenizer, render

_OFTEN = 50
_PLAIN = "a"
"""Words that no template takes for anything else."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as a model reads it."""

    tokenizer: Tokenizer
    messages: tuple[Message, ...]
    ids: list[int]
    weights: list[float]

    @classmethod
    def of(cls, tokenizer: Tokenizer, messages: Sequence[Message], last: bool = False) -> "Rendered":
        """Render a conversation; `last`: only its last answer is learned, as that of a preference.

        Raises UserError where the tokenizer's template refuses the conversation.
        """
        ids, weights = render(tokenizer, messages)
        if last:
            prompt = len(render(tokenizer, messages[:-1], reply=True)[0])
            weights = [0.0] * prompt + weights[prompt:]
        return cls(tokenizer, tuple(messages), ids, weights)

    @property
    def learned(self) -> list[int]:
        """The ids that are learned."""
        return [index for index, weight in zip(self.ids, self.weights, strict=True) if weight]

    @property
    def ends(self) -> list[int]:
        """The last id of each stretch that is learned, but for white space: the line may end behind a turn."""
        last: list[int] = []
        before = 0.0
        for index, weight in zip(self.ids, self.weights, strict=True):
            if weight and not before:
                last.append(index)
            elif weight and (index in self.tokenizer.special_ids or self.tokenizer.decode_bytes([index]).strip()):
                last[-1] = index
            before = weight
        return last

    def special(self) -> list[int]:
        """The special tokens, in their order."""
        return [index for index in self.ids if index in self.tokenizer.special_ids]


def nothing_learned(found: Rendered) -> str | None:
    """All weights are 0: the template does not tell what the assistant says."""
    if found.learned:
        return None
    return "no token is learned; the template's {% generation %} has to hold what the assistant says"


def all_learned(found: Rendered) -> str | None:
    """All weights are 1: what users say is learned, too."""
    if len(found.learned) < len(found.ids):
        return None
    return "every token is learned, the user's words, too; put {% generation %} around the assistant's words alone"


def double_beginning(found: Rendered) -> str | None:
    """BOS stands twice: a template writes it, and something else does, too."""
    if not found.tokenizer.has(Special.BOS):
        return None
    bos = found.tokenizer.special(Special.BOS)
    if not any(first == second == bos for first, second in pairwise(found.ids)):
        return None
    return f"{found.tokenizer.name(bos)} stands twice in a row; let the template write it once"


def padding_ends_turns(found: Rendered) -> str | None:
    """Padding and the end of a turn are one token: tools that leave padding out by its id never learn to stop."""
    if not found.tokenizer.has(Special.PAD) or found.tokenizer.special(Special.PAD) not in found.ends:
        return None
    name = found.tokenizer.name(found.tokenizer.special(Special.PAD))
    return f"{name} ends turns and is the padding, too; name another token as pad_token in tokenizer_config.json"


def end_not_learned(found: Rendered) -> str | None:
    """The model never learns to stop, or generation does not stop where it does."""
    for index in found.ends:
        if index not in found.tokenizer.special_ids:
            return "the end of the assistant's turn is not learned; let {% generation %} hold its mark, too"
        if index not in found.tokenizer.stop_ids:
            name = found.tokenizer.name(index)
            return f"the model learns to end by {name}, where generation does not stop; name it as eos_token"
    return None


def prompt_no_prefix(found: Rendered) -> str | None:
    """What the model is asked with in use is not what its answer followed in training."""
    for place, message in enumerate(found.messages):
        if message.role == "assistant":
            prompt, _ = render(found.tokenizer, found.messages[:place], reply=True)
            if found.ids[: len(prompt)] != prompt:
                return (
                    f"the prompt of turn {place + 1} reads otherwise once it is answered; let the template write turns "
                    "the same wherever they stand"
                )
    return None


def special_from_text(found: Rendered) -> str | None:
    """Words of a message change which special tokens there are: whoever writes them can forge turns."""
    plain = render(found.tokenizer, [Message(one.role, _PLAIN) for one in found.messages])[0]
    if found.special() == [index for index in plain if index in found.tokenizer.special_ids]:
        return None
    return "what a message says changes the special tokens; the template may not decide by words"


def turn_dropped(found: Rendered) -> str | None:
    """A message, the system's or an earlier one, does not reach the model."""
    for place, message in enumerate(found.messages):
        other = Message(message.role, f"{_PLAIN} {message.content} {_PLAIN}")
        changed = (*found.messages[:place], other, *found.messages[place + 1 :])
        if render(found.tokenizer, changed)[0] == found.ids:
            return f"the template leaves out what the {message.role} says in turn {place + 1}"
    return None


Check = Callable[[Rendered], str | None]
CHECKS: dict[str, Check] = {
    "nothing learned": nothing_learned,
    "all learned": all_learned,
    "double beginning": double_beginning,
    "padding ends turns": padding_ends_turns,
    "end not learned": end_not_learned,
    "prompt no prefix": prompt_no_prefix,
    "special from text": special_from_text,
}
"""Each tells what is wrong with a conversation, and how to mend it, in a line; None where all is well."""

CHECKS_OF_ROLES: dict[str, Check] = {"turn dropped": turn_dropped}
"""Those that depend on the order of roles rather than on words, and are made once for each such order."""


@dataclass
class Problem:
    """What is wrong, how often, and where first."""

    check: str
    says: str
    place: str
    """`file:line` of the first example with it."""
    count: int = 0

    def __str__(self) -> str:
        often = "once, at" if self.count == 1 else f"{self.count:,} times, first at"
        return f"{self.check}, {often} {self.place}: {self.says}"


@dataclass
class Diagnosis:
    """What a model would learn of examples."""

    context: int
    examples: int = 0
    conversations: int = 0
    """A preference is two."""
    tokens: int = 0
    learned: int = 0
    """Tokens with a weight."""
    longest: int = 0
    """Tokens of the longest conversation."""
    longer: int = 0
    """Conversations that do not fit into the context."""
    problems: dict[str, Problem] = field(default_factory=dict)
    """By check."""
    shown: list[Rendered] = field(default_factory=list)
    """The first few."""
    roles: set[tuple[str, ...]] = field(default_factory=set)
    """The orders of roles that were met."""

    def add(self, check: str, says: str, place: str) -> None:
        """Count a problem."""
        self.problems.setdefault(check, Problem(check, says, place)).count += 1

    def require_sound(self) -> None:
        """Raise UserError, in one line, where something is wrong."""
        for worst in self.problems.values():
            more = f" (and {len(self.problems) - 1} more kinds of mistake)" if len(self.problems) > 1 else ""
            raise UserError(f"{worst}{more}")


def conversations_of(body: object) -> Iterator[tuple[tuple[Message, ...], bool]]:
    """The conversations that an example is learned as, and whether only the last answer is learned.

    Raises UserError for a form that is learned otherwise.
    """
    match body:
        case Conversation(messages):
            yield messages, False
        case Preference(prompt, chosen, rejected):
            yield (*prompt, Message("assistant", chosen)), True
            yield (*prompt, Message("assistant", rejected)), True
        case Judgement(prompt, answer):
            yield (*prompt, Message("assistant", answer)), True
        case _:
            raise UserError(
                f"the doctor looks at conversations, preferences and judgements; these are of the form "
                f"{type(body).__name__.lower()}, of which no answer is learned token by token"
            )


def examine(
    tokenizer: Tokenizer, examples: Sequence[Example], context: int, show: int = 0, progress: Progress = silent
) -> Diagnosis:
    """Render examples with a tokenizer, and check each conversation; the first `show` are kept to be shown.

    Raises UserError where the tokenizer cannot write conversations, or examples are of a form without answers.
    """
    if not tokenizer.converses:
        raise UserError(
            "the model's tokenizer does not know how conversations are written; give it a template: alpaca, chatml, "
            "llama3, or a file in Jinja"
        )
    found = Diagnosis(context)
    for example in examples:
        found.examples += 1
        if found.examples % _OFTEN == 0:
            progress(found.examples, len(examples))
        for messages, last in conversations_of(example.body):
            _look(found, tokenizer, messages, last, f"{example.source}:{example.line}", show)
    if found.longer == found.conversations:
        where = "all of them" if found.conversations else "there are none"
        found.add("nothing fits", f"no conversation fits into {context:,} tokens; raise the context", where)
    return found


def _look(
    found: Diagnosis, tokenizer: Tokenizer, messages: tuple[Message, ...], last: bool, place: str, show: int
) -> None:
    found.conversations += 1
    try:
        rendered = Rendered.of(tokenizer, messages, last)
        roles = tuple(message.role for message in messages)
        checks = CHECKS if roles in found.roles else CHECKS | CHECKS_OF_ROLES
        found.roles.add(roles)
        for name, check in checks.items():
            if says := check(rendered):
                found.add(name, says, place)
    except UserError as error:
        found.add("refused", str(error), place)
        return
    found.tokens += len(rendered.ids)
    found.learned += len(rendered.learned)
    found.longest = max(found.longest, len(rendered.ids))
    found.longer += len(rendered.ids) > found.context
    if len(found.shown) < show:
        found.shown.append(rendered)
