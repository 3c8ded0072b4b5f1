"""Pairs to learn from: what is asked, and what is answered, both taken from the corpus itself.

From Python code: a function's signature and docstring ask for its body. From prose: a passage asks for how it goes on.
"""

import ast
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from underlay.data import Document
from underlay.errors import UserError

PairKind = Literal["functions", "passages"]


@dataclass(frozen=True, slots=True)
class Pair:
    """An instruction, its answer, and the document both came from."""

    prompt: str
    answer: str
    document: str
    """Id of the document."""
    line: int
    """Line of the source at which the prompt starts."""


def find_pairs(documents: Iterable[Document], kind: PairKind | Literal["auto"] = "auto") -> tuple[PairKind, list[Pair]]:
    """All pairs of the documents, in their order; `auto` takes functions where there are enough, else passages.

    Raises UserError where the documents hold no pair of the kind.
    """
    documents = list(documents)
    if kind in ("auto", "functions"):
        pairs = [pair for document in documents for pair in functions_in(document)]
        if kind == "functions" or len(pairs) >= len(documents) / 2:
            if not pairs:
                raise UserError("no Python function with a docstring in the corpus; use `pairs: passages`")
            return "functions", pairs
    pairs = [pair for document in documents for pair in passages_in(document)]
    if not pairs:
        raise UserError("no pairs to learn from: the corpus has neither functions with docstrings nor longer passages")
    return "passages", pairs


def functions_in(document: Document) -> Iterator[Pair]:
    """Functions with a docstring: signature and docstring are the prompt, the body behind them is the answer.

    Both are dedented, so that prompt and answer joined are a module of their own. Documents that are not Python, or
    that this interpreter cannot parse, hold none.
    """
    if document.language != "python":
        return
    tree = _parse(document.text)
    if tree is None:
        return
    lines = document.text.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or ast.get_docstring(node) is None:
            continue
        if len(node.body) < 2 or node.end_lineno is None or node.body[0].end_lineno is None:
            continue
        split = node.body[0].end_lineno
        if node.body[1].lineno <= split:
            continue  # the body goes on behind the docstring on its own line
        whole = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])).split("\n")
        prompt = "\n".join(whole[: split - node.lineno + 1]) + "\n"
        answer = "\n".join(whole[split - node.lineno + 1 :]).rstrip() + "\n"
        if prompt.rstrip().endswith(("'", '"')) and _same(prompt + answer, node):
            yield Pair(prompt, answer, document.id, document.first_line + node.lineno - 1)


def _same(code: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether `code` is this function, but for its docstring's indentation: dedenting can change longer strings."""
    found = _parse(code)
    if found is None or len(found.body) != 1 or type(found.body[0]) is not type(node):
        return False

    def code_of(function: ast.stmt) -> list[str]:
        fields = dict(ast.iter_fields(function))
        return [ast.dump(fields["args"]), *map(ast.dump, fields["body"][1:])]

    return code_of(found.body[0]) == code_of(node)


def passages_in(document: Document, length: int = 240) -> Iterator[Pair]:
    """Neighbouring passages of about `length` characters, cut at empty lines: each asks for the next."""
    passages: list[tuple[int, str]] = []
    line, start, current = document.first_line, document.first_line, ""
    for paragraph in document.text.split("\n\n"):
        current = f"{current}\n\n{paragraph}" if current else paragraph
        line += paragraph.count("\n") + 2
        if len(current) >= length:
            passages.append((start, current))
            start, current = min(line, document.last_line), ""
    for (first, whole), (_, answer) in zip(passages[::2], passages[1::2], strict=False):
        prompt = whole[-2 * length :]
        skipped = whole.count("\n", 0, len(whole) - len(prompt))
        yield Pair(prompt, answer[: 2 * length], document.id, min(first + skipped, document.last_line))


def parses(code: str) -> bool:
    """Whether Python accepts the code as a module."""
    return _parse(code) is not None


def _parse(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in other people's strings
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
