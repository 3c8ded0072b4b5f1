"""The sandbox and the meter that chat templates run on.

Jinja's own sandbox keeps a template from Python's insides (no attributes that begin with an underscore, no files,
nothing that changes what it is given). The meter keeps it from using up the machine: every step of a loop, every call
and every character it makes is counted, and what could grow by leaps is measured before it is made.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from underlay.errors import UserError

MOST_WORK = 4 << 20
"""What a rendering may take, besides some for each character of its messages: a character costs 1, a step of a loop or
a value 8, a call 32."""
PER_CHARACTER = 256
MOST_NUMBER = 1 << 256

# Those whose result cannot be told from their arguments, or that no template has a use for.
_LEFT_OUT = (
    *("attr", "batch", "center", "filesizeformat", "pprint", "random", "round", "slice", "truncate", "urlize"),
    *("wordwrap", "xmlattr"),
)
_WIDTH = re.compile(r"%(\([^)]*\))?[-+ #0]*[0-9.*]")
_PADDING = {
    "center",
    "ljust",
    "rjust",
    "zfill",
    "expandtabs",
    "format",
    "format_map",
    "translate",
    "encode",
    "to_bytes",
}


class Meter:
    """What a rendering may still use."""

    def __init__(self, left: int) -> None:
        self._left = left

    def charge(self, units: int) -> None:
        """Use some. Raises UserError where there is not as much."""
        self._left -= units
        if self._left < 0:
            raise UserError(
                "the chat template asks for more steps or text than a conversation needs; mend the template"
            )

    def weigh(self, value: Any, depth: int = 0) -> None:
        """Charge for writing a value out, whatever is in it as often as it is in it."""
        if isinstance(value, str | bytes):
            self.charge(len(value))
        elif isinstance(value, Mapping | list | tuple) and depth < 100:
            for part in [*value, *value.values()] if isinstance(value, Mapping) else value:
                self.weigh(part, depth + 1)
        self.charge(8)


class _Names(Namespace):
    """`namespace()`, but for names that mean something to Python or Jinja."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith(("_", "jinja_")):
            raise TemplateError(f"a namespace cannot hold {name}")
        super().__setitem__(name, value)


class _Generation(Extension):
    """`{% generation %}`: what stands in it is the assistant's; two marks tell where it begins and ends."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        before, after = (
            nodes.Output([nodes.EnvironmentAttribute(name)]).set_lineno(line) for name in ("opening", "closing")
        )
        return [before, nodes.Scope(body).set_lineno(line), after]


class Counted(NodeTransformer):
    """Puts the meter where Jinja has no hook: around loops, joined strings and slices."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """Count each step of a loop."""
        if node.recursive:
            raise TemplateError("recursive loops are not allowed")
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "counted_steps")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """Measure what is joined by `~`."""
        self.generic_visit(node)
        node.nodes = [_filtered(part, "counted_text") for part in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """Measure slices."""
        self.generic_visit(node)
        return _filtered(node, "counted_value") if isinstance(node.arg, nodes.Slice) else node


def _filtered(node: nodes.Node, name: str) -> nodes.Expr:
    assert isinstance(node, nodes.Expr)
    found = nodes.Filter(node, name, [], [], None, None)
    found.lineno, found.environment = node.lineno, node.environment
    return found


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, meter: Meter, opening: str = "", closing: str = "") -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # or it would compute constants before there is a meter
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
            finalize=self._written,
        )
        self._meter = meter
        self.opening, self.closing = opening, closing
        for name in _LEFT_OUT:
            del self.filters[name]
        replaced = {"join": self._join, "replace": self._replace, "indent": self._indent, "format": self._format}
        filters = {**self.filters, **replaced, "tojson": self._tojson}
        self.filters = {name: self._metered(function) for name, function in filters.items()}
        self.filters |= {"counted_steps": self._steps, "counted_text": self._written, "counted_value": self._measured}
        self.globals = {
            "range": self._range,
            "dict": dict,
            "namespace": _Names,
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.now().strftime(form),
        }

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # keeps Jinja's note of what to hand in first
        def measured(*args: Any, **kwargs: Any) -> Any:
            for value in (*args, *kwargs.values()):
                if isinstance(value, str | list | tuple | dict):
                    self._meter.weigh(value)
            return self._measured(function(*args, **kwargs))

        return measured

    def _measured(self, value: Any) -> Any:
        self._meter.charge(1 + (len(value) if isinstance(value, str | bytes | list | tuple | dict) else 0))
        return value

    def _written(self, value: Any) -> Any:
        self._meter.weigh(value)
        return value

    def _steps(self, values: Any) -> Any:
        for value in values:
            self._meter.charge(8)
            yield value

    def _range(self, *args: int) -> range:
        values = range(*args)
        if len(values) > 1 << 12:  # sums and searches over it are not metered
            raise TemplateError("range is too long")
        return values

    def _join(self, value: Any, d: str = "", attribute: str | int | None = None) -> str:
        parts: list[str] = []
        for item in value:
            part = item if attribute is None else self.getitem(item, attribute)
            self._meter.weigh(part)
            self._meter.charge(len(d))
            parts.append(str(part))
        return str(d).join(parts)

    def _replace(self, s: Any, old: str, new: str, count: int = -1) -> str:
        text = str(s)
        self._meter.charge(len(text) + text.count(str(old)) * len(str(new)))
        return text.replace(str(old), str(new), -1 if count is None else count)

    def _indent(self, s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        space = width if isinstance(width, str) else " " * min(width, 256)
        lines = str(s).split("\n")
        self._meter.charge(len(lines) * len(space))
        return "\n".join(space + line if (line or blank) and (i or first) else line for i, line in enumerate(lines))

    def _format(self, value: str, *args: Any, **kwargs: Any) -> Any:
        return self.call_binop({}, "%", value, args or kwargs)

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        space = None if indent is None else min(int(indent), 16)
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=space, separators=separators, sort_keys=sort_keys)
        parts = []
        for part in encoder.iterencode(value):
            self._meter.charge(len(part))
            parts.append(part)
        return "".join(parts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic whose result is measured before it is computed."""
        texts = (str, bytes, list, tuple)
        if operator == "*" and (isinstance(left, texts) or isinstance(right, texts)):
            sequence, count = (left, right) if isinstance(left, texts) else (right, left)
            self._meter.charge(len(sequence) * max(int(count), 0))
        elif operator == "%" and isinstance(left, texts):
            self._meter.weigh(right)
            if isinstance(left, bytes) or _WIDTH.search(str(left)):
                raise TemplateError("a format with widths is not supported")
        elif operator == "**" and (abs(left) > MOST_NUMBER or abs(right) > 256):
            raise TemplateError("a power is too large")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > MOST_NUMBER:
            raise TemplateError("a number is too large")
        return self._measured(result)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call; methods of strings that could make much of little are refused or measured."""
        name, method = getattr(__obj, "__name__", ""), getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        __self._meter.charge(32)
        if isinstance(owner, int | float | bytes):
            raise TemplateError(f"{name}() of a number or of bytes is not supported")
        if isinstance(owner, str):
            if name in _PADDING:
                raise TemplateError(f"{name}() of a string is not supported")
            if name == "replace" and args[1:]:
                __self._meter.charge(owner.count(args[0]) * len(args[1]))
            if name == "join" and args:
                args = (list(__self._steps(args[0])), *args[1:])
                __self._meter.weigh(args[0])
                __self._meter.charge(len(owner) * len(args[0]))
        return __self._measured(super().call(__context, __obj, *args, **kwargs))


def _refuse(message: str) -> None:
    raise TemplateError(message)
