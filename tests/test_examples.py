"""The example scripts: each command that they run has a known name, known flags and sound values."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.test_cli import ROOT, assert_parses

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.sh") if not path.name.startswith("common"))
RECIPES = [name for name in SCRIPTS if '")/common' in (EXAMPLES / name).read_text()]
VARIABLES = "DATA", "LLM", "OUT", "SEED", "NOUN", "PROMPT", "RATE", "MASK", "SHALLOW", "DEEP", "LLMS"
RATED = "sasrecllm", "sella-rec", "collm", "tallrec", "personprompt"
RANKED = "hatllm", "bigrec", "e4srec", "llara"
WRITES_DOWN = """#!/usr/bin/env bash
printf '%q ' rectool "$@" >> "$WRITTEN"
echo >> "$WRITTEN"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """In which `rectool` writes down what it is asked, and does nothing."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "rectool").write_text(WRITES_DOWN)
    (tools / "rectool").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return {**kept, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "WRITTEN": str(tmp_path / "written")}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_of_a_script_parses(script: str, environment: dict[str, str], tmp_path: Path) -> None:
    for line in written(script, environment, tmp_path):
        assert_parses(line)


@pytest.mark.parametrize("script", RECIPES)
def test_recipes_take_data_and_models_of_ones_own(script: str, environment: dict[str, str], tmp_path: Path) -> None:
    own = {"DATA": "my data", "LLM": "some/model", "NOUN": "board games"}
    lines = written(script, {**environment, **own}, tmp_path)
    for line in lines:
        assert_parses(line)
    words = [word for line in lines for word in shlex.split(line)]
    assert "prep" not in words
    assert set(own.values()) <= set(words)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("recipe", [*RATED, *RANKED])
def test_make_runs_the_commands_of_the_script(recipe: str, environment: dict[str, str], tmp_path: Path) -> None:
    expected = stages(written(f"{recipe}.sh", environment, tmp_path))
    command = ["make", "-n", "-f", EXAMPLES / "Makefile", recipe]
    planned = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    lines = planned.stdout.replace("\\\n", " ").splitlines()
    found = stages([line for line in lines if line.startswith("rectool ")])
    assert found
    for out, words in found.items():
        assert words == expected[out], out


def written(script: str, environment: dict[str, str], folder: Path) -> list[str]:
    """The commands that a script runs."""
    done = subprocess.run(["bash", EXAMPLES / script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (folder / "written").read_text().splitlines()
    assert lines
    return lines


def stages(lines: list[str]) -> dict[str, list[str]]:
    """The words of each command but `compare`, sorted, by the folder that it writes."""
    found = {}
    for line in lines:
        assert_parses(line)
        words = shlex.split(line)
        out = words[words.index("--out") + 1]
        if words[1] != "compare":
            found[out] = sorted(word for word in words if word != "--quiet")
    return found
