"""docs/extending.md: what it says to add is added to a copy of the tree, and works there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
FILE = re.compile(r"^`([\w./-]+)`:\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHANGES = re.compile(r"^In `([\w./-]+)`:\n((?:\n```diff\n.*?^```\n)+)", re.MULTILINE | re.DOTALL)
HUNK = re.compile(r"```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)
USED = """
import json, sys
import numpy as np
from sklearn.metrics import matthews_corrcoef
from rectool.evaluation.metrics import metric
from rectool.evaluation.targets import Targets

chance = np.random.default_rng(0)
label, probability = chance.integers(2, size=60), chance.random(60)
rows = np.arange(60)
found = metric("mcc").of(Targets(rows, rows % 7, label, probability, probability, threshold=0.5))
assert abs(found - matthews_corrcoef(label, probability >= 0.5)) < 1e-12

from rectool import cli

def run(*arguments):
    sys.argv = ["rectool", *arguments, "--quiet"]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 0, arguments

with open("log.jsonl", "w") as file:
    for visitor in range(40):
        events = [
            {"item": f"i{item}", "title": f"Item number {item}", "time": 1_700_000_000 + 100 * visitor + place}
            for place, item in enumerate(chance.permutation(12)[:8].tolist())
        ]
        file.write(json.dumps({"visitor": f"v{visitor}", "events": events}) + "\\n")
run("prep", "sessions", "log.jsonl", "--split", "leave-one-out", "--out", "data")
counts = json.load(open("data/rectool.json"))["counts"]
assert counts == {"interactions": 320, "items": 12, "users": 40}, counts
run("inspect", "data", "--verify")

sys.argv = ["letters.py", "data", "letters"]
exec(compile(open("letters.py").read(), "letters.py", "exec"))
run("adopt", "letters", "--kind", "semantic", "--data", "data")
run("train-cf", "data", "--model", "history_mean", "--init-items", "letters", "--epochs", "2", "--out", "model")
run("eval", "data", "model", "--draws", "0", "--out", "result")
assert json.load(open("result/metrics.json"))["model"] == "history_mean"

run("prep", "synthetic", "--users", "60", "--items", "40", "--out", "rated")
run("train-cf", "rated", "--model", "history_mean", "--epochs", "1", "--out", "rater")
run("eval", "rated", "rater", "--draws", "20", "--out", "rated-result")
measured = json.load(open("rated-result/metrics.json"))["metrics"]
assert [-1 <= found["low"] <= found["high"] <= 1 for found in measured if found["metric"] == "mcc"].count(True) >= 1
run("compare", "rated-result", "--metrics", "mcc", "--no-figures", "--out", "compared")

from rectool.prompts.template import load
assert load("prompts/short.txt").task == "ctr"
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with all that the page adds."""
    copy = tmp_path_factory.mktemp("extended")
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, text in FILE.findall(PAGE):
        path = copy / name
        assert not path.exists(), f"docs/extending.md adds {name}, which is there"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    for name, hunks in CHANGES.findall(PAGE):
        for hunk in HUNK.findall(hunks):
            change(copy / name, hunk)
    return copy


def change(path: Path, hunk: str) -> None:
    """Apply lines of a diff. What it takes away, or stands below, must be in the file once."""
    before = "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] != "+")
    after = "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] != "-")
    text = path.read_text("utf-8")
    assert text.count(before) == 1, f"docs/extending.md: {path.name} does not have these lines once:\n{before}"
    path.write_text(text.replace(before, after), "utf-8")


def in_copy(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    done = subprocess.run([sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_the_page_has_what_is_expected() -> None:
    assert [name for name, _ in FILE.findall(PAGE)] == [
        *("prompts/short.txt", "letters.py", "src/rectool/models/history_mean.py"),
        "src/rectool/data/sources/sessions.py",
    ]
    assert len(HUNK.findall(PAGE)) == sum(len(HUNK.findall(hunks)) for _, hunks in CHANGES.findall(PAGE)) > 0


def test_a_model_and_a_mask_pass_the_tests_of_all(extended: Path) -> None:
    chosen = "history_mean or (near and (formula or packed_rows))"
    tests = ("tests/models/test_contract.py", "tests/llm/test_masks.py")
    done = in_copy(extended, "-m", "pytest", *tests, "-k", chosen, "-p", "no:cacheprovider")
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) > 30


def test_what_is_added_is_used(extended: Path) -> None:
    done = in_copy(extended, "-c", "import rectool; print(rectool.__file__)")
    assert done.stdout.startswith(str(extended))
    in_copy(extended, "-c", USED)
