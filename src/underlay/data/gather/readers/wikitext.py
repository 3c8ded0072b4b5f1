"""Wikitext to readable text: what a reader of the page sees, without boxes, notes, pictures and marks.

One pass over the marks with a stack, so the time grows with the length of the text and nothing else. What is open at
the end, or closes something that is not open, is text. Templates cannot be carried out here; of some the text is
known to be one of their arguments, the others are left out. (https://www.mediawiki.org/wiki/Markup_spec)
"""

import html
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

_DEEPEST = 60
"""Marks that open deeper than this are text: MediaWiki itself goes no deeper than 40."""
_MARK = re.compile(
    r"<!--|-->|\{\{|\}\}|\[\[|\]\]|^[ \t:*#]{0,40}\{\||^[ \t]{0,40}\|\}(?!\})"
    r"|<(/?)([A-Za-z][A-Za-z0-9]{0,20})(?=[\s/>])([^<>]{0,2000})>",
    re.MULTILINE,
)
_LITERAL = {"nowiki", "pre", "syntaxhighlight", "source", "math", "chem", "code"}
"""Elements in which nothing is a mark but their own end."""
_DROPPED = {
    "ref",
    "gallery",
    "timeline",
    "imagemap",
    "score",
    "hiero",
    "templatedata",
    "graph",
    "mapframe",
    "maplink",
    "inputbox",
    "categorytree",
    "style",
    "script",
    "references",
}
"""Elements that hold no text of the article."""
_BLOCKS = {"br", "p", "div", "blockquote", "li", "ul", "ol", "hr", "tr", "table"}
_FIRST = {
    "nowrap",
    "nobr",
    "abbr",
    "small",
    "big",
    "nobold",
    "smallcaps",
    "sc",
    "linktext",
    "w",
    "em",
    "strong",
    "var",
    "mvar",
    "math",
    "as of",
    "quote",
    "blockquote",
    "cquote",
    "angbr",
    "nbsp",
}
"""Templates whose first argument is the text that they show."""
_SECOND = {"lang", "transl", "transliteration", "wikt-lang", "color", "font color"}
"""Templates whose second argument is."""
_SIGNS = {
    "ndash": "–",
    "mdash": "—",
    "spaced ndash": " – ",
    "snd": " – ",
    "spaces": " ",
    "nbsp": " ",
    "!": "|",
    "=": "=",
    "·": "·",
    "•": "•",
    "c.": "c. ",
    "circa": "c. ",
    "bc": "BC",
    "ad": "AD",
    "sic": "",
}
_OTHER_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,8}){0,2}:\S")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:)?//[^\s\[\]]{1,2000}(?:[ \t]+([^\[\]\n]{0,2000}))?\]")
_QUOTES = re.compile(r"'{2,5}")
_SWITCH = re.compile(r"__[A-Z]{3,30}__")
_HOLLOW = re.compile(r"[ \t]?\((?:[\s,;:–-]|or|and){0,20}\)")
_GAP = re.compile(r"\((?:[\s,;:]){1,20}")
_SPACES = re.compile(r"[ \t\u00a0]{1,1000}")
_LIST = re.compile(r"[*#:;]{1,40}[ \t]{0,40}")


@dataclass
class _Open:
    """Something that was opened and is not closed yet."""

    kind: str
    mark: str
    parts: list[str] = field(default_factory=list)


class Wikitext:
    """Makes text of wikitext."""

    def __init__(self, hidden: Iterable[str] = ()) -> None:
        """`hidden`: what files and categories are called in this wiki, beside the English names."""
        self._hidden = {"file", "image", "category", "media"} | {name.lower() for name in hidden}

    def plain(self, wikitext: str) -> str:
        """The text that a reader sees. Linear in the length of the text."""
        return _tidy(self._unfold(wikitext))

    def _unfold(self, wikitext: str) -> str:
        stack = [_Open("text", "")]
        counts: dict[str, int] = {}
        at = 0
        literal = ""  # the mark that ends a stretch without marks
        for match in _MARK.finditer(wikitext):
            mark = match[0]
            name = (match[2] or "").lower()
            if literal:
                if mark.endswith(literal) if literal == "-->" else mark.lower().startswith(literal):
                    if literal != "-->":
                        stack[-1].parts.append(wikitext[at : match.start()])
                    at, literal = match.end(), ""
                continue
            stack[-1].parts.append(wikitext[at : match.start()])
            at = match.end()
            if mark == "<!--":
                literal = "-->"
            elif name in _LITERAL:
                if not match[1] and not mark.endswith("/>"):
                    literal = f"</{name}"
            elif name in _DROPPED:
                if match[1]:
                    _close(stack, counts, name, mark, lambda _: "")
                elif not mark.endswith("/>"):
                    _open(stack, counts, name, mark)
            elif name:
                stack[-1].parts.append("\n" if name in _BLOCKS else "")
            elif mark in ("{{", "[["):
                _open(stack, counts, mark, mark)
            elif mark.endswith("{|"):
                _open(stack, counts, "{|", mark)
            elif mark == "}}":
                _close(stack, counts, "{{", mark, _template)
            elif mark == "]]":
                _close(stack, counts, "[[", mark, self._link)
            elif mark.endswith("|}"):
                _close(stack, counts, "{|", mark, lambda _: "\n")
        if literal != "-->":
            stack[-1].parts.append(wikitext[at:])
        while len(stack) > 1:
            _flatten(stack, counts)
        return "".join(stack[0].parts)

    def _link(self, inside: str) -> str:
        target, bar, text = inside.partition("|")
        shown = target.strip()
        if shown.startswith(":"):
            return text if bar else shown[1:]
        space, colon, _ = shown.partition(":")
        if colon and space.strip().lower() in self._hidden:
            return ""
        if bar:
            return text.rpartition("|")[2] if "|" in text else text
        return "" if _OTHER_LANGUAGE.match(shown) else shown.partition("#")[0] or shown.lstrip("#")


def _open(stack: list[_Open], counts: dict[str, int], kind: str, mark: str) -> None:
    if len(stack) > _DEEPEST:
        stack[-1].parts.append(mark)
    else:
        stack.append(_Open(kind, mark))
        counts[kind] = counts.get(kind, 0) + 1


def _close(stack: list[_Open], counts: dict[str, int], kind: str, mark: str, shown: Callable[[str], str]) -> None:
    """Close the last that is open of a kind; what was opened within it and not closed is text."""
    if not counts.get(kind):
        stack[-1].parts.append("" if mark.startswith("<") else mark)
        return
    while stack[-1].kind != kind:
        _flatten(stack, counts)
    inside = "".join(stack.pop().parts)
    counts[kind] -= 1
    stack[-1].parts.append(shown(inside))


def _flatten(stack: list[_Open], counts: dict[str, int]) -> None:
    """Make text of the innermost that is open."""
    inner = stack.pop()
    counts[inner.kind] -= 1
    stack[-1].parts += ["" if inner.mark.startswith("<") else inner.mark, *inner.parts]


def _template(inside: str) -> str:
    """What is known of a template's text."""
    name, *arguments = inside.split("|", 8)
    name = " ".join(name.replace("_", " ").split()).lower()
    unnamed = [one.strip() for one in arguments if "=" not in one]
    if name in _SIGNS and not (unnamed and name in ("circa", "c.")):
        return _SIGNS[name]
    if name in ("circa", "c."):
        return f"c. {unnamed[0]}"
    if (name in ("convert", "cvt")) and len(unnamed) >= 2:
        joined = {"to": "–", "-": "–", "and": " and ", "by": " × ", "x": " × ", "–": "–"}
        if len(unnamed) >= 4 and unnamed[1] in joined:
            return f"{unnamed[0]}{joined[unnamed[1]]}{unnamed[2]} {unnamed[3]}"
        return f"{unnamed[0]} {unnamed[1]}"
    if name in _FIRST or name.startswith(("lang-", "langx-")):
        return unnamed[0] if unnamed else ""
    if (name in _SECOND or name == "langx") and len(unnamed) >= 2:
        return unnamed[1]
    return ""


def _tidy(text: str) -> str:
    """Lines without marks: headings without text beneath them are left out, lists begin with a dash."""
    text = _SWITCH.sub("", _QUOTES.sub("", _EXTERNAL.sub(lambda match: match[1] or "", text)))
    lines: list[str] = []
    headings: list[tuple[int, str]] = []  # those that stand for the text that follows, with their levels
    for raw in html.unescape(text).split("\n"):
        line = _SPACES.sub(" ", _GAP.sub("(", _HOLLOW.sub("", raw))).strip()
        level = _level(line)
        if level:
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, line.strip("= ")))
            continue
        if match := _LIST.match(line):
            rest = line[match.end() :]
            line = f"- {rest}" if rest and line[0] in "*#" else rest
        if not line or line.startswith("----"):
            if lines and lines[-1]:
                lines.append("")
            continue
        for _, heading in headings:
            lines += ["", heading, ""] if lines and lines[-1] else [heading, ""]
        headings.clear()
        lines.append(line)
    return "\n".join(lines).strip()


def _level(line: str) -> int:
    """1 to 6 for a heading, else 0."""
    if not (line.startswith("=") and line.endswith("=")) or len(line) < 3:
        return 0
    start, end = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
    return min(start, end, 6) if line.strip("= ") else 0
