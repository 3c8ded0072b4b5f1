"""Pairs of instruction and answer from a corpus."""

import ast
from pathlib import Path

import pytest

from underlay.adapt import find_pairs, functions_in
from underlay.adapt.pairs import passages_in
from underlay.data import Document
from underlay.errors import UserError

SOURCE = '''
class Thing:
    def method(self, x):
        """Double it.

        Twice.
        """
        # why
        if x:
            return 2 * x
        return 0

    def without(self):
        return 1


def only_docstring():
    """Nothing else."""


def one_line(): """d"""; return 3


@property
async def decorated(a,
                    b=1):
    """Wait."""
    await a
'''


def document(text: str, language: str = "python", first_line: int = 1) -> Document:
    return Document(text, "a.py", first_line, first_line + text.count("\n"), "MIT", language)


def test_functions_become_pairs_that_are_modules() -> None:
    pairs = list(functions_in(document(SOURCE, first_line=100)))
    assert [pair.prompt.split("(")[0] for pair in pairs] == ["async def decorated", "def method"]
    for pair in pairs:
        ast.parse(pair.prompt + pair.answer)
        line = SOURCE.split("\n")[pair.line - 100]
        assert line.strip().startswith(pair.prompt.split("(")[0])
    method = pairs[1]
    assert method.prompt.endswith('    """\n')
    assert method.answer == "    # why\n    if x:\n        return 2 * x\n    return 0\n"


def test_every_pair_of_real_code_parses(code: list[Path]) -> None:
    pairs = [pair for path in code for pair in functions_in(document(path.read_text("utf-8")))]
    assert len(pairs) > 40
    for pair in pairs:
        ast.parse(pair.prompt + pair.answer)


@pytest.mark.parametrize("text", ["def broken(:", "x = 1\0", "(" * 5000, "print 'old'"])
def test_what_is_no_python_has_no_functions(text: str) -> None:
    assert list(functions_in(document(text))) == []
    assert list(functions_in(document(SOURCE, "text"))) == []


def test_prose_gives_passages_in_its_own_words() -> None:
    text = "\n\n".join(f"Paragraph {n} " + "of some words " * 10 for n in range(20))
    pairs = list(passages_in(document(text, "text")))
    assert len(pairs) >= 2
    for pair in pairs:
        assert f"{pair.prompt}\n\n{pair.answer}" in text
        assert pair.prompt.split("\n")[0] == text.split("\n")[pair.line - 1]


def test_auto_chooses_by_what_there_is() -> None:
    prose = document("\n\n".join("word " * 60 for _ in range(10)), "text")
    assert find_pairs([document(SOURCE)])[0] == "functions"
    assert find_pairs([prose])[0] == "passages"
    with pytest.raises(UserError, match="no Python function"):
        find_pairs([prose], "functions")
    with pytest.raises(UserError, match="no pairs"):
        find_pairs([document("x = 1")])


def test_strings_that_dedenting_would_change_are_left_out() -> None:
    text = 'class A:\n    def f(self):\n        """Doc."""\n        return """a\n            \n        b"""\n'
    assert list(functions_in(document(text))) == []


def test_a_docstring_that_shares_its_line_is_left_out() -> None:
    assert list(functions_in(document('def f():\n    """Doc."""; \\\n    return 1\n'))) == []
