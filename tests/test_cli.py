"""The command line as a whole: what it imports, what it answers, what it says of itself."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rectool import __version__, cli

ROOT = Path(__file__).parents[1]
HEAVY = {
    *("torch", "pandas", "sklearn", "numpy", "pyarrow", "duckdb", "scipy", "polars", "matplotlib"),
    *("transformers", "tokenizers", "peft", "accelerate", "huggingface_hub"),
}


@cache
def commands() -> dict[str, Any]:
    """Every command by its words."""
    found: dict[str, Any] = {}

    def walk(words: str, command: Any) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(f"{words} {name}", child)
        if not hasattr(command, "commands"):
            found[words] = command

    walk("rectool", cli.commands_of(cli.app))
    return found


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["prep", "table", "--help"], ["train-cf", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; sys.argv = ['rectool', *{arguments!r}]; from rectool.cli import main\ntry: main()\n"
    code += "finally: sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rectool" in done.stdout
    assert not HEAVY & {name.split(".")[0] for name in done.stderr.split()}


def test_version(rectool: Any) -> None:
    assert rectool("--version").stdout == f"rectool {__version__}\n"


def test_without_arguments_each_level_shows_its_help(rectool: Any) -> None:
    for words in ((), ("prep",), *(tuple(words.split()[1:]) for words in commands())):
        outcome = rectool(*words)
        assert "Usage: rectool" in outcome.stdout + outcome.stderr, words
        assert outcome.code == 2


def test_the_help_shows_a_way_in(rectool: Any) -> None:
    """Commands stand in the order of the data's way, and the first lines to type can be typed."""
    shown = rectool("--help").stdout
    titles = list(dict.fromkeys(cli.PANELS.values()))
    assert [title for title in re.findall(r"─ ([^─]+) ─", shown) if title != "Options"] == titles
    assert re.findall(r"^│ ([a-z][a-z-]*) ", shown, re.MULTILINE) == list(cli.PANELS)
    assert {words.split()[1] for words in commands()} == cli.PANELS.keys()
    first = [line.strip() for line in cli.FIRST_STEPS.splitlines() if line.strip().startswith("rectool ")]
    assert [line.split()[1] for line in first] == ["prep", "train-cf", "eval", "inspect"]
    for line in first:
        assert line in shown
        assert_parses(line)


def test_every_command_has_examples_that_parse() -> None:
    for words, command in commands().items():
        examples = [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("rectool ")]
        assert examples, words
        for example in examples:
            assert_parses(example)


def test_every_writing_command_has_the_shared_flags() -> None:
    shared = "--out --seed --quiet --json --debug --overwrite --update --parent --settings --dry-run"
    for words, command in commands().items():
        flags = {flag for parameter in command.params for flag in parameter.opts}
        expected = {"--quiet", "--json", "--debug"} if words.split()[1] in ("inspect", "adopt") else set(shared.split())
        assert expected <= flags, words


def test_every_flag_has_help() -> None:
    for words, command in commands().items():
        for parameter in command.params:
            assert parameter.help or parameter.name == "help", (words, parameter.name)


def test_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for words in commands():
        assert f"`{words}`" in readme


def test_command_lines_in_texts_parse() -> None:
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.sh")]
    lines = []
    for text in texts:
        source = text.read_text().replace("\\\n", " ")
        blocks = [source] if text.suffix == ".sh" else re.findall(r"```sh\n(.*?)```", source, re.DOTALL)
        lines += [line for block in blocks for line in block.splitlines() if line.startswith("rectool ")]
    assert len(lines) > 8
    for line in lines:
        assert_parses(line)


def assert_parses(line: str) -> None:
    """See that a command line has a known command and known flags, with values that are sound."""
    words = shlex.split(line.split(" > ")[0], comments=True)
    name = next(known for known in commands() if words[: len(known.split())] == known.split())
    rest = words[len(name.split()) :]
    context = commands()[name].make_context(name, rest, resilient_parsing=False)
    assert not context.args, line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prpe"], "rectool has no command prpe; did you mean rectool prep?"),
        (["prep", "movielens", "--varant", "1m", "--out", "x"], "--variant"),
        (["prep", "movielens", "--variant", "3m", "--out", "x"], "--variant 3m is none of 100k, 1m"),
        (["prep", "movielens", "--variant", "1m"], "--out DIR is missing"),
        (["prep", "synthetic", "--out", "x", "--users", "many"], "--users"),
        (["prep", "synthetic", "--out", "x", "--parent", "y"], "ROLE=PATH"),
        (["prep", "synthetic", "--out", "x", "extra"], "extra"),
        (["prep", "synthetic", "--out", "x", "--memory-limit", "much"], "--memory-limit"),
        (["prep", "synthetic", "--out", "x", "--threads", "0"], "--threads"),
        (["prep", "synthetic", "--out", "x", "--split", "given"], "--split given"),
        (["inspect", "nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    rectool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = rectool(*arguments)
    assert outcome.code == 2
    assert said in outcome.error
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_one_line_and_exit_code_1(rectool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> int:
        raise ZeroDivisionError("split\nin two")

    monkeypatch.setattr(cli, "commands_of", lambda app: broken)
    outcome = rectool("inspect", "x")
    assert outcome.code == 1
    assert outcome.error == "ZeroDivisionError: split in two (a fault of rectool; --debug tells more)"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_mistake_that_nobody_can_be_told_has_its_exit_code(tmp_path: Path) -> None:
    """What a log on a full disk does not take must not look like a fault of rectool."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "rectool", "inspect", str(tmp_path / "nothing")], stderr=full)
    assert done.returncode == 2


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rectool", "inspect", str(tmp_path / "nothing")]
    plain = subprocess.run(command, capture_output=True, text=True)
    traced = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    assert "Traceback" in traced.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands(shell: str) -> None:
    environment = {
        **os.environ,
        "_RECTOOL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "rectool prep m",
        "COMP_CWORD": "2",
    }
    environment["_TYPER_COMPLETE_ARGS"] = "rectool prep m"
    code = "from rectool.cli import main; import sys; sys.argv = ['rectool']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "movielens" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_can_be_installed(shell: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    words = [sys.executable, "-c", "from rectool.cli import main; main()"]
    shown = subprocess.run([*words, "--show-completion", shell], capture_output=True, text=True, env=environment)
    assert "_RECTOOL_COMPLETE=complete_" + shell in shown.stdout
    done = subprocess.run([*words, "--install-completion", shell], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f".{shell}rc").exists()


def test_no_colour_codes_under_no_color(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "rectool", "prep", "synthetic", "--users", "30", "--items", "60", "--out", "x"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0
    assert "\x1b[3" not in done.stdout + done.stderr


def test_imports_go_one_way() -> None:
    order = [
        *("cli", "commands", "figures", "training", "evaluation", "llm", "prompts", "models", "data", "artifacts"),
        *("devices", "plots", "processes", "launchers", "console", "following", "stopping", "caches"),
        *("settings", "errors"),
    ]
    for path in (ROOT / "src/rectool").rglob("*.py"):
        layer = path.relative_to(ROOT / "src/rectool").parts[0].removesuffix(".py")
        if layer.startswith("__"):
            continue
        source = path.read_text()
        for imported in re.findall(r"^\s*(?:from|import) rectool\.(\w+)", source, re.MULTILINE):
            assert order.index(imported) >= order.index(layer), f"{path} imports {imported}"
        if layer not in ("cli", "commands"):
            assert "typer" not in source, path
