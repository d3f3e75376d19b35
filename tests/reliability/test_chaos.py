"""Every command that writes, killed, interrupted, refused by the disk, beside another: nothing is lost.

This is the short form; `python tests/reliability/chaos.py --minutes 60` tries more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHAOS = Path(__file__).with_name("chaos.py")
PATIENCE_SECONDS = 800


def chaos(*words: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what the trials came to, by command."""
    done = subprocess.run(
        [sys.executable, CHAOS, "--json", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("cases", "trials"),
    [
        (("prep-synthetic", "prep-movielens", "prep-amazon", "prep-table", "adopt"), 8),
        (("prep-backbone", "train-cf", "tune-lora", "distill", "train-proj", "eval"), 6),
    ],
    ids=["data", "models"],
)
def test_what_is_disturbed_ends_as_if_it_had_not_been(cases: tuple[str, ...], trials: int) -> None:
    code, found = chaos("--trials", str(trials), *(word for case in cases for word in ("--case", case)))
    assert [problem for case in found.values() for problem in case["problems"]] == []
    assert code == 0
    assert set(found) == set(cases)
    assert sum(case["trials"] for case in found.values()) == trials
    assert sum(sum(case["disturbed"].values()) for case in found.values()) >= trials // 2
    assert [case["lost"] for case in found.values()] == [0] * len(cases)


def test_a_loss_would_be_found(tmp_path: Path) -> None:
    """A rectool that removes the old artifact before it makes the new one."""
    (tmp_path / "sitecustomize.py").write_text(
        "import shutil\n"
        "from rectool.artifacts import folder\n"
        "discard = folder.discard_partial\n"
        "def careless(out, mark):\n"
        "    discard(out, mark)\n"
        "    shutil.rmtree(out, ignore_errors=True)\n"
        "folder.discard_partial = careless\n"
    )
    few = ("--trials", "2", "--case", "prep-table", "--disturbance", "kill at a call")
    code, found = chaos(*few, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert found["prep-table"]["lost"] > 0
    assert "seed None stands there, not 1 or 0" in "".join(found["prep-table"]["problems"])
