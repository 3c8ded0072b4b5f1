"""A program of its own that draws text out of pages and PDF files, so that one that hangs or crashes it does no harm.

`workers.py` starts it by its path and kills it when a page takes too long. It reads requests from its standard input
and answers on its standard output: a letter, two numbers, and the bytes that they announce. It imports nothing of
Underlay, and so starts quickly. Text is drawn out of pages by trafilatura
(https://aclanthology.org/2021.acl-demo.15), out of PDF by PDFium.
"""

import ctypes
import json
import os
import resource
import struct
import sys
from typing import BinaryIO

REQUEST, REPLY = struct.Struct(">cQQ"), struct.Struct(">cQ")
_MEMORY = 6 << 30


def page(html: str) -> str:
    """The main text of a page; empty where there is none."""
    import trafilatura

    found = trafilatura.extract(html, favor_precision=True, include_comments=False)
    return found or ""


def plain_elements() -> None:
    """Have one class for all elements of pages: by itself lxml asks Python for the class of each, to find those of
    forms, of which trafilatura makes no use."""
    from lxml import etree, html
    from trafilatura import utils

    utils.HTML_PARSER.set_element_class_lookup(
        etree.ElementDefaultClassLookup(
            element=html.HtmlElement,
            comment=html.HtmlComment,
            pi=html.HtmlProcessingInstruction,
            entity=html.HtmlEntity,
        )
    )


def pdf(data: bytes, most: int) -> str:
    """The texts of a PDF's pages, up to `most` characters, and its date, as JSON."""
    import pypdfium2

    document = pypdfium2.PdfDocument(data)
    try:
        facts = document.get_metadata_dict(skip_empty=True)
        pages: list[str] = []
        size = 0
        for number in range(len(document)):
            sheet = document[number]
            text = sheet.get_textpage().get_text_bounded()
            sheet.close()
            pages.append(text[: most - size])
            size += len(pages[-1])
            if size >= most:
                break
    finally:
        document.close()
    date = facts.get("ModDate") or facts.get("CreationDate") or ""
    return json.dumps({"pages": pages, "date": date})


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""
    replies.write(REPLY.pack(b"r", 0))
    replies.flush()
    while head := requests.read(REQUEST.size):
        kind, size, most = REQUEST.unpack(head)
        data = requests.read(size)
        status = b"t"
        try:
            text = page(data.decode("utf-8", "replace")) if kind == b"h" else pdf(data, most)
        except Exception as error:  # noqa: BLE001 - whatever these libraries raise is what is wrong with the page
            status, text = b"e", f"{type(error).__name__}: {error}"
        answer = text.encode("utf-8", "replace")
        replies.write(REPLY.pack(status, len(answer)))
        replies.write(answer)
        replies.flush()


def main() -> None:
    """Serve on the standard streams, which libraries may not write to meanwhile."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY if hard < 0 else min(_MEMORY, hard), hard))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: whoever started this may be killed itself
    # trafilatura would import it, and NumPy with it, to tell languages, which nobody asks of it here
    sys.modules["py3langid"] = None  # type: ignore[assignment]
    import pypdfium2  # noqa: F401 - now, for otherwise it would count as the time of the first page
    import trafilatura  # noqa: F401

    plain_elements()
    with os.fdopen(os.dup(1), "wb") as replies:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
