"""`rectool tune-lora`, stopped and out of time, ends where an undisturbed run does, bit for bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rectool.artifacts import folder, open_artifact, unfinished

Command = Callable[..., Any]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def line(rectool: Command, tiny_llm: Callable[..., Path], tmp_path: Path) -> Callable[..., list[object]]:
    """A command in which chance has a hand in all it can: dropout, batches, the start of adapters."""
    data = tmp_path / "data"
    assert rectool("prep", "synthetic", "--users", 25, "--items", 40, "--quiet", "--out", data).code == 0

    def make(out: Path, *more: object) -> list[object]:
        fit = ("--epochs", 3, "--batch-size", 16, "--batch-tokens", 700, "--validate-epochs", 0.6, "--patience", 0)
        model = ("--llm", tiny_llm("gpt2"))  # with dropout of its own
        return ["tune-lora", data, *model, *fit, "--learning-rate", 0.003, "--seed", 3, "--out", out, *more]

    return make


def checkpoints(out: Path) -> list[tuple[int, Path]]:
    return unfinished.checkpoints(folder.partial_of(out) / folder.CHECKPOINTS)


@pytest.mark.parametrize("flags", [(), ("--full", "--answer-loss", "yes-logit")], ids=["lora", "full"])
def test_a_run_ends_the_same_whatever_came_in_between(
    flags: tuple[str, ...],
    line: Callable[..., list[object]],
    rectool: Command,
    signals: dict[int, int],
    tmp_path: Path,
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    at, more = 8, ()
    for number, code, word in ((signal.SIGTERM, 75, "terminated"), (signal.SIGINT, 130, "interrupted")):
        signals[at] = number
        done = rectool(*line(out, *flags, *more))
        assert done.code == code, done.stderr
        assert f"stopped at step {at} of 39 at most ({word}), with a checkpoint" in done.error
        step, path = checkpoints(out)[-1]
        assert step == at
        assert json.loads((path / "state.json").read_text())["state"]["progress"]["batch"] % 13 != 0  # inside an epoch
        names = {name.partition(".")[2] for name in load_file(path / "tensors.safetensors") if name.startswith("last.")}
        assert all(".lora_" in name for name in names) or flags  # what is frozen is not kept
        at, more = at + 15, ("--resume",)
    signals.clear()
    changed = rectool(*line(out, *flags, "--resume", "--history", 3))
    assert changed.code == 2
    assert "history was 10, is 3; set them as they were" in changed.error

    done = rectool(*line(out, *flags, "--resume", "--checkpointing", "off"))  # how it is computed may change
    assert done.code == 0, done.stderr
    assert "going on from the checkpoint of step 23" in done.stderr
    assert rectool(*line(whole, *flags)).code == 0
    mine, theirs = (open_artifact(path, "llm", verify=True).manifest for path in (out, whole))
    assert mine.files == theirs.files
    speeds = {"targets_per_second": 0, "tokens_per_second": 0}
    assert {**mine.metrics, **speeds} == {**theirs.metrics, **speeds}


def test_when_time_is_up_there_is_a_checkpoint(
    line: Callable[..., list[object]], rectool: Command, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = rectool(*line(out, "--steps", 1_000_000, "--max-time", "1s"))
    assert done.code == 75
    assert "of 1000000 at most (--max-time: 1 s have passed), with a checkpoint; " in done.error
    first, _ = checkpoints(out)[-1]
    again = rectool(*line(out, "--steps", 1_000_000, "--max-time", "1s", "--update"))  # goes on, too
    assert again.code == 75
    assert f"going on from the checkpoint of step {first}" in again.stderr
    assert not out.exists()
