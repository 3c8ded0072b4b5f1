"""MediaWiki dumps (https://www.mediawiki.org/wiki/Help:Export): a document an article, its title in the first line.

A dump is a list of pages without an end. They are found by their tags and taken apart by hand, one at a time: an XML
parser would give up at the first byte that is wrong, and everything behind it would be lost.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

from underlay.data.document import Document
from underlay.data.gather.items import START, Item, Mark
from underlay.data.gather.opening import Stream
from underlay.data.gather.readers.dates import iso_date
from underlay.data.gather.readers.decode import plain
from underlay.data.gather.readers.records import named
from underlay.data.gather.readers.wikitext import Wikitext
from underlay.data.gather.task import Task

_STEP = 1 << 16
_OPEN, _CLOSE = b"<page>", b"</page>"
_NAMESPACE = re.compile(r'<namespace key="(-?[0-9]{1,5})"[^>]{0,100}>([^<]{1,100})</namespace>')
_FILES, _CATEGORIES = "6", "14"
_WIKIMEDIA = re.compile(
    r"//[a-z-]+\.(?:m\.)?(?:wikipedia|wiktionary|wikibooks|wikiquote|wikisource|wikiversity|wikivoyage)\.org/"
)
_NEW_TERMS = "2023-06-07"
"""Since then Wikimedia's terms of use say CC BY-SA 4.0; before, 3.0."""


@dataclass(frozen=True)
class _Site:
    cleaner: Wikitext
    wikimedia: bool


def read(task: Task, start: Mark) -> Iterator[Item]:
    """The articles of a dump."""
    with task.stream(START) as stream:
        site = _site(stream.read(1 << 16))
    number = start.record
    most = 4 * task.config.max_document_bytes  # markup takes room
    with task.stream(start) as stream:
        for offset, size, page in _pages(stream, most):
            yield stream.mark(number, offset)
            if page is None:
                yield task.bad(number, size, "too-large", f"page {number} has {size} bytes", offset)
            elif not page.endswith(_CLOSE):
                yield task.bad(number, size, "truncated", f"page {number} does not end", offset)
            else:
                yield _article(task, site, page, number, offset)
            number += 1
        if number == 1 and not stream.broken:
            yield task.bad(1, stream.offset, "empty", "a dump without pages")


def _site(head: bytes) -> _Site:
    text = head.partition(_OPEN)[0].decode("utf-8", "replace")
    names = {key: html.unescape(name) for key, name in _NAMESPACE.findall(text)}
    hidden = {names[key] for key in (_FILES, _CATEGORIES) if key in names}
    return _Site(Wikitext(hidden), bool(_WIKIMEDIA.search(_inside(text, "base") or "")))


def _pages(stream: Stream, most: int) -> Iterator[tuple[int, int, bytes | None]]:
    """(offset, bytes, page) of each page; None for one that is larger than `most`. The last one may be cut off."""
    held, begin = b"", stream.offset
    while True:
        at = held.find(_OPEN)
        if at < 0:
            keep = held[len(held) - len(_OPEN) + 1 :] if len(held) >= len(_OPEN) else held
            begin += len(held) - len(keep)
            more = stream.read(_STEP)
            if not more:
                return
            held = keep + more
            continue
        held, begin = held[at:], begin + at
        end, searched = -1, 0
        while (end := held.find(_CLOSE, searched)) < 0 and len(held) <= most:
            searched = max(0, len(held) - len(_CLOSE))
            more = stream.read(max(_STEP, len(held)))
            if not more:
                break
            held += more
        if 0 <= end <= most:
            end += len(_CLOSE)
            yield begin, end, held[:end]
            held, begin = held[end:], begin + end
        elif end < 0 and len(held) <= most:
            yield begin, len(held), held
            return
        else:  # pass over it, and forget what it holds
            size = 0
            while (end := held.find(_CLOSE)) < 0:
                keep = held[-len(_CLOSE) :]
                size += len(held) - len(keep)
                if not (more := stream.read(_STEP)):
                    break
                held = keep + more
            length = size + (end + len(_CLOSE) if end >= 0 else len(held))
            yield begin, length, None
            held, begin = held[end + len(_CLOSE) :] if end >= 0 else b"", begin + length


def _article(task: Task, site: _Site, page: bytes, number: int, offset: int) -> Item:
    try:
        text = page.decode().replace("\0", "")
    except UnicodeDecodeError as error:
        return task.bad(number, len(page), "not-utf8", f"page {number} is not UTF-8: {error.reason}", offset)
    title = html.unescape(_inside(text, "title") or "").strip()
    revision = text[max(0, text.rfind("<revision>")) :]  # the last one, where there are several
    wikitext = _inside(revision, "text")
    if not title or wikitext is None:
        return task.bad(number, len(page), "bad-page", f"page {number} has no title or no text", offset)
    if (_inside(text, "ns") or "0").strip() != "0":
        return task.bad(number, len(page), "no-article", f"{title}: of another namespace", offset)
    if "<redirect" in text[: text.find("<revision>")]:
        return task.bad(number, len(page), "redirect", f"{title}: leads to another page", offset)
    if (model := (_inside(revision, "model") or "wikitext").strip()) != "wikitext":
        return task.bad(number, len(page), "no-article", f"{title}: holds {model}", offset)
    read = site.cleaner.plain(plain(html.unescape(wikitext)))
    if not read:
        return task.bad(number, len(page), "empty", f"{title}: no text is left of it", offset)
    if len(read.encode()) > task.config.max_document_bytes:
        return task.bad(number, len(page), "too-large", f"{title}: larger than max_document_bytes", offset)
    date = iso_date(_inside(revision, "timestamp"))
    licence = task.licence
    if site.wikimedia:
        licence = "CC-BY-SA-4.0" if not date or date >= _NEW_TERMS else "CC-BY-SA-3.0"
    return Document(f"{title}\n\n{read}\n", named(task.name, title), number, number, licence, "text", offset, date)


def _inside(text: str, tag: str) -> str | None:
    """What stands in the first element of this name; None where there is none, empty where it is closed at once."""
    at = text.find(f"<{tag}")
    while at >= 0 and text[at + len(tag) + 1 : at + len(tag) + 2] not in ("", ">", " ", "/", "\n"):
        at = text.find(f"<{tag}", at + 1)
    end = text.find(">", at) if at >= 0 else -1
    if end < 0:
        return None
    if text[end - 1] == "/":
        return ""
    close = text.find(f"</{tag}>", end)
    return text[end + 1 : close] if close >= 0 else None
