"""A tiny data set."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rectool import cli, console
from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out: Path = tmp_path_factory.mktemp("data") / "tiny"
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit):
        words = ["prep", "synthetic", "--users", "40", "--items", "50", "--quiet", "--out", str(out)]
        patched.setattr(sys, "argv", ["rectool", *words])
        cli.main()
    console.configure(quiet=False, json=False)
    return Dataset(open_artifact(out, "dataset"))
