"""MediaWiki dumps: articles found one by one, and wikitext as a reader sees it."""

import bz2
from pathlib import Path

import pytest
from gather_world import DATA, gathered, only, outcome, real
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.data.gather.readers.wikitext import Wikitext

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
    <namespaces>
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""


def article(title: str, text: str, more: str = "", ns: int = 0, when: str = "2019-01-02T03:04:05Z") -> str:
    return (
        f"  <page>\n    <title>{title}</title>\n    <ns>{ns}</ns>\n    <id>7</id>\n{more}    <revision>\n"
        f"      <timestamp>{when}</timestamp>\n      <model>wikitext</model>\n"
        f'      <text bytes="1" xml:space="preserve">{text}</text>\n    </revision>\n  </page>\n'
    )


def test_a_dump(tmp_path: Path) -> None:
    pages = [
        article(
            "Eins &amp; Zwei",
            "Das ist ''ein'' [[Wort|Wörtchen]].&lt;ref&gt;Quelle&lt;/ref&gt; [[Datei:a.png|mini|Bild]]",
        ),
        article("Alt", "#WEITERLEITUNG [[Eins]]", '    <redirect title="Eins" />\n'),
        article("Diskussion:Eins", "Nein.", ns=1),
        article("Leer", "{{Vorlage}}"),
        article("Neu", "Neuer Text.", when="2024-01-02T03:04:05Z"),
        "  <page>\n    <title>Ohne Text</title>\n  </page>\n",
    ]
    path = tmp_path / "wiki.xml.bz2"
    data = (HEAD + "".join(pages) + "</mediawiki>\n").encode()
    path.write_bytes(bz2.compress(data))
    documents, ledger = outcome(tmp_path, path)
    first, second = documents
    assert (first.text, first.source) == ("Eins & Zwei\n\nDas ist ein Wörtchen.\n", f"{path}#Eins & Zwei")
    assert (first.date, first.licence, first.language, first.first_line) == ("2019-01-02", "CC-BY-SA-3.0", "text", 1)
    assert data[first.offset :].startswith(b"<page>")
    assert (second.text, second.licence, second.first_line) == ("Neu\n\nNeuer Text.\n", "CC-BY-SA-4.0", 5)
    assert [(entry.line, entry.reason) for entry in ledger] == [
        (2, "redirect"),
        (3, "no-article"),
        (4, "empty"),
        (6, "bad-page"),
    ]


def test_broken_pages_cost_themselves_alone(tmp_path: Path) -> None:
    pages = [
        article("A", "Good.").encode(),
        article("B", "Bad.").encode().replace(b"Bad", b"B\xe4d"),
        article("C", "x" * 5000).encode(),
        article("D", "Good too.").encode(),
        article("E", "Cut off.").encode()[:80],
    ]
    path = tmp_path / "wiki.xml"
    path.write_bytes(HEAD.encode() + b"".join(pages))
    documents, ledger = outcome(tmp_path, path, max_document_bytes=1024)
    assert [document.text.split("\n")[0] for document in documents] == ["A", "D"]
    assert [(entry.line, entry.reason) for entry in ledger] == [(2, "not-utf8"), (3, "too-large"), (5, "truncated")]
    data = path.read_bytes()
    assert all(data[entry.offset :].startswith(b"<page>") for entry in ledger)
    assert ledger[1].bytes == len(pages[2].strip())


def test_other_xml_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<note>words</note>\n")
    document = only(gathered(tmp_path, tmp_path / "a.xml"))
    assert (document.text, document.language) == ("<note>words</note>\n", "xml")


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("[[A]], [[B|b]]s, [[C#part]], [[:Category:D]]", "A, bs, C, Category:D"),
        ("[[File:x.jpg|thumb|A [[link]] and {{t}}]]text", "text"),
        ("[[Image:x.jpg]][[Category:Y]][[fr:Titre]]text", "text"),
        ("[http://a.example words here] [http://b.example] [//c.example see]", "words here see"),
        ("a{{t|b={{u|[[c]]}}}}d", "ad"),
        ("{{lang|fr|bonjour}} {{convert|5|km|mi}} {{nowrap|no wrap}} a{{snd}}b", "bonjour 5 km no wrap a – b"),
        ("{{convert|5|to|7|km}} {{lang-de|Haus}} {{circa|1900}}", "5–7 km Haus c. 1900"),
        ("one<ref>note {{cite}}</ref> two<ref name=x /> three", "one two three"),
        ("a<!-- b <ref name=x -->c", "ac"),
        ("a<!-- never closed", "a"),
        ("<nowiki>[[not a link]]</nowiki> <math>x_{{1}}</math>", "[[not a link]] x_{{1}}"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("before\n{| class=x\n! head\n|-\n| cell {{t|}}\n|}\nafter", "before\n\nafter"),
        ("{|\n|\n{|\n|inner\n|}\n|}\nafter", "after"),
        (
            "== Empty ==\n== Full ==\ntext\n=== Deep ===\n==== Deeper ====\nmore\n== See also ==\n{{t}}",
            "Full\n\ntext\n\nDeep\n\nDeeper\n\nmore",
        ),
        ("* one\n** two\n# three\n: four\n; five", "- one\n- two\n- three\nfour\nfive"),
        ("Name ({{IPA|x}}; {{lang-x}}) is", "Name is"),
        ("Name ({{IPA|x}}; born 1900) is", "Name (born 1900) is"),
        ("a &amp;nbsp; b&nbsp;c &ndash; d", "a   b c – d".replace("   ", " &nbsp; ")),
        ("__TOC__a __not", "a __not"),
        ("open {{ and [[ and }} and ]]", "open and ]]"),
        ("}} ]] |} text", "}} ]] |} text"),
        ("<gallery>\na.jpg|words\n</gallery>x", "x"),
    ],
)
def test_wikitext(wikitext: str, text: str) -> None:
    assert Wikitext().plain(wikitext) == text


MARKS = [
    "{{",
    "}}",
    "[[",
    "]]",
    "{|",
    "\n{|",
    "\n|}",
    "|",
    "<ref>",
    "</ref>",
    "<ref/>",
    "<!--",
    "-->",
    "<nowiki>",
    "</nowiki>",
    "<",
    ">",
    "=",
    "\n==",
    "'''",
    "[http://a ",
    "]",
    "(",
    ")",
    "word ",
    "\n",
    "&lt;",
    "File:",
    "*",
    "<br>",
]


@given(st.lists(st.sampled_from(MARKS), max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_wikitext_becomes_text(marks: list[str]) -> None:
    text = Wikitext().plain("".join(marks))
    assert text == text.strip()
    assert Wikitext().plain("plain words.") == "plain words."


@pytest.mark.parametrize("mark", MARKS)
def test_a_megabyte_of_one_mark_comes_to_an_end(mark: str) -> None:
    assert len(Wikitext().plain(mark * (1_000_000 // len(mark)))) <= 1_000_000


@real("wikipedia-xml")
def test_real_dumps(tmp_path: Path) -> None:
    documents, ledger = outcome(tmp_path, DATA / "wikipedia-xml" / "*.bz2")
    assert len(documents) == 111
    whole = [document for document in documents if "p000000010p" in document.source]
    assert {document.licence for document in whole} == {"CC-BY-SA-3.0"}
    found = [entry.detail for entry in ledger if entry.reason not in ("redirect", "no-article")]
    assert found == ["a MediaWiki dump in UTF-16-LE; make it UTF-8, as dumps are"]
    by_title = {document.text.partition("\n")[0]: document.text for document in documents}
    assert "Anarchism" in by_title
    assert by_title["Anarchism"].split("\n\n")[1].startswith("Anarchism is a political philosophy")
    for mark in ("[[", "{{", "]]", "<ref", "'''", "&nbsp;"):
        assert sum(mark in text for text in by_title.values()) <= len(by_title) // 20, mark
