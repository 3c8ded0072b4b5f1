"""Pages: the text of HTML and PDF is drawn out here, after the readers and before anything is kept.

The fast mode is resiliparse, in this process. The quality mode, and PDF, go to workers, some at a time; what comes
out keeps the order of what came in, so nothing depends on how many workers there are.
"""

import json
import re
from collections.abc import Iterator
from typing import TypeVar

from resiliparse.extract.html2text import extract_plain_text

from underlay.data.document import Document
from underlay.data.gather.config import GatherConfig
from underlay.data.gather.items import BadRecord, Page, Pdf
from underlay.data.gather.licences import licence_of_page, licence_of_text
from underlay.data.gather.readers.dates import pdf_date
from underlay.data.gather.readers.decode import plain
from underlay.data.gather.workers import Job, Reply, Workers

T = TypeVar("T")
_HELD, _HELD_BYTES = 4096, 64 << 20
_DEEPEST = 1000
"""Browsers themselves go no deeper than some hundreds."""
_NESTING = re.compile(r"<(/?)(?:div|article)\b", re.IGNORECASE)
_PERHAPS = re.compile(r"<[dDaA][iIrR]")
"""The beginnings of such, and of few others: quickly counted."""
_PAGES_EACH = 16
"""Pages that wait for each worker, so that none is idle for long."""


def drawn(
    items: Iterator[T | Page | Pdf], config: GatherConfig, workers: Workers
) -> Iterator[T | Document | BadRecord]:
    """The same items, with documents in the place of pages."""
    held: list[T | Page | Pdf] = []
    jobs: list[Job] = []
    size = 0
    for item in items:
        job = _job(item, config)
        if job is None and not held:
            if isinstance(item, Page):
                yield fast(item, config)
            elif not isinstance(item, Pdf):
                yield item
            continue
        held.append(item)
        if job:
            jobs.append(job)
            size += len(job.data)
        if len(jobs) >= _PAGES_EACH * workers.count or len(held) >= _HELD or size >= _HELD_BYTES:
            yield from _done(held, jobs, config, workers)
            held, jobs, size = [], [], 0
    yield from _done(held, jobs, config, workers)


def _job(item: object, config: GatherConfig) -> Job | None:
    """What a worker has to do for it, if anything."""
    if isinstance(item, Pdf):
        return Job("pdf", item.data, config.max_file_bytes)
    if isinstance(item, Page) and config.html == "quality":
        return Job("html", item.html.encode(), 0)
    return None


def _done(
    held: list[T | Page | Pdf], jobs: list[Job], config: GatherConfig, workers: Workers
) -> Iterator[T | Document | BadRecord]:
    replies = iter(workers.work(jobs))
    for item in held:
        if isinstance(item, Pdf):
            yield from _pdf(item, next(replies), config)
        elif isinstance(item, Page):
            yield _page(item, next(replies), config) if config.html == "quality" else fast(item, config)
        else:
            yield item


def fast(page: Page, config: GatherConfig) -> Document | BadRecord:
    """A page's text by resiliparse."""
    if _depth(page.html) > _DEEPEST:
        detail = f"a page nested more than {_DEEPEST} deep"
        return BadRecord(page.source, page.line, page.bytes, "too-deep", detail, page.offset)
    return _document(page, extract_plain_text(page.html, main_content=True, alt_texts=False), config)


def _depth(html: str) -> int:
    """How deep a page is nested in those elements in which resiliparse takes time that grows with the square of it."""
    if len(_PERHAPS.findall(html)) <= _DEEPEST:
        return 0
    depth = deepest = 0
    for tag in _NESTING.finditer(html):
        depth += -1 if tag[1] else 1
        deepest = max(deepest, depth)
    return deepest


def _page(page: Page, reply: Reply, config: GatherConfig) -> Document | BadRecord:
    """A page's text by a worker."""
    if reply.status == "text":
        return _document(page, reply.text, config)
    if reply.status == "late" and config.late == "fast":
        return fast(page, config)
    return _failed(page.source, page.line, page.bytes, page.offset, reply, config)


def _failed(source: str, line: int, size: int, offset: int, reply: Reply, config: GatherConfig) -> BadRecord:
    reason, detail = {
        "late": ("late", f"no text within {config.deadline:g} seconds (deadline)"),
        "crashed": ("crashed", "whatever draws the text out ended without a word"),
        "error": ("bad-page", reply.text[:300]),
    }[reply.status]
    return BadRecord(source, line, size, reason, detail, offset)


def _document(page: Page, text: str, config: GatherConfig) -> Document | BadRecord:
    text = plain(text).replace("\0", "")
    if not text.strip():
        return BadRecord(page.source, page.line, page.bytes, "no-text", "an HTML page without text", page.offset)
    if len(text.encode()) > config.max_document_bytes:
        return BadRecord(page.source, page.line, page.bytes, "too-large", "larger than max_document_bytes", page.offset)
    licence = licence_of_page(page.html) or page.licence
    return Document(text, page.source, page.line, page.line, licence, "html", page.offset, page.date)


def _pdf(item: Pdf, reply: Reply, config: GatherConfig) -> Iterator[Document | BadRecord]:
    """Documents of about `piece_bytes`, each of whole pages; their lines are the numbers of pages."""
    if reply.status != "text":
        yield _failed(item.source, item.line, len(item.data), item.offset, reply, config)
        return
    found = json.loads(reply.text)
    date, pages = pdf_date(found["date"]), [plain(text).replace("\0", "") for text in found["pages"]]
    licence = licence_of_text("\n".join(pages[:2])) or item.licence
    first, held, size, something = 1, [], 0, False
    for number, text in enumerate(pages, 1):
        held.append(text[: config.max_document_bytes // 4])
        size += len(text.encode())
        if size >= config.piece_bytes or number == len(pages):
            whole = "\n\n".join(held).strip()
            if whole:
                something = True
                yield Document(whole + "\n", item.source, first, number, licence, "pdf", item.offset, date)
            first, held, size = number + 1, [], 0
    if not something:
        yield BadRecord(
            item.source, item.line, len(item.data), "no-text", "a PDF without text: pictures of pages?", item.offset
        )
