"""Tokens on a terminal: where each begins, what is learned, and which are special."""

import codecs
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from underlay.adapt.doctor import Diagnosis, Rendered
    from underlay.text import Tokenizer

_LEARNED = ("black on green3", "black on spring_green2")
_READ = ("white on grey19", "white on grey30")
"""Two shades each, for neighbouring tokens."""
_SPECIAL = {True: "bold white on dark_green", False: "bold bright_magenta on grey11"}


def with_weights(found: "Rendered", colour: bool) -> Text:
    """A conversation, token by token; what is learned is green, or stands within « » where there is no colour."""
    shown = Text()
    open_ = False
    for number, (text, special, learned) in enumerate(_pieces(found.tokenizer, found.ids, found.weights)):
        if not colour and learned != open_:
            shown.append("«" if learned else "»")
        open_ = learned
        style = _SPECIAL[learned] if special else (_LEARNED if learned else _READ)[number % 2]
        for part, end in _lines(text):
            shown.append(part, style if colour else "")
            shown.append(end)
    if not colour and open_:
        shown.append("»")
    return shown


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """A token's lines, each with a sign for its end, and its end: without that, colours run to the edge."""
    *lines, last = text.split("\n")
    for line in lines:
        yield f"{line}↵", "\n"
    yield last, ""


def _pieces(tokenizer: "Tokenizer", ids: Sequence[int], weights: Sequence[float]) -> Iterator[tuple[str, bool, bool]]:
    """(text, special, learned); tokens that are a character only together are one."""
    from underlay.evaluate.page import visible

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    learned = False
    for index, weight in zip(ids, weights, strict=True):
        special = index in tokenizer.special_ids
        if (special or bool(weight) != learned) and (rest := decoder.decode(b"", final=True)):
            yield rest, False, learned
        learned = bool(weight)
        if special:
            yield tokenizer.name(index) or f"<{index}>", True, learned
        elif text := decoder.decode(tokenizer.decode_bytes([index])):
            yield visible(text), False, learned
    if rest := decoder.decode(b"", final=True):
        yield rest, False, learned


def show_diagnosis(out: Console, found: "Diagnosis") -> None:
    """Print a few conversations, the totals, and what is wrong."""
    colour = out.is_terminal and not out.no_color
    for number, rendered in enumerate(found.shown, 1):
        learned = len(rendered.learned)
        count = f"{len(rendered.ids):,} tokens, {learned:,} learned"
        out.print(f"conversation {number}: {count}", style="bold", markup=False)
        out.print(with_weights(rendered, colour))
        out.print()
    if found.shown:
        out.print(_legend(colour))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right")
    share = found.learned / found.tokens if found.tokens else 0.0
    for name, value in (
        ("examples", f"{found.examples:,}"),
        ("conversations", f"{found.conversations:,}"),
        ("tokens", f"{found.tokens:,}"),
        ("learned", f"{share:.1%}"),
        ("longest", f"{found.longest:,}"),
        (f"longer than {found.context:,}", f"{found.longer:,}"),
    ):
        table.add_row(name, value)
    out.print(table)
    for problem in found.problems.values():
        out.print(f"✗ {problem}", markup=False, style="bold red")
    if not found.problems:
        out.print("✓ nothing is wrong", style="green")


def _legend(colour: bool) -> Text:
    if not colour:
        return Text("« » learned; the rest is read only; <|...|> special tokens; ↵ the end of a line\n")
    return Text.assemble(
        (" learned ", _LEARNED[0]),
        " ",
        (" read only ", _READ[1]),
        " ",
        (" special, learned ", _SPECIAL[True]),
        " ",
        (" special ", _SPECIAL[False]),
        "  ↵ the end of a line\n",
    )
