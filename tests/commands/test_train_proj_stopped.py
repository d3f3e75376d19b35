"""`rectool train-proj`, stopped and out of time, ends where an undisturbed run does, bit for bit."""

from __future__ import annotations

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
def line(data: Path, shelf: Path, rectool: Command, tiny_llm: Callable[..., Path]) -> Callable[..., list[object]]:
    """A command in which chance has a hand in all it can: dropout, batches, hidden rows, new parts."""
    sasrec = shelf / "sasrec"
    if not sasrec.exists():
        words = ("--model", "sasrec", "--embedding-size", 8, "--epochs", 1, "--max-length", 6, "--quiet")
        assert rectool("train-cf", data, *words, "--out", sasrec).code == 0

    def make(out: Path, *more: object) -> list[object]:
        fit = ("--epochs", 3, "--samples", 96, "--batch-size", 16, "--validate-epochs", 0.6, "--patience", 0)
        model = ("--llm", tiny_llm("gpt2"), "--cf", sasrec, "--tokens", "user,item", "--unknown-share", 0.3)
        rates = ("--learning-rate", 0.003, "--cf-learning-rate", 0.001)
        return ["train-proj", data, *model, *fit, *rates, "--history", 3, "--seed", 3, "--out", out, *more]

    return make


@pytest.mark.parametrize(
    "flags",
    [("--train", "projector,cf"), ("--train", "projector,cf,lora", "--adapter", "new", "--mix", "linear")],
    ids=["frozen", "joint"],
)
def test_a_run_ends_the_same_whatever_came_in_between(
    flags: tuple[str, ...],
    line: Callable[..., list[object]],
    rectool: Command,
    signals: dict[int, int],
    tmp_path: Path,
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    more: tuple[str, ...] = ()
    for at, number, code in ((4, signal.SIGTERM, 75), (9, signal.SIGINT, 130)):
        signals[at] = number
        done = rectool(*line(out, *flags, *more))
        assert done.code == code, done.stderr
        assert f"stopped at step {at} of 18 at most" in done.error
        step, path = unfinished.checkpoints(folder.partial_of(out) / folder.CHECKPOINTS)[-1]
        assert step == at
        names = {name.split(".")[1] for name in load_file(path / "tensors.safetensors") if name.startswith("last.")}
        assert names == {"soft", *(["model"] if "new" in flags else [])}
        more = ("--resume",)
    signals.clear()
    changed = rectool(*line(out, *flags, "--resume", "--unknown-share", 0.1))
    assert changed.code == 2
    assert "unknown_share was 0.3, is 0.1; set them as they were" in changed.error
    done = rectool(*line(out, *flags, "--resume"))
    assert done.code == 0, done.stderr
    assert "going on from the checkpoint of step 9" in done.stderr
    assert rectool(*line(whole, *flags)).code == 0
    mine, theirs = (open_artifact(path, "llm", verify=True).manifest for path in (out, whole))
    assert mine.files == theirs.files
    speeds = {"targets_per_second": 0, "tokens_per_second": 0}
    assert {**mine.metrics, **speeds} == {**theirs.metrics, **speeds}
