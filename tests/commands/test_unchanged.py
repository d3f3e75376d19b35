"""`--update` of the very same command: kept without anything that computes, and only where nothing it reads changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rectool.artifacts import open_artifact
from rectool.commands import unchanged

Command = Callable[..., Any]
COMPUTES = {"torch", "sklearn", "scipy", "transformers", "tokenizers", "peft", "accelerate", "matplotlib"}


@pytest.fixture
def chain(rectool: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that have been run, in a folder that is gone to; each says --update."""
    monkeypatch.chdir(tmp_path)
    lines = [
        "prep synthetic --users 25 --items 40 --out data",
        "prep backbone data --exercises 0 --steps 1 --out nano",
        "train-cf data --model mf --embedding-size 4 --epochs 1 --out mf",
        "tune-lora data --llm nano --steps 1 --out lora",
        "distill data --adapter lora --out items",
        "align data --semantic items --cf mf --epochs 1 --out aligned",
        "train-proj data --adapter lora --cf mf --steps 1 --out hybrid",
        "eval data mf --out mf-test",
        "eval data hybrid --out hybrid-test",
        "recommend data mf --users u1 --out lists",
        "plot curves mf --out curves",
    ]
    commands = [[*line.split(), "--update", "--quiet"] for line in lines]
    for words in commands:
        done = rectool(*words)
        assert done.code == 0, (words, done.stderr)
    return commands


def test_what_is_up_to_date_computes_nothing(chain: list[list[str]], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for words in chain:
        words = [word for word in words if word != "--quiet"]
        code = f"import sys; sys.argv = ['rectool', *{words!r}]; from rectool.cli import main\ntry: main()\n"
        code += "finally: print(' '.join(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr == f"{words[words.index('--out') + 1]} is up to date\n"
        assert not COMPUTES & {name.split(".")[0] for name in done.stdout.split()}, words
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What was found of each command that was run: True where it was kept so."""
    found: list[bool] = []
    real = unchanged.kept

    def kept(name: str, groups: Sequence[Any]) -> bool:
        found.append(real(name, groups))
        return found[-1]

    monkeypatch.setattr(unchanged, "kept", kept)
    return found


@pytest.fixture
def trained(rectool: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that was run on the data set `link`, which is a link to the first of two."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        words = ["prep", "synthetic", "--users", 25, "--items", 40, "--seed", seed, "--out", f"data-{seed}", "--quiet"]
        assert rectool(*words).code == 0
    (tmp_path / "link").symlink_to("data-1")
    words = ["train-cf", "link", "--model", "popularity", "--out", "model", "--update"]
    assert rectool(*words).code == 0
    return words


@pytest.mark.parametrize(
    "change", ["nothing", "words", "link", "input", "folder", "seed", "another version", "default", "parent", "dry-run"]
)
def test_kept_only_where_nothing_changed(
    change: str,
    trained: list[str],
    looked: list[bool],
    rectool: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = list(trained)
    match change:
        case "words":
            words += ["--device", "cpu"]
        case "link":
            (tmp_path / "link").unlink()
            (tmp_path / "link").symlink_to("data-2")
        case "input":
            again = ["prep", "synthetic", "--users", 26, "--items", 40, "--out", "data-1", "--overwrite"]
            assert rectool(*again).code == 0
            looked.clear()
        case "folder":  # where the same words mean another data set
            (tmp_path / "other").mkdir()
            (tmp_path / "other/link").symlink_to(tmp_path / "data-2")
            monkeypatch.chdir(tmp_path / "other")
            words[words.index("model")] = "../model"
        case "seed":
            words += ["--seed", "1"]
        case "another version":
            monkeypatch.setattr(unchanged, "__version__", "0.0.0")
        case "default":
            monkeypatch.setattr(unchanged, "recorded", lambda groups: {})
        case "parent":
            words += ["--parent", "dataset=data-1"]
        case "dry-run":
            words += ["--dry-run"]
    before = open_artifact(tmp_path / "model").manifest.digests if change != "input" else None
    done = rectool(*words)
    assert looked == [change == "nothing"]
    assert done.code == 0, done.stderr
    new = change in ("link", "input", "folder", "seed")
    assert ("is made again" in done.stderr) == new
    if before is not None and not new:
        assert open_artifact(tmp_path / "model").manifest.digests == before


def test_a_folder_of_results_is_looked_through_again(
    trained: list[str], looked: list[bool], rectool: Command, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        assert rectool("eval", "link", "model", "--task", "ctr", "--draws", 0, "--out", f"results/{name}").code == 0
        looked.clear()
        done = rectool("plot", "bars", "results", "--out", "bars", "--update")
        assert (done.code, looked) == (0, [False]), done.stderr
        assert len(open_artifact(tmp_path / "bars").manifest.parents) == {"first": 1, "second": 2}[name]
