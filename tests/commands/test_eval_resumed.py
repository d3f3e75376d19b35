"""`rectool eval` that is stopped and goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rectool.artifacts import folder, open_artifact, unfinished
from rectool.commands.options import Resumable
from rectool.evaluation import scorer
from rectool.evaluation.scorer import CollaborativeScorer

Command = Callable[..., Any]


@pytest.fixture
def model(rectool: Command, data: Path, shelf: Path) -> Callable[[str], Path]:
    """A model that has been trained a little."""

    def train(name: str) -> Path:
        out = shelf / name
        if not out.exists():
            task = ("--task", "next-item") if name == "ncf" else ()
            loss = ("--loss", "bce") if name == "ncf" else ()
            words = ("train-cf", data, "--model", name, *task, *loss, "--epochs", 1, "--quiet", "--out", out)
            assert rectool(*words).code == 0
        return out

    return train


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that can stop every 20 rows."""
    monkeypatch.setattr(scorer, "ROWS", 20)
    monkeypatch.setattr(scorer, "PAIRS", 20 * 60)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """SIGTERM in the n-th piece."""

    def plan(method: str, number: int) -> None:
        real, calls = getattr(CollaborativeScorer, method), [0]

        def called(*arguments: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                signal.raise_signal(signal.SIGTERM)
            return real(*arguments, **named)

        monkeypatch.setattr(CollaborativeScorer, method, called)

    return plan


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "rectool.json"}


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("name", "method", "flags"),
    [("sasrec", "score", ("--threshold", "valid")), ("ncf", "rank", ("--topk", "--draws", 0))],
)
def test_a_stopped_evaluation_goes_on_where_it_was(
    rectool: Command, data: Path, model: Any, stop_at: Any, tmp_path: Path, name: str, method: str, flags: Any
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = ("eval", data, model(name), *flags)
    assert rectool(*words, "--out", whole).code == 0
    rows = pq.read_metadata(whole / "predictions.parquet").num_rows
    assert rows > 80

    stop_at(method, 3)
    stopped = rectool(*words, "--out", out)
    assert stopped.code == 75
    said = f"stopped at row 60 of {rows:,} (terminated); the same command with --resume goes on"
    assert stopped.error == said
    assert not out.exists()
    partial = folder.partial_of(out)
    assert [step for step, _ in unfinished.checkpoints(partial / folder.CHECKPOINTS)] == [60]

    refused = rectool(*words, "--out", out)
    assert f"{out} stopped at step 60; --resume continues it" in refused.error
    assert "warm was seen, is count>2" in rectool(*words, "--out", out, "--resume", "--warm", "count>2").error

    resumed = rectool(*words, "--out", out, "--update")
    assert resumed.code == 0, resumed.stderr
    assert f"going on from row 60 of {rows:,}" in resumed.stderr
    assert files(out) == files(whole)
    open_artifact(out, "result", verify=True)
    assert not partial.exists()


@pytest.mark.usefixtures("small_pieces")
def test_out_of_time_again_and_again(
    rectool: Command, data: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run does one piece at least, of the target rows or of those that the threshold is chosen on."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = ("eval", data, model("sasrec"), "--threshold", "valid", "--draws", 0)
    assert rectool(*words, "--out", whole).code == 0
    monkeypatch.setattr(Resumable, "max_seconds", lambda make: 0.0)
    codes = [rectool(*words, "--out", out).code]
    while codes[-1] == 75 and len(codes) < 20:
        codes.append(rectool(*words, "--out", out, "--resume").code)
    rows = [
        pq.read_table(data / "interactions.parquet").column("split").to_pylist().count(s) for s in ("test", "valid")
    ]
    assert len(codes) == 1 + sum(-(-count // 20) for count in rows)
    assert codes[-1] == 0
    assert files(out) == files(whole)
