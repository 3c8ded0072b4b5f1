"""The command line: each verb parses, calls one function, prints. No logic lives here.

What the user did wrong is one line and exit code 2; what the machine did wrong is one line and exit code 1, and the
library is whole; Ctrl-C says how to go on. `--debug` shows the traceback instead.
"""

import errno
import os
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from underlay import __version__
from underlay.cli import (
    adapt,
    answers,
    attack,
    card,
    curate,
    data,
    doctor,
    embed,
    examples,
    fill,
    generate,
    ladder,
    library,
    plan,
    prompt,
    quantise,
    run,
    serve,
    trace,
    transfer,
    transferring,
)
from underlay.errors import MachineError, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


class _Verbs(TyperGroup):
    """Turns what goes wrong into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was asked for."""
        console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if ctx.invoked_subcommand in ("run", "adapt", "ladder", "transfer", "data"):
                console.print("\nStopped; what is done is kept. Run the same command again to go on.")
            raise typer.Exit(130) from None
        except (UserError, MachineError, OSError) as error:
            said = _explain(error)
            if said is None or ctx.params.get("debug"):
                raise
            if os.environ.get("RANK", "0") == "0":  # of many processes one speaks
                console.print("error:", style="bold red", end=" ")
                console.print(said, markup=False)
            raise typer.Exit(2 if isinstance(error, UserError) else 1) from error


def _explain(error: Exception) -> str | None:
    """What to tell the user of an error; None where it is a defect that deserves its traceback."""
    if not isinstance(error, OSError):
        return " ".join(str(error).split("\n"))
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return f"the disk is full{where}; what is done is kept: free some space and run the same command again"
    if error.errno is None:  # numpy and pyarrow do not always say
        return f"writing failed ({error}); is the disk full? What is done is kept: run the same command again"
    if error.errno in _FORBIDDEN:
        return f"no permission to write or read{where}; check the folder's permissions or set UNDERLAY_LIBRARY"
    return None


app = typer.Typer(
    cls=_Verbs,
    help="Underlay: the whole life of a foundation model, with every answer traced to the documents behind it.",
    epilog="Begin with: underlay run recipes/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    run,
    curate,
    card,
    data,
    transferring,
    adapt,
    attack,
    prompt,
    ladder,
    quantise,
    generate,
    fill,
    embed,
    trace,
    serve,
    doctor,
    plan,
):
    module.register(app)
examples.register(data.app)
answers.register(data.app)
transfer.register(library.app)
app.add_typer(library.app, name="library")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"underlay {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    del version, debug  # --version acts in its callback, --debug in _Verbs


def main() -> None:
    """Run the command line and exit."""
    app(prog_name="underlay")
