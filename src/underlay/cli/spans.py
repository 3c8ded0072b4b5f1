"""Traces on a terminal: the text with its verbatim spans marked, and where each stands in the training data."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

_STYLES = ("black on bright_yellow", "black on bright_cyan", "black on bright_green", "black on bright_magenta")


def with_spans(text: str, spans: Sequence[Mapping[str, Any]]) -> Text:
    """The text, each span in a colour of its own and followed by its number."""
    data, marked, at = text.encode(), Text(), 0
    for number, span in enumerate(spans, 1):
        start, end = span["start_byte"], span["end_byte"]
        marked.append(data[at:start].decode())
        marked.append(data[start:end].decode(), style=_style(number))
        marked.append(f"[{number}]", style="dim")
        at = end
    marked.append(data[at:].decode())
    return marked


def sources_of(trace: Mapping[str, Any], written_from: int = 0) -> list[Text]:
    """One line a span: where it stands, under which licence, and how often; then how much of the text is verbatim.

    `written_from`: byte at which the model's own words begin, where the text starts with a prompt.
    """
    from underlay.trace.spans import covered

    lines = []
    for number, span in enumerate(trace["spans"], 1):
        places = [f"{m['source']}:{m['line']} ({m['licence'] or 'licence unknown'})" for m in span["matches"][:1]]
        more = f", {span['count']:,} times in all" if span["count"] > 1 else ""
        line = Text.assemble("  ", (f"[{number}]", _style(number)), " ", ", ".join(places), (more, "dim"))
        lines.append(line)
    whose = "what the model wrote" if written_from else "this text"
    share = covered(trace, written_from)
    lines.append(Text(f"  {share:.0%} of {whose} stands word for word in the training data.", style="dim"))
    return lines


def _style(number: int) -> str:
    return _STYLES[(number - 1) % len(_STYLES)]
