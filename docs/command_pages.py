"""The pages of docs/commands, one for each command, made from the code: run by `make docs`.

All that stands in them comes from the signatures that `rectool.commands.flags` gives commands, but for what a command
reads and writes, which `ABOUT` says. Nothing depends on the terminal, the machine or the release of Typer.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo

from rectool import cli
from rectool.commands.options import Elsewhere, Talk

FOLDER = Path(__file__).parent / "commands"
MADE = "<!-- Made from the code by `make docs`; changes here are lost. -->"
WIDTH = 120
LAST = (Elsewhere.panel, Talk.panel)
"""Panels of flags that all commands share."""
WORDS = {bool: "switch", int: "integer", float: "number", str: "text", Path: "path"}


@dataclass(frozen=True)
class About:
    """What the code of a command does not say of itself.

    Attributes:
        reads: in words.
        writes: the kind of artifact; None where it makes none.
        see: what explains it, by title.
    """

    reads: str
    writes: str | None
    see: dict[str, str]


DATA = {"preparing data": "../data.md"}
TRAINED = {"collaborative models": "../models.md"}
LANGUAGE = {"language models": "../language-models.md"}
PROMPTS = {"prompts": "../prompts.md"}
MEASURED = {"evaluation": "../evaluation.md"}
FIGURES = {"figures": "../figures.md"}
SOME_RESULTS = "results (`result`), or folders that hold some"
ABOUT = {  # in the order in which data passes them
    "prep movielens": About(
        "a MovieLens release: its zip, a folder, or the official archive, downloaded", "dataset", DATA
    ),
    "prep amazon": About("reviews and metadata of an Amazon dump: files, or a category to download", "dataset", DATA),
    "prep table": About("a table of interactions and, if there are any, tables of items and users", "dataset", DATA),
    "prep synthetic": About("nothing", "dataset", DATA),
    "prep backbone": About(
        "a data set (`dataset`)",
        "backbone",
        {"a backbone without a hub": "../language-models.md#a-backbone-without-a-hub"},
    ),
    "train-cf": About(
        "a data set (`dataset`); with `--init-items` item vectors (`semantic`, `cf`, or `llm` with an item head)",
        "cf",
        TRAINED,
    ),
    "tune-lora": About(
        "a data set (`dataset`) and a language model: of the Hugging Face hub, a folder, a `backbone` or an `llm`",
        "llm",
        {"tuning": "../language-models.md#tuning", **PROMPTS},
    ),
    "distill": About(
        "a data set (`dataset`) and a language model or encoder: of the hub, a folder, a `backbone` or an `llm`",
        "semantic",
        {"embeddings": "../language-models.md#embeddings", **PROMPTS},
    ),
    "align": About(
        "a data set (`dataset`), item embeddings (`semantic`) and, with `--cf`, a model (`cf`) to go on from",
        "aligned",
        {"alignment": "../models.md#alignment"},
    ),
    "train-proj": About(
        "a data set (`dataset`), a language model (`llm`, `backbone`, a folder or of the hub), and vectors of users "
        "and items (`cf`, `aligned`, `semantic`)",
        "llm",
        {"soft tokens": "../language-models.md#soft-tokens", **PROMPTS},
    ),
    "eval": About(
        "a data set (`dataset`) and a model: `cf`, `llm`, `backbone`, a folder of a language model or one of the hub",
        "result",
        {**MEASURED, "language models": "../language-models.md#evaluation"},
    ),
    "recommend": About(
        "a data set (`dataset`) and a model, as `rectool eval` does; with `--retriever` a second one (`cf`)",
        "recommendations",
        {"recommending": "../evaluation.md#recommending"},
    ),
    "compare": About(SOME_RESULTS, "comparison", {"intervals and tests": "../evaluation.md#intervals-and-tests"}),
    "plot curves": About(
        "trained models (`cf`, `backbone`, `llm`, `aligned`), in the order of training", "figure", FIGURES
    ),
    "plot bars": About(SOME_RESULTS, "figure", FIGURES),
    "plot radar": About(SOME_RESULTS, "figure", FIGURES),
    "plot improvement": About(SOME_RESULTS, "figure", FIGURES),
    "plot classes": About("results (`result`) with probabilities", "figure", FIGURES),
    "plot embeddings": About("aligned embeddings (`aligned`), and others beside them", "figure", FIGURES),
    "plot cosine": About("aligned embeddings (`aligned`), and others beside them", "figure", FIGURES),
    "plot attention": About("a data set (`dataset`) and language models, as `rectool eval` does", "figure", FIGURES),
    "plot sensitivity": About("results (`result`) of language models, or folders that hold some", "figure", FIGURES),
    "inspect": About("any artifact", None, {"the artifact contract": "../artifacts.md", "prompts": "../prompts.md"}),
    "adopt": About(
        "the files of an artifact that another program wrote, and with `--data` their data set",
        None,
        {"the artifact contract": "../artifacts.md", "a stage of your own": "../extending.md#a-stage-of-your-own"},
    ),
}
NO_ARTIFACT = {"inspect": "nothing", "adopt": "the manifest, `rectool.json`, into that folder"}


def pages() -> dict[str, str]:
    """The text of every page, by the name of its file."""
    found = dict(commands(cli.app))
    made = {file_of(words): page(words, found[words]) for words in ABOUT}
    lines = [
        "# Commands",
        MADE,
        wrapped(
            "One page each, in the order in which data passes them. What is read and written is described in "
            "[the artifact contract](../artifacts.md), as are the [exit codes](../artifacts.md#exit-codes)."
        ),
        "\n".join(
            [
                "| command | does | writes |",
                "| --- | --- | --- |",
                *(
                    f"| [`rectool {words}`]({file_of(words)}) | {escaped(summary(found[words]))} | "
                    f"{writes_of(words, ABOUT[words])} |"
                    for words in ABOUT
                ),
            ]
        ),
    ]
    return {"README.md": "\n\n".join(lines) + "\n", **made}


def commands(app: typer.Typer, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its words, as it was registered."""
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, f"{above}{group.name} ")
    for info in app.registered_commands:
        yield f"{above}{info.name}", info


def file_of(words: str) -> str:
    return f"{words.replace(' ', '-')}.md"


def page(words: str, info: Any) -> str:
    """The page of a command."""
    about = ABOUT[words]
    parameters = list(inspect.signature(info.callback).parameters.values())
    arguments = [parameter for parameter in parameters if is_argument(parameter)]
    panels: dict[str, list[inspect.Parameter]] = {}
    for parameter in parameters:
        if not is_argument(parameter):
            panels.setdefault(parameter_info(parameter).rich_help_panel or "Options", []).append(parameter)
    parts = [
        f"# rectool {words}",
        MADE,
        wrapped(escaped(summary(info))),
        f"```\n{usage(words, parameters, arguments)}\n```",
        wrapped(f"**Reads** {about.reads}."),
        wrapped(f"**Writes** {writes_of(words, about)}."),
        wrapped("**See** " + ", ".join(f"[{title}]({link})" for title, link in about.see.items()) + "."),
        f"## Examples\n\n```sh\n{examples(info)}\n```",
    ]
    if arguments:
        parts.append("## Arguments\n\n" + table("argument", arguments))
    for panel in [*(name for name in panels if name not in LAST), *(name for name in LAST if name in panels)]:
        parts.append(f"## {panel}\n\n{table('flag', panels[panel])}")
    return "\n\n".join(parts) + "\n"


def parameter_info(parameter: inspect.Parameter) -> Any:
    """What Typer is told of a parameter."""
    return get_args(parameter.annotation)[1]


def summary(info: Any) -> str:
    return " ".join((inspect.getdoc(info.callback) or "").split())


def examples(info: Any) -> str:
    return "\n".join(line.strip() for line in info.epilog.splitlines() if line.strip().startswith("rectool "))


def usage(words: str, parameters: list[inspect.Parameter], arguments: list[inspect.Parameter]) -> str:
    """The shortest command line there is."""
    needed = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    line = ["rectool", words]
    for parameter in arguments:
        name = names(parameter)[0] + ("..." if is_list(parameter) else "")
        line.append(name if parameter in needed else f"[{name}]")
    for parameter in needed:
        if parameter not in arguments:
            line.append(f"{names(parameter)[0]} {parameter_info(parameter).metavar or 'VALUE'}")
    return " ".join([*line, "[FLAGS]"])


def table(what: str, parameters: list[inspect.Parameter]) -> str:
    """Flags or arguments, a row each."""
    lines = [f"| {what} | value | default | |", "| --- | --- | --- | --- |"]
    for parameter in parameters:
        info = parameter_info(parameter)
        name = ", ".join(f"`{name}`" for name in names(parameter))
        if info.metavar:
            name = name.removesuffix("`") + f" {info.metavar.replace('|', chr(92) + '|')}`"
        lines.append(f"| {name} | {value_of(parameter)} | {default_of(parameter)} | {escaped(info.help)} |")
    return "\n".join(lines)


def names(parameter: inspect.Parameter) -> list[str]:
    """`--biases`, `--no-biases`; of an argument its name."""
    if is_argument(parameter):
        return [parameter.name.upper()]
    info = parameter_info(parameter)
    words = (info.default, *(info.param_decls or ()))  # inside of Annotated Typer takes the first name for a default
    return [name for word in words if isinstance(word, str) for name in word.split("/")]


def is_argument(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter_info(parameter), ArgumentInfo)


def is_list(parameter: inspect.Parameter) -> bool:
    return get_origin(get_args(parameter.annotation)[0]) is list


def value_of(parameter: inspect.Parameter) -> str:
    """What a flag takes, in words."""
    kind = get_args(parameter.annotation)[0]
    again = ""
    if is_list(parameter):
        kind, again = get_args(kind)[0], ", several" if is_argument(parameter) else ", repeatable"
    if get_origin(kind) in (Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind)) + again
    return WORDS[kind] + again


def default_of(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    if parameter.default is False:
        return "off"
    return "" if parameter.default in (None, []) else f"`{parameter.default}`"


def writes_of(words: str, about: About) -> str:
    if about.writes is None:
        return NO_ARTIFACT[words]
    return f"[`{about.writes}`](../artifacts.md#kinds)"


def escaped(text: str) -> str:
    """Text that Markdown shall show as it is, but for `code`."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        for sign in ("\\", "*", "_", "<", "[", "|"):
            parts[index] = parts[index].replace(sign, f"\\{sign}")
    return "`".join(parts)


def wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Write the pages, and remove those of commands that are no more."""
    made = pages()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(made)} pages in {FOLDER.name}\n")


if __name__ == "__main__":
    main()
