"""What tests of gathering share: sources made on the spot, and what became of them."""

from pathlib import Path

import pytest

from underlay.data import Corpus, Document, GatherConfig, gather
from underlay.data.corpus import Entry
from underlay.errors import UserError

DATA = Path(__file__).parents[3].parent / "shared" / "data"
PARAGRAPH = "Some words that make a paragraph of text.\n"


def real(name: str) -> pytest.MarkDecorator:
    """Skips where a set of real data is not there."""
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"needs ../shared/data/{name}")


def gathered(tmp_path: Path, *sources: Path | str, **settings: object) -> Corpus:
    return gather(GatherConfig(source=tuple(map(str, sources)), **settings), tmp_path / "corpus")


def outcome(tmp_path: Path, *sources: Path | str, **settings: object) -> tuple[list[Document], list[Entry]]:
    """Documents in the order of their places, and the ledger; both empty where nothing could be read."""
    corpus = gathered(tmp_path, *sources, **settings)
    return sorted(corpus, key=lambda one: (one.source, one.offset, one.first_line)), corpus.ledger()


def only(corpus: Corpus) -> Document:
    (document,) = corpus
    return document


def refusal(tmp_path: Path, *sources: Path | str, **settings: object) -> str:
    """The one line that says why nothing could be read."""
    with pytest.raises(UserError) as error:
        gathered(tmp_path, *sources, **settings)
    return str(error.value)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pdf(pages: list[str], facts: str = "/CreationDate (D:20200102030405Z)") -> bytes:
    """A PDF with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    font = "/Resources << /Font << /F1 3 0 R >> >>"
    for number, text in enumerate(pages):
        content = f"BT /F1 3 Tf 72 720 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {font} /Contents {5 + 2 * number} 0 R >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    objects.append(f"<< {facts} >>")
    data, places = "%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{one}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R /Info {size - 1} 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    return f"{data}xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()


def warc_record(
    kind: str, content_type: str, block: bytes, length: int | None = None, uri: str = "http://a.example/"
) -> bytes:
    """One record of a web archive."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nWARC-Date: 2021-03-04T05:06:07Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def response(body: bytes, headers: str = "Content-Type: text/html", status: str = "200 OK", **more: object) -> bytes:
    """A record of what a server answered."""
    block = f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body
    return warc_record("response", "application/http; msgtype=response", block, **more)  # type: ignore[arg-type]


def page(text: str) -> bytes:
    return f"<html><head><title>t</title></head><body><p>{text}</p></body></html>".encode()
