"""The command line: each verb parses, calls one function, prints. No logic lives here.

What the user did wrong is one line and exit code 2; what the machine did wrong is one line and exit code 1, and the
library is whole; Ctrl-C says how to go on. `--debug` shows the traceback instead.
"""

import errno
import sys
from typing import Annotated

import click
import typer
from rich.console import Console

from underlay import __version__
from underlay.cli import doctor, generate, library, run, serve, trace
from underlay.errors import MachineError, UserError

app = typer.Typer(
    help="Underlay: the whole life of a foundation model, with every answer traced to the documents behind it.",
    epilog="Begin with: underlay run recipes/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (run, generate, trace, serve, doctor):
    module.register(app)
app.add_typer(library.app, name="library")

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


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
    del version, debug  # --version acts in its callback, --debug in main


def main() -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    console = Console(stderr=True, highlight=False)
    code = 0
    try:
        code = app(arguments, prog_name="underlay", standalone_mode=False) or 0
    except click.exceptions.Abort:
        console.print("\nStopped; what is done is kept. Run the same command again to go on.")
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has enough
    except (UserError, MachineError, OSError) as error:
        if debug:
            raise
        said = _explain(error)
        if said is None:
            raise
        console.print(f"[bold red]error:[/] {_escape(said)}", soft_wrap=True)
        code = 2 if isinstance(error, UserError) else 1
    sys.exit(code)


def _explain(error: Exception) -> str | None:
    if not isinstance(error, OSError):
        return " ".join(str(error).split("\n"))
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return f"the disk is full{where}; nothing finished is lost: free some space and run the same command again"
    if error.errno in _FORBIDDEN:
        return f"no permission to write or read{where}; check the folder's permissions or set UNDERLAY_LIBRARY"
    return None


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
