"""The one loop: what it does with any objective, step by step."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rectool.errors import RectoolError, Stopped
from rectool.training import loop
from rectool.training.checkpoint import Checkpoints
from rectool.training.loop import fit, rate_at
from rectool.training.pace import Pace
from rectool.training.run import Fitted, Run
from rectool.training.settings import Fit

CPU = torch.device("cpu")
RUN = Run(seed=0, device=CPU, metric="auc")
PLAIN = Fit(epochs=3, batch_size=8, learning_rate=0.1, patience=0)


# Steps


def test_every_sample_is_seen_once_an_epoch(points: Any) -> None:
    objective = points()
    fitted = fit(objective, PLAIN, RUN)
    batches = [objective.batches(8, (0, epoch)) for epoch in range(3)]
    assert objective.seen == [batch.tolist() for epoch in batches for batch in epoch]
    assert fitted.progress.step == len(objective.seen)
    assert fitted.progress.epoch == 3
    assert not fitted.stopped_early
    assert fitted.targets_per_second > 0


def test_steps_instead_of_epochs(points: Any) -> None:
    objective = points()
    fitted = fit(objective, replace(PLAIN, steps=17), RUN)
    assert len(objective.seen) == fitted.progress.step == 17
    assert fitted.progress.curve[-1][0] == 17


def test_it_finds_the_minimum(points: Any) -> None:
    objective = points()
    fitted = fit(objective, replace(PLAIN, epochs=60, batch_size=30, schedule="cosine"), RUN)
    weights = torch.from_numpy(objective.counts)[:, None]
    mean = (objective.points * weights).sum(0) / weights.sum()
    torch.testing.assert_close(fitted.last["point"], mean, rtol=0, atol=0.3)


def test_frozen_parameters_are_left_alone_and_unused_ones_stay(points: Any) -> None:
    fitted = fit(points(), replace(PLAIN, weight_decay=0.0), RUN)
    assert fitted.last.keys() == {"point", "unused"}
    assert fitted.last["unused"].tolist() == [1, 1]


def test_nothing_to_train_is_an_error(points: Any) -> None:
    objective = points()
    objective.module.requires_grad_(False)
    with pytest.raises(RectoolError, match="every part is frozen"):
        fit(objective, PLAIN, RUN)


def test_the_loss_of_a_step_is_a_mean_over_targets(points: Any) -> None:
    """One step of Adam without momentum or curvature to speak of: the gradient itself is looked at."""
    objective = points(samples=5)
    settings = replace(PLAIN, steps=1, batch_size=100)
    fit(objective, settings, RUN)
    gradient = objective.module.point.grad
    (batch,) = objective.seen
    counts = torch.from_numpy(objective.counts[batch])[:, None]
    expected = 2 * (counts * (3.0 - objective.points[batch])).sum(0) / counts.sum()
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_parts_of_a_step_add_up_to_it(parts: int, points: Any) -> None:
    whole, cut = (points() for _ in range(2))
    one, other = (fit(each, replace(PLAIN, accumulate=n), RUN) for each, n in ((whole, 1), (cut, parts)))
    assert len(cut.seen) > len(whole.seen)
    assert sorted(chain(*cut.seen)) == sorted(chain(*whole.seen))
    torch.testing.assert_close(one.last, other.last, rtol=1e-4, atol=1e-5)
    assert [point[:4] for point in one.progress.curve] == [point[:4] for point in other.progress.curve]
    for mine, yours in zip(one.progress.curve, other.progress.curve, strict=True):
        assert mine[4] == pytest.approx(yours[4], rel=1e-4)


def test_the_gradient_is_clipped(points: Any) -> None:
    norms = []
    for clip in (0.0, 0.5):
        objective = points()
        fit(objective, replace(PLAIN, steps=1, clip=clip), RUN)
        norms.append(float(objective.module.point.grad.norm()))
    assert norms[0] > 1
    assert norms[1] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_weight_decay(optimizer: Any, points: Any) -> None:
    """adamw shrinks what has no gradient by rate x decay a step; adam takes the decay for a gradient."""
    settings = replace(PLAIN, steps=4, optimizer=optimizer, weight_decay=0.1, learning_rate=0.01)
    left = fit(points(), settings, RUN).last["unused"][0]
    assert float(left) == pytest.approx((1 - 0.001) ** 4 if optimizer == "adamw" else 1 - 4 * 0.01, rel=1e-4)


@pytest.mark.parametrize("beta2", [0.999, 0.5])
def test_adam_forgets_squared_gradients_at_the_rate_asked_for(beta2: float, points: Any) -> None:
    """Against Adam's formulas (Kingma and Ba 2015, algorithm 1), step by step."""
    objective = points()
    value, mean, square = objective.module.point.detach().double().clone(), torch.zeros(3), torch.zeros(3)
    fit(objective, replace(PLAIN, steps=4, beta2=beta2), RUN)
    for step, samples in enumerate(objective.seen, 1):
        counts = torch.from_numpy(objective.counts[samples])
        distances = value - objective.points[samples].double()
        gradient = 2 * (distances * counts[:, None]).sum(0) / counts.sum()
        mean, square = 0.9 * mean + 0.1 * gradient, beta2 * square + (1 - beta2) * gradient**2
        value -= 0.1 * (mean / (1 - 0.9**step)) / ((square / (1 - beta2**step)).sqrt() + 1e-8)
    torch.testing.assert_close(objective.module.point.detach().double(), value, rtol=1e-5, atol=1e-5)


# Rates


@pytest.mark.parametrize(
    ("warmup", "schedule", "rates"),
    [
        (0.0, "constant", [1, 1, 1, 1, 1]),
        (0.5, "constant", [0, 0.5, 1, 1, 1]),
        (0.0, "linear", [1, 0.75, 0.5, 0.25, 0]),
        (0.5, "linear", [0, 0.5, 1, 0.5, 0]),
        (0.5, "cosine", [0, 0.5, 1, 0.5, 0]),
        (0.0, "cosine", [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2, 0]),
        (1.0, "linear", [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_rates_by_the_share_of_steps_done(warmup: float, schedule: str, rates: list[float]) -> None:
    found = [rate_at(progress, warmup, schedule) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx(rates)
    assert rate_at(1.2, warmup, schedule) == pytest.approx(rates[-1])  # epochs may have more steps than the first


def test_each_step_has_its_rate_and_none_is_wasted(points: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    real = torch.optim.Adam.step

    def step(optimizer: Any, *arguments: Any, **named: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return real(optimizer, *arguments, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    fit(points(), replace(PLAIN, steps=10, warmup=0.2, schedule="linear", learning_rate=0.5), RUN)
    assert len(rates) == 10
    assert rates[:2] == pytest.approx([0.125, 0.375])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[2] == pytest.approx(0.5 * (1 - 0.5 / 8))
    assert rates[-1] == pytest.approx(0.5 * 0.5 / 8)
    rates.clear()
    fit(points(), replace(PLAIN, steps=1, schedule="cosine"), RUN)
    assert rates[0] > 0


def test_parameters_may_have_rates_of_their_own(points: Any) -> None:
    """One that is twice as fast as the others goes twice as far in Adam's first step; one of rate 0 stays."""
    objective = points()
    objective.module.other = torch.nn.Parameter(torch.full((3,), 3.0))
    real = objective.loss
    objective.loss = lambda samples: real(samples) + objective.module.other.sum()
    before = objective.module.point.detach().clone()
    settings = replace(PLAIN, steps=1, learning_rate=0.01)
    for rate in (0.0, 0.02):
        fitted = fit(objective, settings, replace(RUN, rates={"oth": rate}))
        assert float((fitted.last["other"] - 3).abs().max()) == pytest.approx(rate, rel=1e-3)
        with torch.no_grad():
            objective.module.other.fill_(3.0)
    assert float((fitted.last["point"] - before).abs().max()) == pytest.approx(0.02, rel=0.01)  # two steps of 0.01


# Validation


def curve(fitted: Fitted, split: str) -> list[tuple[int, float]]:
    return [(step, epoch) for step, epoch, of, *_ in fitted.progress.curve if of == split]


def test_validation_comes_after_each_epoch(points: Any) -> None:
    objective = points()
    fitted = fit(objective, PLAIN, RUN)
    lengths = [len(objective.batches(8, (0, epoch))) for epoch in range(3)]
    assert len(set(lengths)) > 1
    steps = [sum(lengths[: epoch + 1]) for epoch in range(3)]
    assert curve(fitted, "valid") == curve(fitted, "train") == [(steps[n], n + 1) for n in range(3)]


@pytest.mark.parametrize(("interval", "times"), [(0.5, 6), (2.0, 2), (1.5, 2), (100.0, 1), (0.001, None)])
def test_validation_by_epochs(interval: float, times: int | None, points: Any) -> None:
    """And once more for the steps that are left at the end; never more than once a step."""
    fitted = fit(points(), replace(PLAIN, validate_epochs=interval), RUN)
    found = curve(fitted, "train")
    assert len(found) == (times or fitted.progress.step)
    assert [step for step, _ in found] == sorted({step for step, _ in found})
    assert found[-1] == (fitted.progress.step, 3)


def test_validation_by_steps(points: Any) -> None:
    fitted = fit(points(), replace(PLAIN, steps=11, validate_steps=4), RUN)
    assert [step for step, _ in curve(fitted, "train")] == [4, 8, 11]


def test_the_curve_has_the_mean_loss_of_targets_since_the_point_before(points: Any) -> None:
    objective = points()
    settings = replace(PLAIN, learning_rate=0.0, epochs=2)
    found = [value for *_, split, _, value in fit(objective, settings, RUN).progress.curve if split == "train"]
    counts = torch.from_numpy(objective.counts)
    mean = float(((3.0 - objective.points).square().sum(1) * counts).sum() / counts.sum())
    assert found == pytest.approx([mean, mean], rel=1e-5)


def test_the_best_weights_are_kept(points: Any) -> None:
    objective = points()
    weights: list[torch.Tensor] = []
    values = [{"auc": value} for value in (0.5, 0.7, 0.6, 0.7, 0.1)]
    objective.values = list(values)
    real = objective.validate

    def validate() -> Any:
        weights.append(objective.module.point.detach().clone())
        return real()

    objective.validate = validate
    fitted = fit(objective, replace(PLAIN, epochs=5), RUN)
    assert fitted.best["point"].equal(weights[1])
    assert fitted.last["point"].equal(weights[4])
    assert fitted.progress.best == 0.7
    assert (fitted.progress.best_step, 2.0) == curve(fitted, "valid")[1]


def test_a_loss_is_better_where_it_is_lower(points: Any) -> None:
    objective = points()
    objective.values = [{"log_loss": value} for value in (0.5, 0.3, 0.4)]
    fitted = fit(objective, PLAIN, replace(RUN, metric="log_loss"))
    assert fitted.progress.best == 0.3


def test_a_metric_that_is_not_defined_on_the_validation_rows(points: Any, capsys: pytest.CaptureFixture[str]) -> None:
    objective = points()
    fitted = fit(objective, replace(PLAIN, patience=1), replace(RUN, metric="uauc"))
    assert not fitted.stopped_early
    assert fitted.progress.best is None
    assert fitted.best["point"].equal(fitted.last["point"])
    said = capsys.readouterr().err
    assert said.count("uauc is not defined on the validation rows") == 1
    assert "(best)" not in said


@pytest.mark.parametrize(
    ("patience", "values", "validations"),
    [
        (2, [0.5, 0.4, 0.6, 0.5, 0.6, 0.9], 5),
        (1, [0.5, 0.5, 0.9], 2),
        (3, [0.5, 0.4, 0.3, 0.9], 4),
        (0, [0.5, 0.4, 0.3, 0.2], 4),
    ],
)
def test_early_stopping(patience: int, values: list[float], validations: int, points: Any) -> None:
    objective = points()
    objective.values = [{"auc": value} for value in values]
    fitted = fit(objective, replace(PLAIN, epochs=len(values), patience=patience), RUN)
    assert len(curve(fitted, "valid")) == validations
    assert fitted.progress.best == max(values[:validations])
    assert fitted.stopped_early == (validations < len(values))


def test_running_out_of_patience_at_the_end_is_no_early_stop(points: Any) -> None:
    objective = points()
    objective.values = [{"auc": 0.5}, {"auc": 0.4}]
    fitted = fit(objective, replace(PLAIN, epochs=2, patience=1), RUN)
    assert fitted.progress.epoch == 2
    assert not fitted.stopped_early


def test_without_validation_the_last_weights_are_the_best(points: Any) -> None:
    objective = points()
    objective.values = []
    fitted = fit(objective, replace(PLAIN, patience=1), RUN)
    assert fitted.progress.best is None
    assert fitted.best["point"].equal(fitted.last["point"])
    assert not curve(fitted, "valid")
    assert len(curve(fitted, "train")) == 3


@pytest.mark.parametrize("said", [True, False])
def test_what_is_said(said: bool, points: Any, capsys: pytest.CaptureFixture[str]) -> None:
    objective = points()
    objective.values = [{"auc": 0.5}, {"auc": 0.4}] if said else []
    fit(objective, replace(PLAIN, epochs=2), RUN)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1, step ")
    assert second.endswith(" targets/s")
    assert ("valid auc 0.5000 (best); " in first) == said
    assert ("valid auc 0.4000; " in second) == said


class Clock:
    """A clock on which a step takes 2 s, its first 500 s, and a validation 40 s."""

    def __init__(self, objective: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.loss, self.validate = objective.loss, objective.validate
        objective.loss, objective.validate = self.on_loss, self.on_validation
        self.steps = 0
        monkeypatch.setattr(loop.time, "perf_counter", self)
        monkeypatch.setattr(loop, "Pace", lambda: Pace(self))

    def __call__(self) -> float:
        return self.now

    def on_loss(self, samples: Any) -> torch.Tensor:
        self.now += 2.0 if self.steps else 500.0
        self.steps += 1
        return self.loss(samples)

    def on_validation(self) -> Any:
        self.now += 40.0
        return self.validate()


def test_how_long_it_will_take(
    points: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After ten steps, without what the first one took; after a validation with those that are to come."""
    objective = points()
    Clock(objective, monkeypatch)
    fit(objective, replace(PLAIN, steps=100, validate_steps=30), RUN)
    first, *validated = capsys.readouterr().err.splitlines()
    assert first == "about 3 min for the 90 steps that remain at most, validation aside"
    left = [line.rpartition(" targets/s")[2] for line in validated]
    assert left == [
        "; about 4 min left at most",  # 70 steps and validations after 60, 90 and 100: 260 s
        "; about 3 min left at most",  # 160 s
        "; about 1 min left at most",  # 60 s
        "",
    ]


def test_how_long_it_will_take_from_a_checkpoint_on(
    points: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = replace(PLAIN, steps=100, validate_steps=30)
    run = replace(RUN, checkpoints=Checkpoints(tmp_path))
    with pytest.raises(Stopped):
        objective = points()
        objective.before = lambda: len(objective.seen) == 28 and signal.raise_signal(signal.SIGTERM)
        fit(objective, settings, run)
    objective = points()
    clock = Clock(objective, monkeypatch)
    capsys.readouterr()
    fit(objective, settings, replace(run, resumed=True))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "going on from the checkpoint of step 29"
    assert clock.steps == 71
    assert said[1].startswith("epoch ")
    assert said[1].endswith(" targets/s")  # one step is too little to go by
    assert said[2] == "about 4 min for the 61 steps that remain at most"  # and 3 validations: 242 s
    assert said[3].endswith("; about 3 min left at most")


@pytest.mark.parametrize("validate_epochs", [0.5, 0.7, 1.0, 1.5, 0.001, 100.0])
def test_validations_that_are_left_are_those_that_come(
    validate_epochs: float, points: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that only validations move, the time that is left is exactly theirs."""
    objective = points()
    size = np.arange(len(objective.points))
    objective.batches = lambda *_: np.array_split(size, 7)  # epochs of the same length
    told: list[tuple[int, float]] = []
    now = [0.0]
    monkeypatch.setattr(loop, "Pace", lambda: Pace(lambda: now[0]))
    real = objective.validate

    def validate() -> Any:
        now[0] += 50.0
        return real()

    objective.validate = validate
    real_after = loop._Loop._after_step

    def after_step(self: Any) -> None:
        real_after(self)
        if self._seconds_left() is not None and self.pace.validations:
            told.append((self.pace.validations, self._seconds_left() / 50))

    monkeypatch.setattr(loop._Loop, "_after_step", after_step)
    fitted = fit(objective, replace(PLAIN, epochs=4, validate_epochs=validate_epochs), RUN)
    validations = len(curve(fitted, "valid"))
    assert all(done + left == validations for done, left in told)
    assert told or validations == 1


def test_a_short_run_does_not_say_how_long(points: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(points(), replace(PLAIN, steps=100), RUN)
    assert "remain" not in capsys.readouterr().err


# What goes wrong


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_the_checkpoint_stays(
    value: float, points: Any, tmp_path: Path
) -> None:
    objective = points()
    real, checkpoints = objective.loss, Checkpoints(tmp_path)

    def loss(samples: Any) -> torch.Tensor:
        found = real(samples)
        return found * value if len(objective.seen) == 7 else found

    objective.loss = loss
    run = replace(RUN, checkpoints=checkpoints, checkpoint_seconds=0.0)
    with pytest.raises(RectoolError) as error:
        fit(objective, PLAIN, run)
    assert error.value.exit_code == 2
    assert f"the loss is {value} at step 7 (epoch " in str(error.value)
    assert "the checkpoint of step 6 stays" in str(error.value)
    assert checkpoints.latest().step == 6
    assert all(tensor.isfinite().all() for tensor in checkpoints.latest().tensors.values())


def test_too_little_memory_makes_parts(points: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The step that failed is computed again, and what comes after it in as many parts."""
    whole, short = points(), points()
    real = short.loss

    def loss(samples: Any) -> torch.Tensor:
        if len(samples) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(samples)

    short.loss = loss
    one, other = (fit(each, replace(PLAIN, epochs=2), RUN) for each in (whole, short))
    assert other.progress.parts == 4
    torch.testing.assert_close(one.last, other.last, rtol=1e-4, atol=1e-5)
    said = capsys.readouterr().err
    assert "a step is computed in parts of 1/2 from here on" in said
    assert "a step is computed in parts of 1/4 from here on" in said


@pytest.mark.parametrize("advice", [None, "choose --quantize 4bit"])
def test_too_little_memory_for_one_sample_is_an_error(advice: str | None, points: Any) -> None:
    objective = points()

    def loss(samples: Any) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    objective.loss = loss
    run = RUN if advice is None else replace(RUN, memory_advice=advice)
    with pytest.raises(RectoolError) as error:
        fit(objective, PLAIN, run)
    assert str(error.value) == (
        f"cpu has too little memory for a single sample; {advice or 'choose a smaller model, or --device cpu'}"
    )


def test_parts_that_never_get_down_to_one_sample_end_too(points: Any) -> None:
    """As those of align, which bring anchors along."""
    objective = points()
    objective.parts = lambda samples, count: [np.concatenate((part, [0])) for part in np.array_split(samples, count)]

    def loss(samples: Any) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    objective.loss = loss
    with pytest.raises(RectoolError, match="too little memory for a single sample"):
        fit(objective, PLAIN, RUN)


def test_an_objective_cuts_its_own_parts(points: Any) -> None:
    """However it does, the gradients add up to those of the whole step."""
    whole, cut = points(), points()

    def parts(samples: Any, count: int) -> list[Any]:
        by_count = samples[cut.counts[samples].argsort()]
        return [by_count[: len(by_count) // 3], by_count[len(by_count) // 3 :]]

    cut.parts = parts
    one, other = (fit(each, PLAIN, RUN) for each in (whole, cut))
    torch.testing.assert_close(one.last, other.last, rtol=1e-4, atol=1e-5)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 with its scaler, on a CPU."""
    monkeypatch.setattr(loop, "precision_named", lambda *_: torch.float16)


class Overflowing(torch.autograd.Function):
    """A finite loss whose gradient overflows where it was scaled up too much."""

    @staticmethod
    def forward(context: Any, value: torch.Tensor, largest: float) -> torch.Tensor:
        context.largest = largest
        return value.clone()

    @staticmethod
    def backward(context: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.where(upstream <= context.largest, upstream, math.inf), None


@pytest.mark.usefixtures("half")
def test_steps_that_overflow_in_fp16_are_skipped_and_counted(points: Any) -> None:
    objective = points()
    real, weights = objective.loss, []

    def loss(samples: Any) -> torch.Tensor:
        weights.append(objective.module.point.detach().clone())
        return Overflowing.apply(real(samples), 60.0)

    objective.loss = loss
    fitted = fit(objective, replace(PLAIN, steps=20), RUN)
    weights.append(fitted.last["point"])
    assert 2 < fitted.progress.skipped < 18
    assert sum(before.equal(after) for before, after in pairwise(weights)) == fitted.progress.skipped
    torch.testing.assert_close(weights[-1], weights[0] - 0.1 * (20 - fitted.progress.skipped), rtol=0, atol=0.2)


@pytest.mark.usefixtures("half")
def test_overflow_again_and_again_ends_the_run(points: Any) -> None:
    objective = points()
    real = objective.loss
    objective.loss = lambda samples: Overflowing.apply(real(samples), 0.0)
    with pytest.raises(RectoolError) as error:
        fit(objective, replace(PLAIN, steps=100), RUN)
    assert "fp16 overflowed in 30 steps in a row (step 29); " in str(error.value)
    assert "--precision fp32" in str(error.value)
