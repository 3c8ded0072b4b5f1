"""`underlay data examples` and `underlay data doctor` as a person meets them."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console
from typer.testing import CliRunner

from underlay.adapt.doctor import Diagnosis, Rendered
from underlay.cli import app
from underlay.cli.tokens import show_diagnosis, with_weights
from underlay.library import Library, Order
from underlay.library.draft import Draft
from underlay.models import LlamaConfig
from underlay.models.storage import save_config
from underlay.text import Message, Tokenizer, train_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "text"))
from token_kinds import KINDS, TEXTS

TALKS = [
    {"instruction": "Say hello", "input": "in German", "output": "Guten Tag, schöne Grüße!"},
    {"instruction": "Add", "output": ""},
    {"instruction": "Show <|end|>", "output": "No [bold]thanks[/bold].\n\nBye"},
]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(map(json.dumps, TALKS)))
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Models without weights: nothing here computes with one."""
    found = Library(tmp_path_factory.mktemp("library"))
    make, config = KINDS["byte-level"]
    endless = {**config, "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    for name, tokenizer in (
        ("own", train_tokenizer(TEXTS, 400)),
        ("base", Tokenizer(make(), config)),
        ("endless", Tokenizer(make(), endless)),
    ):

        def work(draft: Draft, tokenizer: Tokenizer = tokenizer) -> None:
            tokenizer.save(draft.folder)
            save_config(LlamaConfig(depth=1, vocabulary=tokenizer.size, context=128), draft.folder)

        found.make(Order("model", name, "import", {}), work)
    return found


def underlay(library: Library, *arguments: str | Path) -> Ran:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"UNDERLAY_LIBRARY": str(library.root)})
    return Ran(result.exit_code, result.stdout, result.stderr)


def complained(ran: Ran, said: str) -> None:
    assert ran.code == 2, ran
    (line,) = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert said in line


def test_files_become_an_artifact_that_tells_what_it_left_out(library: Library, talks: Path) -> None:
    ran = underlay(library, "data", "examples", talks, "--name", "talks", "--licence", "MIT")
    assert ran.code == 0
    assert "2 conversation from instruction, output" in ran.out
    assert f"1 left out: the output is empty, first at {talks}:2" in ran.out
    ran = underlay(library, "data", "examples", talks, "--name", "talks", "--licence", "MIT", "--json")
    found = json.loads(ran.out)
    assert found["reference"] == library.find("examples:talks").reference
    assert (found["examples"], found["form"], list(found["licences"])) == (2, "conversation", ["MIT"])


def test_every_option_is_heeded(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "reviews.txt"
    path.write_text("review,stars,split\ngood,5,train\nbad,1,train\nmeh,3,train\nodd,2,test\n")
    options = ["--column", "text=review", "--column", "label=stars", "--where", "split=train", "--layout", "csv"]
    ran = underlay(
        library, "data", "examples", path, "--name", "r", "--limit", "2", "--form", "label", *options, "--json"
    )
    found = json.loads(ran.out)
    assert (found["examples"], found["form"], found["columns_not_read"]) == (2, "label", ["split"])
    complained(underlay(library, "data", "examples", path, "--name", "r"), "say what it is with `layout`")
    complained(underlay(library, "data", "examples", path, "--name", "r", "--column", "text"), "--column text: write")
    problem = tmp_path / "sum.jsonl"
    problem.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    worked = json.loads(underlay(library, "data", "examples", problem, "--name", "w", "--worked", "--json").out)
    assert worked["form"] == "conversation"


def test_the_doctor_shows_tokens_and_totals(library: Library, talks: Path) -> None:
    ran = underlay(library, "data", "doctor", "own", talks)
    assert ran.code == 0, ran
    assert "in German<|end|><|assistant|>«Guten Tag, schöne Grüße!<|end|>»" in ran.out
    assert "<|user|>Show <|end|><|end|>" in ran.out
    assert "«No [bold]thanks[/bold].↵\n↵\nBye<|end|>»" in ran.out
    assert "✓ nothing is wrong" in ran.out
    assert "longer than 128" in ran.out
    assert f"note: 1 left out: the output is empty, first at {talks}:2" in ran.err
    assert "conversation 2" not in underlay(library, "data", "doctor", "own", talks, "--show", "1").out


def test_an_artifact_and_its_file_are_looked_at_alike(library: Library, talks: Path) -> None:
    underlay(library, "data", "examples", talks, "--name", "talks")
    of_file = json.loads(underlay(library, "data", "doctor", "own", talks, "--json").out)
    of_artifact = json.loads(underlay(library, "data", "doctor", "own", "examples:talks", "--json").out)
    assert of_file == of_artifact
    assert of_file["conversations"] == len(of_file["shown"]) == 2
    assert of_file["tokens"] == sum(len(one) for one in of_file["shown"])
    assert of_file["learned"] == sum(token["weight"] for one in of_file["shown"] for token in one)
    assert of_file["problems"] == []
    stray = underlay(library, "data", "doctor", "own", "examples:talks", "--form", "label")
    complained(stray, "was read already, so --form has no meaning")
    complained(underlay(library, "data", "doctor", "own", "examples:none"), "no such artifact")


def test_a_mistake_is_exit_code_2_and_one_line(library: Library, talks: Path) -> None:
    ran = underlay(library, "data", "doctor", "endless", talks, "--show", "0")
    complained(ran, f"end not learned, 2 times, first at {talks}:1: ")
    assert "✗ end not learned" in ran.out
    ran = underlay(library, "data", "doctor", "endless", talks, "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["problems"][0]["check"] == "end not learned"
    complained(
        underlay(library, "data", "doctor", "own", talks, "--context", "4"), "no conversation fits into 4 tokens"
    )


def test_a_template_can_be_tried(library: Library, talks: Path) -> None:
    complained(underlay(library, "data", "doctor", "base", talks), "give it a template: alpaca")
    ran = underlay(library, "data", "doctor", "base", talks, "--template", "chatml")
    assert ran.code == 0, ran
    assert "<|im_start|>user↵\nSay hello↵\n↵\nin German<|im_end|>↵" in ran.out
    complained(
        underlay(library, "data", "doctor", "base", talks, "--template", "llama3"), "no token <|start_header_id|>"
    )


def test_in_colour_what_is_learned_is_green_and_no_token_is_lost() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    said = "日本 👍🏽 ok\n"
    found = Rendered.of(tokenizer, [Message("user", "a\x1b[31mb"), Message("assistant", said)])
    text = with_weights(found, colour=True)
    assert text.plain == "<|bos|><|user|>a␛[31mb<|end|><|assistant|>日本 👍🏽 ok↵\n<|end|>"
    green = "".join(text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style))
    assert green == "日本 👍🏽 ok↵<|end|>"
    console = Console(record=True, force_terminal=True, width=80, file=None)
    with console.capture() as captured:
        show_diagnosis(console, Diagnosis(100, shown=[found]))
    assert " read only " in captured.get()
    assert "«" not in captured.get()
