"""Chat templates: programs in Jinja that come with a model and write its conversations down.

A template is a stranger's program, so it runs in a sandbox and on a meter (`underlay.text.sandbox`). The settings and
helpers are those that templates expect, as `transformers` documents them under "Writing a chat template".
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.environment import Template

from underlay.errors import UserError
from underlay.text.sandbox import MOST_WORK, PER_CHARACTER, Counted, Meter, Sandbox

MOST_SOURCE = 1 << 18
"""Characters of a template."""


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str) -> None:
        """Compile. Raises UserError where the source is too long or no template."""
        if len(source) > MOST_SOURCE:
            raise UserError(f"the chat template has {len(source)} characters; more than {MOST_SOURCE} are not read")
        self.source = source

    @cached_property
    def _code(self) -> Any:
        environment = Sandbox(Meter(MOST_WORK))
        try:
            tree = Counted().visit(environment.parse(self.source))
            return environment.compile(tree)
        except (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError, TypeError) as error:
            raise UserError(f"the chat template is no template: {_first_line(error)}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, str | None],
        reply: bool = False,
        marks: tuple[str, str] = ("", ""),
    ) -> str:
        """Write a conversation down; with `reply`, to where the assistant begins to speak.

        `variables` are the names of special tokens (`bos_token`, ...). `marks` are written before and after what
        `{% generation %}` holds. Raises UserError, with the template's own words, where it refuses or fails.
        """
        code = self._code
        meter = Meter(MOST_WORK + PER_CHARACTER * sum(len(str(m.get("content", ""))) for m in messages))
        environment = Sandbox(meter, *marks)
        template = Template.from_code(environment, code, environment.globals)
        given = {name: value for name, value in variables.items() if value is not None}
        try:
            return "".join(
                template.generate(
                    messages=[dict(m) for m in messages],
                    tools=None,
                    documents=None,
                    add_generation_prompt=reply,
                    **given,
                )
            )
        except UserError:
            raise
        except Exception as error:  # a template is a program of others: all it raises is its fault
            raise UserError(f"the chat template refuses this conversation: {_first_line(error)}") from error

    @cached_property
    def tells(self) -> bool:
        """Whether it says itself, by `{% generation %}`, what the assistant's words are."""
        return any(node.name == "opening" for node in self._tree.find_all(nodes.EnvironmentAttribute))

    @cached_property
    def _tree(self) -> nodes.Template:
        _ = self._code  # refuses what is no template
        return Sandbox(Meter(MOST_WORK)).parse(self.source)

    def literals(self) -> tuple[str, str]:
        """What it writes by itself, and what it looks for in other text, each joined by NUL."""
        sought = {
            constant.value
            for node in self._tree.find_all((nodes.Call, nodes.Compare))
            for constant in node.find_all(nodes.Const)
            if isinstance(constant.value, str)
        }
        constants = {n.value for n in self._tree.find_all(nodes.Const) if isinstance(n.value, str)}
        written = {node.data for node in self._tree.find_all(nodes.TemplateData)} | (constants - sought)
        return "\0".join(sorted(written)), "\0".join(sorted(sought))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
