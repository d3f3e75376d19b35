"""What is said of a command line that cannot be read: what is wrong with it, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from typer.core import TyperGroup

from rectool.errors import RectoolError

CLOSE = 0.6
"""How alike two words are, from 0 to 1, for one to be a typing mistake of the other."""


class Group(TyperGroup):
    """A command that has commands: an unknown one is refused with the one that was probably meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and name not in self.commands:
            raise RectoolError(f"{ctx.command_path} has no command {name}{self._meant(ctx, name)}")
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: Any, name: str) -> str:
        if name in ("help", "version"):
            return f"; did you mean {ctx.find_root().command_path} --{name}?"
        elsewhere = [path for path, _ in walk(ctx.find_root()) if path.split()[-1] == name]
        return meant(name, [f"{ctx.command_path} {known}" for known in self.commands], elsewhere) or (
            f"; see {ctx.command_path} --help"
        )


def meant(word: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """`; did you mean ...?` with what is near a word that is not known, or nothing.

    Args:
        known: what could stand there; of several words the last one counts.
        elsewhere: what has this very word in another place, which goes before what is merely like it.
    """
    found = list(elsewhere)
    if not found:
        by_word = {_plain(option.split()[-1]): option for option in known}
        plain = _plain(word)
        begun = [option for option in by_word if option.startswith(plain)]
        abbreviated = [option for option in by_word if "".join(part[:1] for part in option.split("-")) == plain]
        near = difflib.get_close_matches(plain, by_word, n=2, cutoff=CLOSE)
        found = [by_word[option] for option in begun or abbreviated or near][:3] if plain else []
    return f"; did you mean {' or '.join(found)}?" if found else ""


def walk(context: Any) -> Iterator[tuple[str, Any]]:
    """Each command below a context, with all its words."""

    def below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        for name, child in getattr(command, "commands", {}).items():
            yield from below(f"{words} {name}", child)
        if not hasattr(command, "commands"):
            yield words, command

    return below(context.command_path, context.command)


def explain(problem: Exception) -> str:
    """One line for what Typer found wrong with a command line; empty where the help that was shown is the answer."""
    context = getattr(problem, "ctx", None)
    message = " ".join(problem.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    if context is None or not message or "╭" in message:
        return message
    parameter = getattr(problem, "param", None)
    option = getattr(problem, "option_name", None)
    if option is not None and message.startswith("No such option"):
        return _unknown_flag(context, option)
    if message.startswith("Missing") and parameter is not None:
        choices = message.partition("Choose from: ")[2]
        return _missing(context, parameter, f": {choices}" if choices else "")
    if extra := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return f"{extra[1]} is too much: it is {_form(context)}; a name with spaces needs quotes"
    if choice := re.search(r"'([^']*)' is not one of (.*)", message):
        value, known = choice[1], re.findall(r"'([^']*)'", choice[2])
        flag = parameter.opts[0] if parameter is not None else ""
        return f"{_origin(context, parameter)}{flag} {value} is none of {', '.join(known)}{meant(value, known)}"
    if parameter is not None:  # what our own parsers say, or Typer's
        value = str(problem.message).replace("Value error, ", "").rstrip(".")  # type: ignore[attr-defined]
        if "valid boolean" in value:
            value = "is on or off: true or false"
        named = parameter.opts[0] if _is_flag(parameter) else parameter.name.upper()
        return f"{_origin(context, parameter)}{named} {value}; see {context.command_path} --help"
    return f"{message[0].lower()}{message[1:]}; see {context.command_path} --help"


def _origin(context: Any, parameter: Any) -> str:
    """The settings file that a value comes from, if it does."""
    source = context.get_parameter_source(parameter.name) if parameter is not None else None
    return f"--settings {context.params['settings']}: " if source is not None and source.name == "DEFAULT_MAP" else ""


def _unknown_flag(context: Any, flag: str) -> str:
    name = context.command_path
    said = f"{name} has no flag {flag}"
    if not flag.startswith("--"):
        near = meant(flag, _flags(context.command)) or "; flags are written out, such as --out"
        return f"{said}{near} (a path that starts with - is written ./{flag}...)"
    if flag.removeprefix("--") in [parameter.name for parameter in context.command.params if not _is_flag(parameter)]:
        return f"{said}: its value stands alone: {_form(context)}"
    others = [words for words, command in walk(context.find_root()) if flag in _flags(command)]
    if others:
        return f"{said}, which is one of {', '.join(others[:3])}; see {name} --help"
    return f"{said}{meant(flag, _flags(context.command)) or f'; see {name} --help'}"


def _missing(context: Any, parameter: Any, choices: str) -> str:
    what = " ".join((parameter.help or "").split()).rstrip(".")
    what = f" ({what[:1].lower()}{what[1:]})" if what else ""
    if not _is_flag(parameter):
        return f"{parameter.name.upper()} is missing{what}: {_form(context)}"
    value = f" {parameter.metavar}" if parameter.metavar else ""
    return f"{parameter.opts[0]}{value} is missing{what}{choices}; see {context.command_path} --help"


def _form(context: Any) -> str:
    """How the command is written: `rectool eval DATA [MODEL] [FLAGS]`."""
    places = [
        f"{parameter.name.upper()}{'...' if parameter.nargs != 1 else ''}"
        for parameter in context.command.params
        if not _is_flag(parameter)
    ]
    required = [parameter.required for parameter in context.command.params if not _is_flag(parameter)]
    shown = [place if needed else f"[{place}]" for place, needed in zip(places, required, strict=True)]
    return " ".join([context.command_path, *shown, "[FLAGS]"])


def _flags(command: Any) -> list[str]:
    return [option for parameter in command.params if _is_flag(parameter) for option in parameter.opts]


def _is_flag(parameter: Any) -> bool:
    return str(parameter.param_type_name) == "option"


def _plain(word: str) -> str:
    return word.lower().strip("-").replace("_", "-")
