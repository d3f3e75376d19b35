"""The example scripts: each command that they run has a known name, known flags and sound values."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.test_cli import ROOT, assert_parses

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.sh") if not path.name.startswith("common"))
RECIPES = ["quickstart.sh", *(name for name in SCRIPTS if '")/common' in (EXAMPLES / name).read_text())]
VARIABLES = str.split("""
    DATA LLM OUT SEED NOUN PROMPT RATE MASK SHALLOW DEEP LLMS SMALL TUNE JOIN NEXT RESULTS UNTIL EXCLUDE SEQUENCES
    EPOCHS TABLES ONLY
""")
RATED = "sasrecllm", "sella-rec", "collm", "tallrec", "personprompt"
RANKED = "hatllm", "bigrec", "e4srec", "llara"
WRITES_DOWN = """#!/usr/bin/env bash
line=$(printf '%q ' rectool "$@")
echo "$line" >> "$WRITTEN"  # at once: two may write at a time
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


def test_every_command_of_the_kaggle_page_parses() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (EXAMPLES / "kaggle-t4.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    asked = [f"rectool {line.partition(' -m rectool ')[2]}" for line in lines if line.startswith("accelerate launch ")]
    asked += [line for line in lines if line.startswith("rectool ")]
    assert len(asked) > 8
    for line in asked:
        assert_parses(line)
    scripts = [name for line in lines for name in re.findall(r"examples/(\S+\.sh)", line)]
    assert "quickstart.sh" in scripts
    assert set(scripts) <= set(SCRIPTS)


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


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_command_reads_what_is_written_before_it(script: str, environment: dict[str, str], tmp_path: Path) -> None:
    made: list[Path] = []
    for line in written(script, {**environment, "OUT": "runs/out"}, tmp_path):
        words = shlex.split(line)
        out = Path(words[words.index("--out") + 1]) if "--out" in words else None
        for path in (Path(word) for word in words if word.startswith("runs/")):
            found = any(path.is_relative_to(each) or each.is_relative_to(path) for each in made)
            assert found or path == out, line
        made += [out] if out is not None else []


def test_the_quickstart_takes_the_recipes_stages(environment: dict[str, str], tmp_path: Path) -> None:
    own = {**environment, "DATA": "data/own", "LLM": "some/model", "OUT": "runs/out"}
    found = stages(written("quickstart.sh", own, tmp_path))
    for recipe in ("sasrecllm.sh", "sella-rec.sh"):
        for out, words in stages(written(recipe, own, tmp_path)).items():
            assert found[out] == words
    apart = {"OUT": "runs/out/next", "RESULTS": "runs/out/results/next", "EXCLUDE": "history"}
    for out, words in stages(written("hatllm.sh", {**own, **apart}, tmp_path)).items():
        assert found[out] == words


@pytest.mark.parametrize("command", ["train-cf", "tune-lora", "eval"])
@pytest.mark.parametrize("script", RECIPES[1:])
def test_recipes_make_the_stages_of_one_command_alone(
    script: str, command: str, environment: dict[str, str], tmp_path: Path
) -> None:
    own = {**environment, "DATA": "data/own", "LLM": "some/model"}
    every = written(script, own, tmp_path)
    expected = [line for line in every if line.startswith(f"rectool {command} ")]
    assert written(script, {**own, "ONLY": command}, tmp_path, least=0) == expected


@pytest.mark.parametrize("until", [2_000_000_000, 1_000_000_000])
def test_recipes_stop_when_time_is_up(until: int, environment: dict[str, str], tmp_path: Path) -> None:
    lines = written("sella-rec.sh", {**environment, "UNTIL": str(until)}, tmp_path)
    limits = [int(found[1]) for line in lines if (found := re.search(r"--max-time (\d+)s", line))]
    assert len(limits) == len(lines) - 3  # all but the data, the small model and the comparison
    expected = max(1, until - time.time())
    assert all(abs(limit - expected) < 60 for limit in limits)


def test_the_quickstart_runs(
    rectool: Any, tiny_llm: Any, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sequences = "--task", "next-item", "--split", "windows:11:8,1,1"
    for out, flags in (("ratings", ()), ("sequences", sequences)):
        assert rectool("prep", "synthetic", "--users", 60, "--items", 60, *flags, "--out", out).code == 0
    short = "--batch-size 64 --steps 2 --validate-steps 1"
    own = {"DATA": "ratings", "SEQUENCES": "sequences", "LLM": str(tiny_llm(num_hidden_layers=3)), "OUT": "out"}
    own |= {"SMALL": "yes", "TUNE": short, "JOIN": short, "NEXT": short}
    for line in written("quickstart.sh", {**environment, **own}, tmp_path):
        line = line.replace("--epochs 100", "--epochs 2").replace("--rows 200", "--rows 5")
        apart = ["--no-figures"] * ("out/compared" in line or "next/compared" in line)
        outcome = rectool(*shlex.split(line)[1:], *apart)
        assert outcome.code == 0, (line, outcome.stderr)
    report = (tmp_path / "out" / "comparison" / "report.html").read_text()
    for name in ("bias", "mf", "lora", "sasrecllm", "sella-rec", "popularity", "markov", "hatllm", "bigrec"):
        assert f">{name}<" in report
    assert outcome.stdout.count("best reachable") > 1


def written(script: str, environment: dict[str, str], folder: Path, least: int = 1) -> list[str]:
    """The commands that a script runs, so many at least."""
    done = subprocess.run(["bash", EXAMPLES / script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = Path(environment["WRITTEN"])
    lines = kept.read_text().splitlines() if kept.exists() else []
    kept.unlink(missing_ok=True)
    assert len(lines) >= least
    return lines


def stages(lines: list[str]) -> dict[str, list[str]]:
    """The words of each command but `compare` and `inspect`, sorted, by the folder that it writes."""
    found = {}
    for line in lines:
        assert_parses(line)
        words = shlex.split(line)
        if words[1] not in ("compare", "inspect"):
            found[words[words.index("--out") + 1]] = sorted(word for word in words if word != "--quiet")
    return found
