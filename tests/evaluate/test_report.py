"""The report must be safe to open and whole, whatever stands in the documents and however little was measured."""

import math
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from underlay.evaluate.curve import compact
from underlay.evaluate.page import duration, fact, percent, size, visible
from underlay.evaluate.plots import Point, funnel_bars, heldout_scatter, loss_curve, wilson
from underlay.evaluate.report import (
    ReportData,
    Segment,
    Share,
    Written,
    segments,
    write_report,
)
from underlay.trace.spans import Match, Span, Trace

HOSTILE = (
    "</pre><script>alert(1)</script><img src=x onerror=\"alert('2')\">"
    "'\"><svg/onload=alert(3)>-->]]><!-- {{ 7*7 }} {% raw %} &amp; $\\frac{ "
    "\x00\x1b[31m\x85 \u202eevil\u202c \u2028 日本 🦉"
)
VOID = {"meta", "link", "br", "wbr"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a browser would."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.marks: dict[str, str] = {}
        self._mark = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a" and re.search(r"\bs\d", dict(attrs).get("class") or ""):
            self._mark = dict(attrs)["href"] or ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "a":
            self._mark = ""

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if self._mark:
            self.marks[self._mark] = self.marks.get(self._mark, "") + data

    @property
    def text(self) -> str:
        return "".join(self.words)


def steps(count: int) -> list[dict[str, float]]:
    return [
        {"step": i, "tokens": i * 100.0, "loss": 8 / i**0.3, "rate": min(1, i / 9), "norm": 1.0}
        for i in range(1, count + 1)
    ]


def rewarded_steps(count: int) -> list[dict[str, float]]:
    return [{**step, "reward": 0.1 * step["step"], "entropy": 3.0, "length": 20.0} for step in steps(count)]


def completion(prompt: str, added: str, *marked: str) -> dict[str, object]:
    text = prompt + added
    spans = []
    for words in marked:
        start = len(text[: text.index(words)].encode())
        match = Match("d" * 16, HOSTILE, 3, 5, None, 0)
        spans.append(Span(words, start, start + len(words.encode()), 9, 2, -40.0, (match,)))
    return {"prompt": prompt, "text": text, "trace": Trace(text, tuple(spans)).to_dict()}


def full(text: str = "plain") -> ReportData:
    return ReportData(
        title=text,
        created="2026-03-04T14:02:31+00:00",
        machine={"processor": text, text: "2"},
        funnel=[("found", 10, 1000), ("too-short", 2, 50), (text, 1, 5), ("kept", 7, 945)],
        redactions={text: 182},
        licences={text: 900, "MIT": 45},
        corpus={"sources": text, "documents": 7, "bytes": 945},
        tokens={"vocabulary": 512, "train": 300, "heldout": 40, "bytes_per_token": 3.1},
        model={"parameters": 10_420_224, "family": text},
        pretrain=steps(40),
        adaptations={"adapted": steps(12), text: rewarded_steps(9)},
        cost={"seconds": 1872.4, "flops": 2.03e15, "energy_wh": 41.6, "energy_basis": text, "tokens_per_second": 900},
        heldout=[(f"{text}/{i}.py", 500 * i, 1.2 + i / 10, 1.9 + i / 20) for i in range(1, 6)] + [(text, 9, 1.0, 9.0)],
        heldout_bits_per_byte=1.41,
        xz_bits_per_byte=1.74,
        xz_solid_bits_per_byte=1.39,
        shares=[Share("base", 0.25, 0.0, 16), Share("adapted", 0.5, 0.5, 16), Share(text, 0.75, 0.125, 16)],
        functions=[
            (text, [Written("base", text, False), Written("adapted", "", True), Written(text, "    pass\n", True)]),
        ],
        completions=[completion(text, f" é {text} übrig", "é"), completion("a", "b")],
        stages=[(text, 3.2, text), ("pretrain", 1611.0, "model:q@1")],
        lineage=[("model:q@1", f"dataset dataset:q@2, {text}"), (text, "")],
        commands=[text],
    )


def empty() -> ReportData:
    kinds = {"str": str, "float": lambda: math.nan}
    values = {}
    for field in fields(ReportData):
        kind = str(getattr(field.type, "__name__", field.type))
        values[field.name] = kinds.get(kind, list if kind.startswith("list") else dict)()
    return ReportData(**values)


def write(data: ReportData, folder: Path) -> str:
    path = folder / "report.html"
    write_report(data, path)
    return path.read_text("utf-8")


def test_the_headline_is_a_statement(tmp_path: Path) -> None:
    text = " ".join(Page(write(full(), tmp_path)).text.split())
    assert "1.41 bits per byte on files it never read; xz -9e needs 1.74." in text
    assert "19% fewer than xz with one archive a file and 1.4% more than xz with all files in one archive" in text
    assert "as it does for 6 of 6" in text
    assert "4 March 2026, 14:02 UTC" in text


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    html = write(full(HOSTILE), tmp_path)
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base", "image", "foreignobject"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "alert(1)" in page.text
    assert "{{ 7*7 }} {% raw %} &amp;" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]", html)
    assert "␀" in page.text
    assert "⟨U+202E⟩evil" in page.text


@pytest.mark.parametrize("text", ["plain", HOSTILE])
def test_nothing_is_asked_for(tmp_path: Path, text: str) -> None:
    html = write(full(text), tmp_path)
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|xmlns", html)
    for tag, attrs in page.tags:
        assert "src" not in attrs
        assert "srcset" not in attrs
        assert "xlink:href" not in attrs
        if tag != "link":
            assert (attrs.get("href") or "#").startswith("#"), (tag, attrs)
    assert [attrs["href"] for tag, attrs in page.tags if tag == "link"] == ["data:,"]
    for target in re.findall(r"url\(([^)]*)\)", html):
        assert target.startswith("#")
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    ]


def test_ids_are_unique_and_links_lead_somewhere(tmp_path: Path) -> None:
    page = Page(write(full(), tmp_path))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {attrs["href"] for tag, attrs in page.tags if tag in ("a", "use")}
    assert links
    assert links <= {f"#{name}" for name in ids}


def test_marks_land_on_their_words(tmp_path: Path) -> None:
    sample = completion("def näme(日本):\n", "    return “🦉” + 日本 & more\n", "日本", "return “🦉”", "日本 & more")
    page = Page(write(replace(full(), completions=[sample]), tmp_path))
    assert page.marks == {"#c1-n1": "日本", "#c1-n2": "return “🦉”", "#c1-n3": "日本 & more"}
    assert "lines 3–5, no licence stated" in page.text
    assert "9 tokens, found 2 times" in page.text


def test_a_trace_of_the_completion_alone_is_shifted(tmp_path: Path) -> None:
    sample = completion("", "wört two", "two")
    sample |= {"prompt": "é: ", "text": "é: wört two"}
    page = Page(write(replace(full(), completions=[sample]), tmp_path))
    assert page.marks == {"#c1-n1": "two"}
    assert ("span", {"class": "asked"}) in page.tags


def test_overlapping_spans_never_cross(tmp_path: Path) -> None:
    assert segments("abcdef", [(0, 4), (2, 6), (3, 3)], 1) == [
        Segment("a", (1,), (), True),
        Segment("b", (1,), (), False),
        Segment("cd", (1, 2), (1,), False),
        Segment("ef", (2,), (2,), False),
    ]
    sample = completion("a", "bcdef", "abcd", "cdef", "d")
    page = Page(write(replace(full(), completions=[sample]), tmp_path))
    assert page.marks == {"#c1-n1": "abcd", "#c1-n2": "ef"}


def test_impossible_offsets_are_mended() -> None:
    text = "a日b"
    assert "".join(part.text for part in segments(text, [(-5, 2), (3, 99), (4, 2), (50, 60)], 3)) == text
    assert segments(text, [(2, 3)]) == [
        Segment("a", (), (), False),
        Segment("日", (1,), (1,), False),
        Segment("b", (), (), False),
    ]
    assert segments("", [(0, 1)]) == []


def test_little_data_is_a_whole_page(tmp_path: Path) -> None:
    text = Page(write(empty(), tmp_path)).text
    assert "Not measured yet: no file was held out." in text
    assert "nan" not in text.lower().replace("provenance", "")
    one = replace(
        full(),
        adaptations={},
        pretrain=steps(1),
        heldout=full().heldout[:1],
        shares=[],
        functions=[],
        completions=[{"prompt": "a", "text": "ab", "trace": None}],
        lineage=[],
        stages=[("gather", 0.0, "corpus:q@1")],
        redactions={},
    )
    page = Page(write(one, tmp_path))
    assert "One step was recorded, with a loss of 8.00 nats per token." in page.text
    assert "This text was not traced." in page.text
    assert "No address or secret was masked." in page.text
    assert "svg" not in {tag for tag, _ in page.tags}


def test_every_step_after_the_base_has_its_bar_its_functions_and_its_curve(tmp_path: Path) -> None:
    page = Page(write(full("best of all"), tmp_path))
    text = " ".join(page.text.split())
    assert "Functions that Python accepts base 25% adapted 50% best of all 75%" in text
    assert "Share of 16 sampled function bodies" in text
    assert "more than pass or return a constant (0%, 50%, 12%)" in text
    assert "Base not valid Python" in text
    assert "Adapted valid Python nothing" in text
    assert "Best of all valid Python pass" in text
    assert "Valid functions75% 25% at first" in text
    assert "Adapted, 12 steps" in text
    assert "Best of all, 9 steps" in text
    bars = [attrs["style"] for tag, attrs in page.tags if tag == "i"]
    assert len(bars) == 3
    low, high = wilson(0.75, 16)
    assert bars[-1] == f"left: {100 * low:.2f}%; width: {100 * (high - low):.2f}%"


def test_learning_from_rewards_is_drawn_as_such() -> None:
    plain, rewarded = loss_curve("x", steps(9))["wide"], loss_curve("x", rewarded_steps(9))["wide"]
    for words, drawn in (
        ("mean reward", True),
        ("entropy", True),
        ("length of answers", True),
        ("gradient norm", False),
    ):
        assert (words in rewarded) == drawn
        assert (words in plain) != drawn


def test_worse_than_xz_is_said(tmp_path: Path) -> None:
    page = Page(write(replace(full(), heldout_bits_per_byte=2.0), tmp_path))
    assert "needs only 1.74" in " ".join(page.text.split())


def test_large_inputs_stay_a_small_page_and_equal_bytes(tmp_path: Path) -> None:
    data = full()
    large = replace(
        data,
        pretrain=steps(20_000),
        heldout=data.heldout * 400,
        functions=[("def f():", [Written("base", "x" * 900_000, False)] * 3)] * 30,
        completions=[completion("p", "y" * 300_000)] * 30,
        licences={f"L-{i}": i for i in range(500)},
    )
    html = write(large, tmp_path)
    assert len(html.encode()) < 1_500_000
    assert "more characters)" in html
    assert html == write(large, tmp_path)


def test_drawings_survive_odd_values() -> None:
    odd = [{"tokens": 1.0, "loss": math.nan}, {"tokens": 2.0, "loss": math.inf, "norm": 3.0}]
    assert "<svg" in loss_curve("x", odd)["wide"]
    assert "<svg" in loss_curve("x", [{"tokens": 0.0, "loss": 0.0, "rate": 0.0, "norm": 0.0}] * 3)["narrow"]
    drawing = heldout_scatter("x", [Point(HOSTILE, 10, 1.0, 1.0)] * 3)
    assert "<script" not in drawing["wide"]
    assert "#0101" not in drawing["wide"]
    assert "var(--model)" in drawing["wide"]


def test_bars() -> None:
    rows = funnel_bars([("found", 10, 100), ("a", 2, 5), ("b", 1, 5), ("kept", 7, 90)])
    assert [(row["start"], row["length"]) for row in rows] == [(0, 100), (80, 20), (70, 10), (0, 70)]
    # Wilson's interval for 8 of 10, worked out by hand: (0.8 + z²/20 ± z √(0.016 + z²/400)) / (1 + z²/10).
    low, high = wilson(0.8, 10)
    assert (round(low, 3), round(high, 3)) == (0.49, 0.943)
    assert wilson(0.0, 5)[0] == 0.0
    assert wilson(1.0, 5)[1] == 1.0


def test_figures_in_words() -> None:
    assert [size(n) for n in (12, 9_400, 999_900, 24_100_000)] == ["12 B", "9.4 kB", "1 MB", "24.1 MB"]
    assert [duration(s) for s in (2.14, 59.7, 1872.4, 3840)] == ["2.1 s", "1 min 00 s", "31 min 12 s", "1 h 04 min"]
    assert [percent(s) for s in (0, 0.0004, 0.073, 0.784, 0.9999, 1)] == ["0%", "0.04%", "7.3%", "78%", "99.9%", "100%"]
    assert [compact(n) for n in (999, 31_500_000, 0.5)] == ["999", "31.5 M", "0.5"]
    assert fact(2.03e15, "flops") == "2.0 × 10¹⁵"
    assert fact(9.97e15, "flops") == "1.0 × 10¹⁶"
    assert visible("a\r\nb\x00\x7f\u202e") == "a\nb␀⟨U+007F⟩⟨U+202E⟩"
