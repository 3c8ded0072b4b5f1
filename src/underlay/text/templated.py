"""Conversations by a chat template: the template writes the structure, and nobody else can.

A template writes special tokens and the words of the messages into one text, where they look alike. So the words are
fenced first: wherever they hold the text of a special token, or could complete one that the template begins, a
noncharacter is put in. What still reads as a special token after the rendering was written by the template; it is
replaced by a name that no text can hold, the fences are taken out, and the whole is encoded at once. Words without
such text are encoded exactly as if nothing had been done.

A template may also edit the words (cut out parts, lower their case), and make a special token of them by that. So
where words hold a token's signs, the template must write the same special tokens as for words without them.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from underlay.errors import UserError
from underlay.text.special import ROLE_KEYS
from underlay.text.template import ChatTemplate
from underlay.text.tokenizer import Tokenizer

Turn = tuple[str, str]
Span = tuple[int, int]


def by_template(tokenizer: Tokenizer, turns: Sequence[Turn], reply: bool) -> tuple[list[int], list[float]]:
    """Ids and weights of (role, words) turns, by the tokenizer's template; see `render`."""
    template = tokenizer.template
    assert template is not None
    fence, opening, closing = _unused([template.source, *(words for _, words in turns)])
    names = sorted(tokenizer.control, key=len, reverse=True)
    fenced = [(role, _fence(words, names, fence)) for role, words in turns]
    variables: dict[str, str | None] = {key: tokenizer.config.get(key) for key in ROLE_KEYS}  # type: ignore[misc]

    def write(count: int, prompt: bool, marks: tuple[str, str] = ("", "")) -> str:
        messages = [{"role": role, "content": words} for role, words in fenced[:count]]
        return template.render(messages, variables, prompt, marks)

    said = [] if reply else [index for index, (role, _) in enumerate(turns) if role == "assistant"]
    if said and template.tells:
        text, spans = _take_marks(write(len(turns), False, (opening, closing)), opening, closing)
    else:
        text = write(len(turns), reply)
        spans = [_said(write(index, True), write(index + 1, False), text, names) for index in said]
    _check_marks(template, variables, turns, reply, names, fence, text)
    return _encode(tokenizer, text, spans, names, fence)


def _unused(texts: Iterable[str]) -> list[str]:
    """Three noncharacters that none of the texts holds."""
    used = set().union(*texts)
    found = [char for code in range(0xFDD0, 0xFDF0) if (char := chr(code)) not in used]
    if len(found) < 3:
        raise UserError("the conversation holds all noncharacters from U+FDD0 to U+FDEF; take them out")
    return found[:3]


def _fence(words: str, names: Sequence[str], fence: str) -> str:
    """The words, with a noncharacter wherever they hold a special token's text or could complete one."""
    core = words.strip()
    if not core or not names:
        return words
    start = words.index(core)
    end = start + len(core)
    begins = any(core in name or any(core.startswith(name[i:]) for i in range(1, len(name))) for name in names)
    ends = any(core.endswith(name[:i]) for name in names for i in range(1, len(name)))
    if any(name in core for name in names):
        core = re.sub("|".join(map(re.escape, names)), lambda found: fence.join(found[0]), core)
    return words[:start] + fence * begins + core + fence * ends + words[end:]


def _check_marks(
    template: ChatTemplate,
    variables: Mapping[str, str | None],
    turns: Sequence[Turn],
    reply: bool,
    names: Sequence[str],
    fence: str,
    text: str,
) -> None:
    """Raise UserError where the template's edits made special tokens of words."""
    signs = [{char for char in name if not (char.isalnum() or char.isspace())} or set(name) for name in names]
    held = [set(words) for _, words in turns]
    if not any(some <= chars for some in signs for chars in held):
        return
    tame = str.maketrans(dict.fromkeys(set().union(*signs), fence))
    messages = [{"role": role, "content": words.translate(tame)} for role, words in turns]
    expected = Counter(_named(template.render(messages, variables, reply), names))
    if smuggled := Counter(_named(text, names)) - expected:
        raise UserError(
            f"the chat template edits a message so that it reads {next(iter(smuggled))}, a special token; "
            "take the text that leads to it out of the message"
        )


def _named(text: str, names: Sequence[str]) -> list[str]:
    return re.findall("|".join(map(re.escape, names)), text)


def _take_marks(text: str, opening: str, closing: str) -> tuple[str, list[Span]]:
    """The text without the marks, and the places they enclosed."""
    spans, parts, length, start = [], [], 0, None
    for part in re.split(f"([{opening}{closing}])", text):
        if part == opening:
            start = length
        elif part == closing:
            if start is not None:
                spans.append((start, length))
            start = None
        else:
            parts.append(part)
            length += len(part)
    return "".join(parts), spans


def _said(prompt: str, answered: str, whole: str, names: Sequence[str]) -> Span:
    """Where the assistant's words stand, up to the end of its turn: what the answer adds to the prompt."""
    if not answered.startswith(prompt) or not whole.startswith(answered):
        raise UserError(
            "the chat template writes earlier turns differently once there are later ones, so it does not tell what "
            "the assistant said; train on conversations of one answer, or put {% generation %} into the template"
        )
    start, end = len(prompt), len(answered)
    bare = answered.rstrip()
    if len(bare) > start and any(bare.endswith(name) for name in names):
        end = len(bare)  # the newline after the end of a turn is not said by anyone
    return start, end


def _encode(
    tokenizer: Tokenizer, text: str, spans: Sequence[Span], names: Sequence[str], fence: str
) -> tuple[list[int], list[float]]:
    pattern = "|".join(map(re.escape, [*names, fence]))
    parts: list[str] = []
    length = read = 0
    before, after = [0], [0]  # places in the text, and where they are once names are replaced
    for found in re.finditer(pattern, text):
        plain = text[read : found.start()]
        name = "" if found[0] == fence else tokenizer.private(found[0])
        parts += [plain, name]
        length += len(plain) + len(name)
        read = found.end()
        before.append(read)
        after.append(length)
    parts.append(text[read:])

    def moved(place: int) -> int:
        index = bisect_right(before, place) - 1
        return after[index] + place - before[index]

    places = [(moved(start), moved(end)) for start, end in spans]
    tokens = tokenizer.encode_marked("".join(parts))
    weights = [float(any(a < end and b > start for start, end in places)) for _, a, b in tokens]
    return [index for index, _, _ in tokens], weights
