"""How artifacts are named: `kind:name`, `kind:name@version`, or just `name` where only one kind has it."""

import re
from dataclasses import dataclass
from typing import get_args

from underlay.errors import UserError
from underlay.library.manifest import Kind

_REFERENCE = re.compile(
    r"(?:(?P<kind>[a-z]+):)?(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})(?:@(?P<version>[0-9a-f]{1,64}))?"
)
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Reference:
    """A name that people write; `version` is any prefix of the content hash."""

    name: str
    kind: Kind | None = None
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read `kind:name@version`. Raises UserError for anything else; a name can never leave the library."""
        match = _REFERENCE.fullmatch(text)
        if not match:
            raise UserError(f"{text!r} is no reference: write kind:name or kind:name@version, such as model:quickstart")
        kind = next((known for known in KINDS if known == match["kind"]), None)
        if match["kind"] and kind is None:
            raise UserError(f"{text!r}: {match['kind']!r} is no kind of artifact; kinds are {', '.join(KINDS)}")
        return cls(match["name"], kind, match["version"])

    def __str__(self) -> str:
        kind = f"{self.kind}:" if self.kind else ""
        return f"{kind}{self.name}" + (f"@{self.version}" if self.version else "")


def one_of(kind: str) -> str:
    """A kind with its article, as sentences need it; those in the plural have none."""
    if kind in ("attributes", "examples"):
        return kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
