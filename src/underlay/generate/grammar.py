"""Answers of a given form: before each token, which ones can still lead to a text that fits.

The form (a JSON Schema, a regular expression, a list of choices) becomes a grammar over bytes, and a parser walks the
tokenizer's bytes with it; `llguidance` does both (Earley's algorithm over a lexer of derivatives, CACM 1970 and
J. ACM 1964). So a token may hold parts of characters or cross the borders of words. The text ends, with one of the
request's stop ids, exactly where it is complete.

Schemas and expressions come from strangers. What cannot be understood is an error of the request; so is what would
cost more than `LIMITS` allow, either when it is compiled (ParameterError) or while the answer grows (GrammarError).
"""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.generate.request import Constraint, ParameterError
from underlay.text import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

MOST_CHARACTERS = 65_536
"""Longest schema or list of choices."""
MOST_PATTERN = 4_096
"""Longest regular expression, also within a schema: compiling takes the square of its length."""
MOST_DEPTH = 400
"""Deepest nesting of a schema, in levels of JSON; all that is referred to counts as if it were one chain."""

REMEMBERED = 8
"""So many grammars are kept, for the same one is often asked for again."""

LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
}
"""What a grammar may cost, in llguidance's units: about 0.1 s to compile, 20 ms a token, 40 MB."""

WHITESPACE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""JSON may have a space after a comma and a colon; more could go on forever."""


class GrammarError(UserError):
    """A grammar gives up while an answer grows: a token that it does not allow, or a text too costly to follow."""


class GrammarCompiler:
    """Makes grammars over one tokenizer's bytes. Costs nothing until the first; it may be used from any thread."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        """Take the tokenizer, and how many logits its model has: ids beyond the tokenizer are never allowed."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._lock = Lock()
        self._known: dict[str, LLMatcher] = {}
        """The newest grammars, at the beginning of their texts, by their source."""

    @cached_property
    def _tokens(self) -> "LLTokenizer":
        from llguidance import LLTokenizer

        tokens = _Tokens(self._tokenizer, self._vocabulary)
        return LLTokenizer(cast("TokenizerWrapper", tokens), self._vocabulary + 1)

    def compile(self, constraint: Constraint, stop_ids: frozenset[int]) -> "Grammar":
        """A grammar at the beginning of its text. Raises ParameterError naming `constraint`."""
        source = _source(constraint)
        with self._lock:
            if source not in self._known:
                self._known[source] = self._matcher(source)
                if len(self._known) > REMEMBERED:
                    del self._known[next(iter(self._known))]
            return Grammar(self._known[source].deep_copy(), self._vocabulary, stop_ids)

    def _matcher(self, source: str) -> "LLMatcher":
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(verbose_errors=False, **LIMITS)  # type: ignore[arg-type]
        matcher = LLMatcher(self._tokens, source, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some turn out to be impossible, or too costly, only now
        if matcher.is_error():
            raise ParameterError("constraint", _reason(matcher))
        return matcher


def compile_grammar(
    constraint: Constraint, tokenizer: Tokenizer, vocabulary: int, stop_ids: frozenset[int]
) -> "Grammar":
    """A grammar for one request alone; whoever has many keeps a `GrammarCompiler`. Raises ParameterError."""
    return GrammarCompiler(tokenizer, vocabulary).compile(constraint, stop_ids)


class Grammar:
    """Where the text of one answer stands in its grammar."""

    def __init__(self, matcher: "LLMatcher", vocabulary: int, stop_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._stop_ids = frozenset(index for index in stop_ids if 0 <= index < vocabulary)
        self._ends = torch.tensor(sorted(self._stop_ids), dtype=torch.int64)
        self._bits = np.zeros(vocabulary // 32 + 1, np.int32)
        self._ended = False

    @property
    def accepting(self) -> bool:
        """Whether the text so far is complete, though it may go on."""
        return self._ended or self._matcher.is_accepting()

    @property
    def finished(self) -> bool:
        """Whether the text is complete and cannot go on."""
        return self._ended or (self._matcher.is_stopped() and not self._matcher.is_error())

    def allowed(self) -> Tensor:
        """Which tokens may come next: (vocabulary,) bool, a new tensor on the CPU. Raises GrammarError."""
        if self.finished:
            mask = torch.zeros(self._vocabulary, dtype=torch.bool)
        else:
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            self._checked()
            bits = np.unpackbits(self._bits.view(np.uint8), count=self._vocabulary, bitorder="little")
            mask = torch.from_numpy(bits.view(np.bool_))
        mask[self._ends] = self.accepting
        return mask

    def accept(self, token: int) -> None:
        """Go on with a token that is allowed. Raises GrammarError where it is not, or where it costs too much."""
        if token in self._stop_ids:
            if not self.accepting:
                raise GrammarError("the answer ended before it was complete")
            self._ended = True
            return
        if self.finished:
            raise GrammarError("the answer goes on after it was complete")
        self._matcher.consume_token(token)
        self._checked()

    def _checked(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"the constraint cannot be followed further: {_reason(self._matcher)}")

    def check(self) -> None:
        """Assert what always holds: the text can go on, or it is complete; it never ends halfway."""
        if self._matcher.is_error():
            return
        assert not self.finished or self.accepting
        mask = self.allowed()
        assert mask.shape == (self._vocabulary,)
        assert bool(mask.any()) or self.finished
        assert bool(mask[self._ends].all()) if self.accepting else not bool(mask[self._ends].any())


class _Tokens:
    """A tokenizer as llguidance reads it: the bytes of each id, none for what is special."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        # One more id stands for the end of the text; which tokens end an answer is a matter of the request.
        self.eos_token_id = vocabulary
        special = tokenizer.special_ids
        self.tokens = [b"" if index in special else tokenizer.decode_bytes((index,)) for index in range(vocabulary + 1)]

    def __call__(self, text: str) -> list[int]:
        """Only grammars that force tokens ask for this; ours do not."""
        raise AssertionError(text)


def _source(constraint: Constraint) -> str:
    """The grammar in llguidance's language. `no_forcing`: the model chooses how a text is cut into tokens."""
    head = '%llguidance {"no_forcing": true}\n'
    if constraint.json_schema is not None:
        _limit("json_schema", constraint.json_schema, MOST_CHARACTERS)
        return f"{head}start: %json {json.dumps(_schema(constraint.json_schema))}"
    if constraint.regex is not None:
        return f"{head}start: /{_regex(constraint.regex)}/"
    assert constraint.choices is not None
    _limit("choices", "".join(constraint.choices), MOST_CHARACTERS)
    # A name in capitals is one word to the lexer, however many choices there are.
    return f"{head}start: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice) for choice in constraint.choices)


def _limit(name: str, text: str, most: int) -> None:
    if len(text) > most:
        raise ParameterError("constraint", f"{name}: {len(text)} characters are more than the {most} allowed")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ParameterError("constraint", f"{name}: holds half a surrogate pair, which is not text")


def _regex(regex: str) -> str:
    from llguidance import regex_to_lark

    _limit("regex", regex, MOST_PATTERN)
    if (len(regex) - len(regex.rstrip("\\"))) % 2:
        raise ParameterError("constraint", "regex: ends in a backslash with nothing behind it")
    return regex_to_lark(regex, "")


def _schema(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParameterError("constraint", f"json_schema: not JSON: {error}") from error
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ParameterError("constraint", "json_schema: not a JSON Schema, which is an object")
    if "x-guidance" in schema:
        raise ParameterError("constraint", "json_schema: holds x-guidance, which is not JSON Schema; leave it out")
    if (depth := _chained(schema)) > MOST_DEPTH:
        raise ParameterError(
            "constraint", f"json_schema: nested {depth} deep, through $ref too; {MOST_DEPTH} is the most"
        )
    for value in _within(schema):
        for pattern in _patterns(value):
            _limit("json_schema: a pattern", pattern, MOST_PATTERN)
    return schema | {"x-guidance": WHITESPACE}


def _chained(schema: dict[str, Any]) -> int:
    """No fewer levels than any chain of references can lead through; compiling takes stack for each."""
    found = [value["$ref"] for value in _within(schema) if isinstance(value, dict) and "$ref" in value]
    targets = {reference: _target(schema, reference) for reference in found if isinstance(reference, str)}
    return _depth(schema) + sum(map(_depth, targets.values()))


def _target(schema: dict[str, Any], reference: str) -> Any:
    """What a reference leads to; all of the schema where that is hard to say."""
    value: Any = schema
    for step in reference.removeprefix("#").split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return schema
    return value


def _within(value: Any) -> Iterator[Any]:
    """A value and all that is in it."""
    waiting = [value]
    while waiting:
        yield (value := waiting.pop())
        waiting += _children(value)


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [child for parent in level for child in _children(parent)]
    return depth


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _patterns(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(pattern := value.get("pattern"), str):
            yield pattern
        if isinstance(named := value.get("patternProperties"), dict):
            yield from named


def _reason(matcher: "LLMatcher") -> str:
    """Why a grammar failed, in one line, without the source that llguidance repeats."""
    text = re.split(r"\n *1 \| |<non-verbose/>", matcher.get_error())[0]
    text = re.sub(r"^at \d+\(\d+\): ", "", text)
    if (regex := re.match(r"invalid regex .*error: (.*)$", text, re.DOTALL)) is not None:
        text = f"regex: {regex[1]}"
    text = text.replace("failed to compile JSON schema:", "json_schema:").replace(
        'failed to parse "%json":', "json_schema:"
    )
    text = text.replace("NoExtensionBias", "no text can fit it")
    return " ".join(text.split())[:200]
