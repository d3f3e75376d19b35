"""Flags from settings: a command's parameters are dataclasses, and each of their fields is a flag."""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from rectool import processes
from rectool.commands.options import Resumable
from rectool.commands.usage import meant
from rectool.errors import RectoolError, WrongKind
from rectool.settings import flag_name

ON_THE_WAY = {
    *("overwrite", "update", "resume", "dry_run", "settings", "quiet", "json", "debug"),
    *("max_time", "keep", "checkpoint_minutes"),
}
"""Settings of how a command runs, not of what it makes: not part of the command that rebuilds it."""
LARGEST = 1 << 20
"""Bytes of a file of settings."""


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str], shows_kept: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function whose parameters are dataclasses of settings as a command.

    Each field becomes a flag (see `rectool.settings.setting`), in one help panel per dataclass, whose
    class attribute `panel` is its title.

    Args:
        examples: command lines for the end of `--help`.
        shows_kept: whether it has something to show of what is up to date, too.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        groups: dict[str, Any] = {
            parameter: kind for parameter, kind in get_type_hints(function).items() if dataclasses.is_dataclass(kind)
        }
        owners = [(parameter, field) for parameter, kind in groups.items() for field in dataclasses.fields(kind)]

        def run(**values: Any) -> None:
            from rectool.commands.unchanged import kept

            arguments: dict[str, dict[str, Any]] = {parameter: {} for parameter in groups}
            for parameter, field in owners:
                value = values[field.name]
                arguments[parameter][field.name] = _from_home(value)
            settings = {parameter: kind(**arguments[parameter]) for parameter, kind in groups.items()}
            if not shows_kept and kept(name, list(settings.values())):
                return
            try:
                processes.together(lambda: function(**settings), everywhere=resumable)
            except WrongKind as problem:
                places = [values[field.name] for _, field in owners if field.metadata["argument"]]
                raise RectoolError(f"{problem}{_swapped(problem, places)}") from problem

        resumable = any(issubclass(kind, Resumable) for kind in groups.values())
        parameters = [_parameter(groups[parameter], field) for parameter, field in owners]
        parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)
        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        epilog = "\n\n".join(["Examples:", *(f"  {example}" for example in examples)])
        app.command(name, epilog=epilog, no_args_is_help=True)(run)
        return function

    return register


def from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of `--settings`: the file's values stand in for flags that are not given.

    Raises:
        RectoolError: the file is not TOML, or names a setting that the command does not have.
    """
    if path is None:
        return None
    if path.exists() and (not path.is_file() or path.stat().st_size > LARGEST):
        raise RectoolError(f"--settings {path} is not a file of settings")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise RectoolError(f"--settings {path} cannot be read: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise RectoolError(f"--settings {path} is not TOML: {problem}") from None
    known = {
        option.lstrip("-").replace("-", "_"): parameter
        for parameter in context.command.params
        for option in (*parameter.opts, parameter.name or "")
        if parameter.name not in ("settings", "help")
    }
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        parameter = known.get(key.replace("-", "_"))
        if isinstance(value, dict):
            raise RectoolError(f"--settings {path}: {key} is a table; write all settings at the top level")
        if parameter is None:
            near = meant(key, known) or f"; see {context.command_path} --help"
            raise RectoolError(f"--settings {path}: {context.command_path} has no setting {key}{near}")
        chosen[str(parameter.name)] = value if isinstance(value, list | bool) else str(value)
    context.default_map = {**(context.default_map or {}), **chosen}
    return path


def command_line(words: Sequence[str], groups: Sequence[Any]) -> list[str]:
    """The command with every setting that is not its default: it needs no settings file to run again."""
    line = list(words)
    options: list[str] = []
    for group in groups:
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if field.name in ON_THE_WAY or value == field.default:
                continue
            if field.metadata["argument"]:
                each = value if isinstance(value, tuple) else (value,)
                line += [f"./{word}" if str(word).startswith("-") else str(word) for word in each]
            elif isinstance(value, bool):
                name = flag_name(field.name)
                options.append(name if value else f"--no-{name.removeprefix('--')}")
            else:
                for word in value if isinstance(value, tuple) else (value,):
                    options += [flag_name(field.name), str(word)]
    return line + options


def _parameter(group: type[Any], field: dataclasses.Field[Any]) -> inspect.Parameter:
    kind = get_type_hints(group)[field.name]
    metadata = field.metadata
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    names = [flag_name(field.name)]
    if kind == bool | None:  # can be said to be off, too
        names = [f"{names[0]}/--no-{names[0].removeprefix('--')}"]
    metavar = metadata["metavar"]
    if metavar is None and kind in (bool, bool | None):
        metavar = ""  # a flag that takes no value
    number = next((number for number in (int, float) if kind in (number, number | None)), None)
    info: Any
    if metadata["argument"]:
        info = typer.Argument(help=metadata["help"], show_default=False)
    else:
        info = typer.Option(
            *names,
            help=metadata["help"],
            metavar=metavar,
            parser=partial(_number, number) if number is not None else None,
            rich_help_panel=getattr(group, "panel", None),
            is_eager=field.name == "settings",
            callback=from_file if field.name == "settings" else None,
        )
    default = field.default
    if default is dataclasses.MISSING:
        default = inspect.Parameter.empty
    elif isinstance(default, tuple):
        default = list(default)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _from_home(value: Any) -> Any:
    """A list as a tuple; `~/` as the home folder, which shells leave after `--out=` and settings files always do."""
    if isinstance(value, list):
        return tuple(_from_home(each) for each in value)
    if isinstance(value, str | Path) and str(value).startswith("~/"):
        return type(value)(Path(value).expanduser())
    return value


def _swapped(problem: WrongKind, places: Sequence[object]) -> str:
    """A hint where what is needed was named, too, in the place of another."""
    from rectool.artifacts import manifest

    for path in places:
        with suppress(RectoolError):
            if isinstance(path, Path) and manifest.read(path).kind == problem.needed:
                return f"; {path} is one: were the two swapped?"
    return ""


def _number(kind: type[int] | type[float], value: Any) -> int | float:
    """The value of a flag that is a number. Raises what Typer tells of the flag if it is none."""
    try:
        if isinstance(value, bool):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError):
        what = "whole number, such as 10" if kind is int else "number, such as 0.5"
        raise typer.BadParameter(f"{value} is not a {what}") from None
