"""`rectool train-cf`, killed, terminated, interrupted and out of time, ends where an undisturbed run does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rectool.artifacts import folder, open_artifact, unfinished

Command = Callable[..., Any]
OFTEN = ("--checkpoint-minutes", 0.0001)
PATIENCE = 60.0
STEPS = 300


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(rectool: Command, tmp_path: Path) -> Path:
    out = tmp_path / "data"
    assert rectool("prep", "synthetic", "--users", 60, "--items", 60, "--quiet", "--out", out).code == 0
    return out


def line(data: Path, out: Path, *more: object) -> list[object]:
    """All that chance has a hand in: dropout, negatives, batches; and all that changes from step to step."""
    model = ("--model", "sasrec", "--embedding-size", 16, "--heads", 2, "--max-length", 10, "--dropout", 0.3)
    objective = ("--task", "next-item", "--loss", "sampled-softmax", "--negatives", 20, "--negatives-by", "popularity")
    fit = ("--steps", STEPS, "--batch-size", 16, "--schedule", "cosine", "--warmup", 0.1, "--validate-epochs", 0.7)
    return ["train-cf", data, *model, *objective, *fit, "--patience", 0, "--seed", 3, "--out", out, *more]


def steps(out: Path) -> list[tuple[int, int]]:
    """Step, and batch inside the epoch, of the checkpoints there are."""
    found = []
    for step, path in unfinished.checkpoints(folder.partial_of(out) / folder.CHECKPOINTS):
        try:
            found.append((step, json.loads((path / "state.json").read_text())["state"]["progress"]["batch"]))
        except OSError:  # removed meanwhile
            continue
    return found


def killed(out: Path, *arguments: object) -> None:
    """Run the command by itself, and kill it in the middle of an epoch once it has a checkpoint from there."""
    command = [sys.executable, "-m", "rectool", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not any(step > 2 and batch for step, batch in steps(out)):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def test_a_run_ends_the_same_whatever_came_in_between(
    data: Path, rectool: Command, signals: dict[int, int], tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"

    killed(out, *line(data, out, *OFTEN))
    assert not out.exists()
    at, _ = steps(out)[-1]

    refused = rectool(*line(data, out))
    assert refused.code == 2
    assert f"{out} stopped at step {at}; --resume continues it" in refused.error
    for changed, said in (
        (("--learning-rate", 0.5), "learning_rate was 0.001, is 0.5"),
        (("--dropout", 0.1), "dropout was 0.3, is 0.1"),
        (("--seed", 4), "seed was 3, is 4"),
    ):
        refused = rectool(*line(data, out), "--resume", *changed)
        assert refused.code == 2
        assert said in refused.error
        assert "set them as they were, or start anew with --overwrite" in refused.error

    for number, code, word in ((signal.SIGTERM, 75, "terminated"), (signal.SIGINT, 130, "interrupted")):
        signals[at + 5] = number
        done = rectool(*line(data, out), "--resume")
        assert done.code == code
        assert f"going on from the checkpoint of step {at}" in done.stderr
        assert done.error == (
            f"stopped at step {at + 5} of {STEPS} at most ({word}), with a checkpoint; "
            "the same command with --resume goes on"
        )
        assert not out.exists()
        at += 5
    signals.clear()

    done = rectool(*line(data, out), "--resume")
    assert done.code == 0, done.stderr
    assert rectool(*line(data, whole)).code == 0
    mine, theirs = open_artifact(out, "cf", verify=True).manifest, open_artifact(whole, "cf", verify=True).manifest
    assert "curve.parquet" in mine.files
    for name in theirs.files:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert mine.files == theirs.files
    assert mine.digests == theirs.digests
    assert {**mine.metrics, "targets_per_second": 0} == {**theirs.metrics, "targets_per_second": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out", "whole"]

    again = rectool(*line(data, out), "--resume")
    assert again.code == 2
    assert f"--resume: {out} is finished" in again.error


def test_when_time_is_up_there_is_a_checkpoint(data: Path, rectool: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    long = ("--steps", 1_000_000, "--max-time", "1s")
    done = rectool(*line(data, out), *long)
    assert done.code == 75
    assert "of 1000000 at most (--max-time: 1 s have passed), with a checkpoint; " in done.error
    first, _ = steps(out)[-1]
    again = rectool(*line(data, out), *long, "--update")  # goes on, too
    assert again.code == 75
    assert f"going on from the checkpoint of step {first}" in again.stderr
    assert steps(out)[-1][0] > first
    assert not out.exists()
