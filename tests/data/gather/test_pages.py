"""Pages and PDF: the text in them, by either mode, and what hangs, crashes or is none."""

import os
import signal
from pathlib import Path

import pytest
import trafilatura
from gather_world import PARAGRAPH, gathered, only, outcome, page, pdf, refusal

from underlay.data.gather import workers as workers_module
from underlay.data.gather.workers import Job, Reply, Workers

ARTICLE = (
    "<html><head><title>T</title></head><body><nav><a href='/'>Home</a> <a href='/b'>Menu</a></nav><article>"
    + "".join(f"<p>Paragraph {number}. {PARAGRAPH * 3}</p>" for number in range(5))
    + "</article><footer>Copyright and cookies</footer></body></html>"
)


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_the_text_of_a_page(tmp_path: Path, mode: str) -> None:
    (tmp_path / "page.html").write_text(ARTICLE)
    text = only(gathered(tmp_path, tmp_path / "page.html", html=mode)).text
    assert all(f"Paragraph {number}." in text for number in range(5))
    assert "Menu" not in text


FORMS = (
    "<form action='/s'><label for='q'>Find</label><input name='q'><select><option>one</option></select>"
    "<textarea>words</textarea><button>Go</button></form><table><tr><td>Cell</td></tr></table><!-- remark -->"
    "<?target instruction?><svg><g></g></svg>&unknown;&amp;<A HREF='/x'>Link</A>"
)


@pytest.mark.parametrize("inside", ["", FORMS, f"<form>{FORMS}<p>{PARAGRAPH * 5}</p></form>", "<p>" * 300])
def test_workers_read_pages_as_trafilatura_does(inside: str) -> None:
    """They make trees of plain elements and leave out what trafilatura would import: no text may change by it."""
    html = ARTICLE.replace("Paragraph 2", f"{inside} Paragraph 2")
    with Workers(1, 60.0) as workers:
        (reply,) = workers.work([Job("html", html.encode(), 0)])
    assert reply.text == trafilatura.extract(html, favor_precision=True, include_comments=False)
    assert "Paragraph 3" in reply.text


def test_pages_keep_their_order_and_places_among_other_files(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02d}.html").write_text(ARTICLE.replace("Paragraph", f"Page {number}, paragraph"))
        (tmp_path / f"{number:02d}.txt").write_text(f"{number} {PARAGRAPH}")
    fast, _ = outcome(tmp_path / "fast", tmp_path)
    quality, _ = outcome(tmp_path / "quality", tmp_path / "[0-9]*", html="quality")
    assert [document.source for document in quality] == [
        document.source for document in fast if "corpus" not in document.source
    ]
    assert all(
        document.text.startswith(f"Page {int(Path(document.source).stem)},")
        for document in quality
        if document.language == "html"
    )


def test_a_page_states_its_licence(tmp_path: Path) -> None:
    link = '<a rel="license" href="https://creativecommons.org/licenses/by-nc-sa/3.0/de/">terms</a>'
    (tmp_path / "page.html").write_text(ARTICLE.replace("</nav>", f"</nav>{link}"))
    assert only(gathered(tmp_path, tmp_path / "page.html")).licence == "CC-BY-NC-SA-3.0"


def test_a_page_may_take_its_time_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is up at once: the page goes to the ledger, or is read in the fast mode."""
    (tmp_path / "page.html").write_text(ARTICLE)
    assert "no text within 1e-09 seconds" in refusal(tmp_path, tmp_path / "page.html", html="quality", deadline=1e-9)
    text = only(gathered(tmp_path / "b", tmp_path / "page.html", html="quality", deadline=1e-9, late="fast")).text
    assert "Paragraph 4." in text


def test_a_process_that_dies_or_hangs_is_replaced() -> None:
    good = Job("html", ARTICLE.encode(), 0)
    with Workers(1, 60.0) as workers:
        assert workers.work([good])[0].status == "text"
        (worker,) = workers._idle
        os.kill(worker.process.pid, signal.SIGSTOP)
        workers._deadline = 0.2
        assert workers.work([good]) == [Reply("late")]
        workers._deadline = 60.0
        assert workers.work([good, good])[1].status == "text"
        (another,) = workers._idle
        assert another.process.pid != worker.process.pid
        os.kill(another.process.pid, signal.SIGKILL)
        another.process.wait()
        assert [reply.status for reply in workers.work([good, good])] == ["crashed", "text"]
        last = workers._idle[0].process
    assert last.poll() is not None


def test_worker_starts_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module.sys, "executable", "/bin/false")
    with pytest.raises(workers_module.MachineError), Workers(1, 1.0) as workers:
        workers.work([Job("html", b"x", 0)])


def test_the_text_of_a_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(["Hello from page one", "", "and from page three"]))
    document = only(gathered(tmp_path, tmp_path / "a.pdf"))
    assert document.text == "Hello from page one\n\n\n\nand from page three\n"
    assert (document.first_line, document.last_line, document.date, document.language) == (1, 3, "2020-01-02", "pdf")


def test_a_long_pdf_is_cut_between_pages(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([f"Page {number} " + "word " * 60 for number in range(1, 13)]))
    documents, _ = outcome(tmp_path, tmp_path / "a.pdf", piece_bytes=1024)
    assert [(document.first_line, document.last_line) for document in documents] == [(1, 4), (5, 8), (9, 12)]
    assert all(document.text.startswith(f"Page {document.first_line} ") for document in documents)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"%PDF-1.4\nnothing", "PdfiumError"),
        (pdf(["", ""]), "without text"),
        (pdf(["text"])[:200], "PdfiumError"),
    ],
)
def test_pdfs_that_are_none(tmp_path: Path, data: bytes, complaint: str) -> None:
    (tmp_path / "a.pdf").write_bytes(data)
    assert complaint in refusal(tmp_path, tmp_path / "a.pdf")


@pytest.mark.parametrize("tag", ["div", "article", "p", "span", "table", "b", "ul><li"])
def test_a_page_nested_without_end_is_survived(tmp_path: Path, tag: str) -> None:
    (tmp_path / "deep.html").write_text(f"<{tag}>" * 100_000 + PARAGRAPH)
    (tmp_path / "good.html").write_bytes(page(PARAGRAPH))
    documents, ledger = outcome(tmp_path, tmp_path / "*.html")
    assert len(documents) + len(ledger) == 2
    if tag in ("div", "article"):
        assert [entry.reason for entry in ledger] == ["too-deep"]
