"""What all tests share: the command line run in this process, and small data."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rectool import cli, console

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line did."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The one error line; fails if there is none, or more than one."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr
        return lines[0].removeprefix("error: ")


@pytest.fixture
def rectool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `rectool ARGUMENTS` for real, in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["rectool", *map(str, arguments)])
        console.configure(quiet=False, json=False)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        shown = capsys.readouterr()
        code = stopped.value.code
        assert isinstance(code, int)
        return Outcome(code, shown.out, shown.err)

    return run


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No colours, a wide terminal, a cache of our own: the same everywhere."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("RECTOOL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that RECTOOL_TEST_DATA names; skips without it."""
    folder = os.environ.get("RECTOOL_TEST_DATA")
    if not folder:
        pytest.skip("RECTOOL_TEST_DATA names no folder of real data sets")
    return Path(folder)
