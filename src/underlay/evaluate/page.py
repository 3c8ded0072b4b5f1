"""Pages that are safe to open: one file that asks for nothing from outside and runs no script.

Most of the words on a page come from documents, and from models that read them, so nothing is trusted: every text is
escaped, and characters that hide or reorder others are made visible. The pages share their frame (`frame.html`),
their looks (`page.css`) and their parts (`parts.html`); this module has what they print figures with.
"""

import math
import re
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from underlay.evaluate.curve import compact

LONGEST_TEXT = 12_000
"""Characters of one text that are shown."""


def render(template: str, **values: Any) -> bytes:
    """A page in UTF-8; `template` is a file beside this one, in which all texts are escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize,
        loader=FunctionLoader(lambda name: files("underlay.evaluate").joinpath(name).read_text("utf-8")),
    )  # fmt: skip
    environment.filters.update(
        size=size, duration=duration, percent=percent, number=number, compact=compact, words=words, fact=fact,
        label=label, when=when,
    )  # fmt: skip
    return environment.get_template(template).render(**values).encode("utf-8", "replace")


def write_both(name: str, page: Path, text: Path, **values: Any) -> None:
    """Write the same figures as a page, from `name.html`, and as Markdown, from `name.md`."""
    page.write_bytes(render(f"{name}.html", **values))
    text.write_bytes(render_markdown(f"{name}.md", **values))


def visible(text: str) -> str:
    """Show what a browser would hide: control characters as pictures, characters that reorder text by their number.

    A text that turns its own direction can read differently from what it is (Boucher and Anderson, arXiv:2111.00169).
    """
    text = re.sub("[\x00-\x08\x0b-\x1f]", lambda c: chr(0x2400 + ord(c[0])), text.replace("\r\n", "\n"))
    hidden = "[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
    return re.sub(hidden, lambda c: f"⟨U+{ord(c[0]):04X}⟩", text)


def size(count: float) -> str:
    """Bytes for people: 24.1 MB."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power * 0.9995:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds for people: 31 min 12 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: float) -> str:
    """A share for people: 7.3%, 0.04%, 78%; never 0% or 100% of what is neither."""
    if not math.isfinite(share):
        return "unknown"
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f}%"
    if abs(value) < 10:
        return f"{value:.2g}%" if abs(value) >= 0.01 else "under 0.01%"
    return f"{value:.0f}%" if value < 99 else f"{min(value, 99.9):.1f}%"


def number(value: float, digits: int | None = None) -> str:
    """A number with thousands set apart: 1,712; `digits` after the point."""
    if not math.isfinite(value):
        return "unknown"
    if digits is None:
        digits = 0 if value == int(value) or abs(value) >= 1000 else 2
    return f"{value:,.{digits}f}"


def when(iso: str) -> str:
    """A moment for people, 4 March 2026, 14:02; what is no ISO time stays as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{moment.day} {moment:%B %Y, %H:%M}{f' {moment.tzname()}' if moment.tzinfo else ''}"


def words(name: str) -> str:
    """An identifier as words: bytes_per_token reads `bytes per token`."""
    return name.replace("_", " ").replace("-", " ")


def label(name: str) -> str:
    """What a fact is called on the page."""
    names = {
        "bytes": "size", "depth": "layers", "energy_wh": "energy", "flops": "operations", "heldout": "held-out tokens",
        "seconds": "time", "tokens_per_second": "tokens a second", "train": "training tokens",
    }  # fmt: skip
    return names.get(name, words(name))


def fact(value: float | str | bool, name: str) -> str:
    """The value of a named fact in the unit that its name implies."""
    if isinstance(value, str | bool) or value is None:
        return str(value)
    if name == "bytes" or name.endswith("_bytes"):
        return size(value)
    if name == "seconds":
        return duration(value)
    if name == "energy_wh":
        return f"{value:.3g} Wh"
    if name == "flops" and value > 0:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits} × 10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    if 0 < abs(value) < 0.01:
        return f"{value:g}"
    return compact(value) if abs(value) >= 100_000 else number(value)


def _finalize(value: Any) -> Any:
    """Called on everything the template prints: figures and None as they are meant, texts with nothing hidden."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return ""
    return visible(shorten(value)) if isinstance(value, str) else value


def shorten(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text, or its beginning and how much is left out."""
    left = len(text) - longest
    return text if left <= 0 else f"{text[:longest]} … ({left:,} more characters)"


def render_markdown(template: str, **values: Any) -> bytes:
    """The same for Markdown, in UTF-8: whatever the template prints is escaped, so that it reads as it is."""
    environment = Environment(
        autoescape=False,  # noqa: S701 - Markdown is no HTML; `plain` escapes all that is printed
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=plain,
        loader=FunctionLoader(lambda name: files("underlay.evaluate").joinpath(name).read_text("utf-8")),
    )  # fmt: skip
    environment.filters.update(size=size, percent=percent, number=number, words=words, code=code, block=block)
    return environment.get_template(template).render(**values).encode("utf-8", "replace")


def plain(value: Any) -> Any:
    """A text as a line of Markdown that means nothing but itself."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    line = " ".join(visible(shorten(value, 400)).split())
    escaped = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> Markup:
    """A text as code within a line of Markdown, also within a table."""
    line = " ".join(visible(shorten(text, 400)).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if len(fence) > 1 else ""
    return Markup(f"{fence}{space}{line}{space}{fence}")  # noqa: S704 - Markdown, in which a code span is inert


def block(text: str) -> Markup:
    """A text as a block of code of Markdown: indented, so that no line of it can end the block."""
    lines = visible(text).split("\n")
    return Markup("\n".join(f"    {line}".rstrip() for line in lines))  # noqa: S704 - as above
