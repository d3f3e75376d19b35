"""What a run keeps does not grow with its steps, and what it says of itself neither."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rectool.errors import Stopped
from rectool.training.checkpoint import Checkpoints
from rectool.training.loop import fit
from rectool.training.run import Run
from rectool.training.settings import Fit

LONG = Fit(steps=160, validate_steps=20, batch_size=8, learning_rate=0.01, patience=0)
RUN = Run(seed=0, device=torch.device("cpu"), metric="auc", checkpoint_seconds=0.0)


def test_nothing_is_kept_of_a_step(points: Any, tmp_path: Path) -> None:
    objective = points()
    seen: list[tuple[int, int]] = []
    real = objective.validate

    def validate() -> Any:
        objective.seen.clear()
        gc.collect()
        there = gc.get_objects()
        seen.append((len(there), sum(issubclass(type(each), torch.Tensor) for each in there)))
        return real()

    objective.validate = validate
    fitted = fit(objective, LONG, replace(RUN, checkpoints=Checkpoints(tmp_path)))
    assert len(seen) == 8
    assert len({tensors for _, tensors in seen[2:]}) == 1
    assert seen[-1][0] - seen[2][0] < 60  # objects, in 100 steps
    assert len(fitted.progress.curve) == 16


def test_what_is_said_is_a_line_for_each_validation(points: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(points(), LONG, RUN)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8
    assert all(line.startswith("epoch ") for line in lines)


def test_two_checkpoints_stay_and_each_has_the_best_weights_however_old(points: Any, tmp_path: Path) -> None:
    objective = points()
    objective.values = [{"auc": value} for value in (0.9, *[0.1] * 50)]
    best: list[torch.Tensor] = []
    held: list[int] = []

    def before() -> None:
        step = len(objective.seen)
        if step == 10:
            best.append(objective.module.point.detach().clone())
        if step > 30:
            held.append(sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))
        if step == 150:
            objective.before = lambda: None
            raise KeyboardInterrupt

    objective.before = before
    settings = replace(LONG, validate_steps=10)
    run = replace(RUN, checkpoints=Checkpoints(tmp_path))
    with pytest.raises((KeyboardInterrupt, Stopped)):
        fit(objective, settings, run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-149", "step-150"]
    for path in tmp_path.iterdir():
        assert load_file(path / "tensors.safetensors")["best.point"].equal(best[0])
        assert json.loads((path / "state.json").read_text())["state"]["progress"]["best_step"] == 10
    assert held[-1] - held[0] < 2 * 100 * (150 - 30) / 10 * 2  # the curve: two points of 100 bytes a validation, twice
    going_on = points()
    going_on.values = [{"auc": 0.1}] * 50
    fitted = fit(going_on, settings, replace(run, resumed=True))
    assert fitted.progress.best_step == 10
    assert fitted.best["point"].equal(best[0])
    assert not fitted.last["point"].equal(best[0])
