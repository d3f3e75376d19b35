"""The command line: one Typer application, one place where errors become a line and an exit code."""

from __future__ import annotations

import functools
import re
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from rectool import __version__, console, processes
from rectool.commands import (
    adopt,
    align,
    compare,
    distill,
    inspect,
    plot,
    prep,
    prep_backbone,
    recommend,
    train_cf,
    train_proj,
    tune_lora,
)
from rectool.commands import eval as evaluation
from rectool.commands.usage import Group, explain
from rectool.errors import RectoolError, Stopped

OURS, MISTAKE, INTERRUPTED, CLOSED, TERMINATED = 1, 2, 130, 141, 143
NO_MEMORY = re.compile("not enough memory|can't allocate memory|out of memory", re.IGNORECASE)


PANELS = {
    "prep": "1. Data",
    "train-cf": "2. Models",
    "tune-lora": "2. Models",
    "distill": "2. Models",
    "align": "2. Models",
    "train-proj": "2. Models",
    "eval": "3. Results",
    "recommend": "3. Results",
    "compare": "3. Results",
    "plot": "3. Results",
    "inspect": "Any artifact",
    "adopt": "Any artifact",
}
"""The commands in the order in which data passes them, each with its part of the way."""

FIRST_STEPS = """\
First steps, offline, in about a minute:

  rectool prep synthetic --out data/synthetic

  rectool train-cf data/synthetic --model mf --out runs/mf

  rectool eval data/synthetic runs/mf --out runs/mf-test

  rectool inspect runs/mf-test

Each line needs what the lines before it made. COMMAND --help ends with examples of its own."""


class Pipeline(Group):
    """Lists commands in the order in which data passes them, under the part of the way that each belongs to."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(PANELS)


app = typer.Typer(
    name="rectool",
    cls=Pipeline,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=FIRST_STEPS,
)
prep_backbone.register(prep.app)
app.add_typer(prep.app, name="prep")
train_cf.register(app)
tune_lora.register(app)
distill.register(app)
align.register(app)
train_proj.register(app)
evaluation.register(app)
recommend.register(app)
compare.register(app)
app.add_typer(plot.app, name="plot")
inspect.register(app)
adopt.register(app)
for registered in [*app.registered_commands, *app.registered_groups]:
    registered.rich_help_panel = PANELS[str(registered.name)]  # type: ignore[attr-defined]


def _show_version(value: bool) -> None:
    if value:
        console.answer(f"rectool {__version__}\n")
        raise typer.Exit


@app.callback()
def rectool(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Recommendation by collaborative filtering joined with large language models.

    Each command does one thing: it reads artifacts and writes one.
    """


@functools.cache
def commands_of(app: typer.Typer) -> Callable[..., Any]:
    """Commands with their flags, read from the signatures of functions, which takes a tenth of a second."""
    return typer.main.get_command(app)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 our fault, 2 the user's mistake, 75 stopped, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    console.tolerate()
    debug = "--debug" in sys.argv
    try:
        _refuse_unreadable(sys.argv)
        code = commands_of(app)(prog_name="rectool", standalone_mode=False)
        if code == INTERRUPTED:  # Typer keeps the interrupt to itself and returns this
            raise KeyboardInterrupt
    except RectoolError as problem:
        if debug and not isinstance(problem, Stopped):
            raise
        _complain(str(problem))
        code = problem.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; no artifact was written")
        code = INTERRUPTED
    except BrokenPipeError:
        console.hang_up()
        code = CLOSED
    except OSError as problem:
        if debug:
            raise
        where = f"{problem.filename}: " if problem.filename is not None else ""
        _complain(f"{where}{problem.strerror or problem}")
        code = MISTAKE
    except SystemExit as end:
        code = end.code
        if code == TERMINATED and processes.is_main():
            console.error("terminated; no artifact was written")
    except Exception as problem:
        if debug:
            raise
        code = _explain(problem)
    processes.end(code if isinstance(code, int) else 0)


def _refuse_unreadable(arguments: list[str]) -> None:
    for argument in arguments:
        if "\0" in argument:  # older versions of Typer ask the system for such a path
            raise RectoolError(f"{argument!a} has a null character, which no path can have; leave it out")
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise RectoolError(f"{argument!a} is not UTF-8; rename the file, or link to it by another name") from None


def _explain(problem: Exception) -> int:
    """One line for a mistake on the command line, or for a fault of ours."""
    if hasattr(problem, "format_message"):  # how Typer reports what was typed
        message = explain(problem)
        if message:  # nothing was asked for: the help that was shown is the answer
            _complain(message)
        return MISTAKE
    if isinstance(problem, MemoryError) or NO_MEMORY.search(str(problem)):
        _complain(
            f"there is too little memory ({' '.join(str(problem).split())[:200] or type(problem).__name__}); "
            "make it smaller (--batch-size, --embedding-size, a smaller model); --dry-run estimates what is needed"
        )
        return MISTAKE
    _complain(f"{type(problem).__name__}: {' '.join(str(problem).split())} (a fault of rectool; --debug tells more)")
    return OURS


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(TERMINATED)


def _complain(message: str) -> None:
    """One line; of several processes the main one tells what all of them see alike."""
    if processes.is_main():
        console.error(message)
    elif processes.started():
        console.error(f"process {processes.rank()}: {message}")
