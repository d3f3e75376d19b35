"""The command line: one Typer application, one place where errors become a line and an exit code."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer
from typer.core import TyperGroup

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
from rectool.errors import RectoolError, Stopped

OURS, MISTAKE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class PipelineOrder(TyperGroup):
    """Lists commands in the order in which data passes them."""

    order = (
        "prep",
        "train-cf",
        "tune-lora",
        "distill",
        "align",
        "train-proj",
        "eval",
        "recommend",
        "compare",
        "plot",
        "inspect",
        "adopt",
    )

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return sorted(self.commands, key=self.order.index)


app = typer.Typer(
    name="rectool",
    cls=PipelineOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: rectool prep synthetic --out data/synthetic",
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


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"rectool {__version__}\n")
        raise typer.Exit


@app.callback()
def rectool(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Recommendation by collaborative filtering joined with large language models.

    Each command does one thing: it reads artifacts and writes one.
    """


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 our fault, 2 the user's mistake, 75 stopped, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    debug = "--debug" in sys.argv
    try:
        _refuse_undecodable(sys.argv)
        code = app(prog_name="rectool", standalone_mode=False)
        if code == INTERRUPTED:  # Typer keeps the interrupt to itself and returns this
            raise KeyboardInterrupt
    except RectoolError as problem:
        if debug and not isinstance(problem, Stopped):
            raise
        _complain(str(problem))
        code = problem.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; nothing was written")
        code = INTERRUPTED
    except OSError as problem:
        if debug:
            raise
        _complain(" ".join(str(problem).split()))
        code = MISTAKE
    except SystemExit as end:
        code = end.code
    except Exception as problem:
        if debug:
            raise
        code = _explain(problem)
    processes.end(code if isinstance(code, int) else 0)


def _refuse_undecodable(arguments: list[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise RectoolError(f"{argument!a} is not UTF-8; rename the file, or link to it by another name") from None


def _explain(problem: Exception) -> int:
    """One line for a mistake on the command line, or for a fault of ours."""
    context = getattr(problem, "ctx", None)
    format_message = getattr(problem, "format_message", None)
    if format_message is not None:  # how Typer reports what was typed
        message = " ".join(format_message().split()).rstrip(".").replace("Value error, ", "")
        if message:  # nothing was asked for: the help that was shown is the answer
            where = f"; see {context.command_path} --help" if context is not None else ""
            _complain(message + where)
        return MISTAKE
    _complain(f"{type(problem).__name__}: {' '.join(str(problem).split())} (a fault of rectool; --debug tells more)")
    return OURS


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    if processes.is_main():
        console.error("terminated; nothing was written")
    sys.exit(TERMINATED)


def _complain(message: str) -> None:
    """One line; of several processes the main one tells what all of them see alike."""
    if processes.is_main():
        console.error(message)
    elif processes.started():
        console.error(f"process {processes.rank()}: {message}")
