"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rectool.errors import Stopped
from rectool.training.checkpoint import Checkpoints
from rectool.training.loop import fit
from rectool.training.run import Fitted, Run
from rectool.training.settings import Fit

RUN = Run(seed=0, device=torch.device("cpu"), metric="auc")
PLAIN = Fit(epochs=3, batch_size=8, learning_rate=0.1, patience=0)
DRAWN_OUT = Fit(epochs=4, batch_size=6, learning_rate=0.05, warmup=0.1, schedule="cosine", validate_epochs=0.7)


@pytest.fixture(autouse=True)
def no_stray_signals() -> Iterator[None]:
    """Fail rather than hang or die where a signal is not heeded."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def same(one: Fitted, other: Fitted) -> bool:
    return (
        one.progress == other.progress
        and one.stopped_early == other.stopped_early
        and all(
            mine.keys() == yours.keys() and all(mine[name].equal(yours[name]) for name in mine)
            for mine, yours in ((one.best, other.best), (one.last, other.last))
        )
    )


def stopped_at(objective: Any, step: int, number: int = signal.SIGTERM) -> None:
    """Have a signal come in the middle of a step."""

    def before() -> None:
        if len(objective.seen) == step - 1:
            signal.raise_signal(number)

    objective.before = before


@pytest.mark.parametrize("settings", [DRAWN_OUT, replace(DRAWN_OUT, steps=15, epochs=100)])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(settings: Fit, points: Any, tmp_path: Path) -> None:
    """After any step: inside an epoch, at its end, before and after validations; twice, too."""
    undisturbed = fit(points(noise=0.3), settings, RUN)
    steps = undisturbed.progress.step
    assert steps > 10
    for step in range(1, steps):
        run = replace(RUN, checkpoints=Checkpoints(tmp_path / str(step)))
        objective = points(noise=0.3)
        stopped_at(objective, step)
        with pytest.raises(Stopped) as stopped:
            fit(objective, settings, run)
        assert stopped.value.exit_code == 75
        assert f"stopped at step {step} of {undisturbed.progress.total} at most (terminated)" in str(stopped.value)
        again = points(noise=0.3)
        if step % 3 == 0 and step + 1 < steps:
            stopped_at(again, 1)
            with pytest.raises(Stopped):
                fit(again, settings, replace(run, resumed=True))
            again = points(noise=0.3)
        assert same(fit(again, settings, replace(run, resumed=True)), undisturbed), step


def test_the_same_seed_gives_the_same_bits_and_another_one_others(points: Any) -> None:
    one, same_seed, other = (fit(points(noise=0.3), PLAIN, replace(RUN, seed=seed)) for seed in (1, 1, 2))
    assert same(one, same_seed)
    assert not one.last["point"].equal(other.last["point"])


def test_checkpoints_change_nothing(points: Any, tmp_path: Path) -> None:
    saving = replace(RUN, checkpoints=Checkpoints(tmp_path), checkpoint_seconds=0.0)
    assert same(fit(points(noise=0.3), DRAWN_OUT, saving), fit(points(noise=0.3), DRAWN_OUT, RUN))
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupt_stops_with_a_checkpoint_too(points: Any, tmp_path: Path) -> None:
    objective = points()
    stopped_at(objective, 3, signal.SIGINT)
    with pytest.raises(Stopped) as stopped:
        fit(objective, PLAIN, replace(RUN, checkpoints=Checkpoints(tmp_path)))
    assert stopped.value.exit_code == 130
    assert "(interrupted)" in str(stopped.value)
    assert Checkpoints(tmp_path).latest().step == 3


def test_a_second_interrupt_ends_at_once(points: Any, tmp_path: Path) -> None:
    objective = points()
    objective.before = lambda: (signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit(objective, PLAIN, replace(RUN, checkpoints=Checkpoints(tmp_path)))
    assert Checkpoints(tmp_path).latest() is None


def test_signals_are_as_before_afterwards(points: Any) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    fit(points(), replace(PLAIN, epochs=1), RUN)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_time_is_up(points: Any, tmp_path: Path) -> None:
    with pytest.raises(Stopped) as stopped:
        fit(points(), PLAIN, replace(RUN, checkpoints=Checkpoints(tmp_path), max_seconds=0.0))
    assert stopped.value.exit_code == 75
    assert "--max-time: 0 s have passed" in str(stopped.value)
    assert Checkpoints(tmp_path).latest().step == 1


def test_who_is_done_is_not_stopped(points: Any, tmp_path: Path) -> None:
    objective = points()
    stopped_at(objective, 4)
    fitted = fit(objective, replace(PLAIN, steps=4), replace(RUN, checkpoints=Checkpoints(tmp_path)))
    assert fitted.progress.step == 4
    assert Checkpoints(tmp_path).latest() is None
