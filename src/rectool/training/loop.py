"""The one training loop. A stage hands it an objective; it owns steps, time, checkpoints and the best weights.

What is random is seeded by (seed, step, process), and the order of batches by (seed, epoch), so that a
run that goes on from a checkpoint needs no generator's state to repeat itself bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool import console, processes
from rectool.devices import autocast, precision_named
from rectool.errors import RectoolError, Stopped
from rectool.stopping import StopRequests
from rectool.training.checkpoint import load_optimizer_state, optimizer_state
from rectool.training.memory import keep_freed_memory
from rectool.training.pace import WORTH_TELLING_SECONDS, Pace, in_words
from rectool.training.run import Fitted, Objective, Progress, Run
from rectool.training.settings import Fit

LOWER_IS_BETTER = frozenset({"log_loss", "loss"})
OVERFLOWS_IN_A_ROW = 30
"""Steps that the fp16 scaler may skip one after the other before the run is given up."""
CHECKED_EVERY = 20
"""Steps between looks at the loss on a GPU, where each look waits for the device."""


def fit(objective: Objective, settings: Fit, run: Run) -> Fitted:
    """Train until the epochs or steps are done, or validation has not improved for `patience` times.

    A step's loss is the sum over its targets in all processes, divided by their number.

    Raises:
        RectoolError: the loss is no longer finite, or fp16 overflows again and again.
        Stopped: `max_seconds` have passed or a signal asked for it; a checkpoint has been saved.
    """
    return _Loop(objective, settings, run).fit()


class _Loop:
    def __init__(self, objective: Objective, settings: Fit, run: Run) -> None:
        keep_freed_memory()
        self.objective, self.settings, self.run = objective, settings, run
        groups = _by_rate(objective.module, settings.learning_rate, run.rates)
        if not groups:
            raise RectoolError("there is nothing to train: every part is frozen")
        self.parameters = {name: p for parameters in groups.values() for name, p in parameters.items()}
        self.rates = list(groups)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
        self.optimizer = kind(
            [{"params": list(parameters.values()), "lr": rate} for rate, parameters in groups.items()],
            betas=(0.9, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.dtype = precision_named(settings.precision, run.device)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=self.dtype == torch.float16)
        self.stops = StopRequests(run.max_seconds if processes.is_main() else None)
        self.at = Progress(parts=settings.accumulate)
        self.best: dict[str, Tensor] = {}
        self.unchecked = torch.zeros((), dtype=torch.float64, device=run.device)  # losses not yet looked at
        self.overflows, self.unmeasured = 0, False
        self.pace = Pace()
        self.saved_at, self.saved_step = time.monotonic(), 0
        if run.resumed:
            self._resume()
        self.batches = self._epoch()
        if self.at.total == 0:
            self.at.total = settings.steps or settings.epochs * len(self.batches)

    def fit(self) -> Fitted:
        self.objective.module.train()
        with self.stops, console.progress("training", self.at.total, self.at.step, left=self._seconds_left) as advance:
            while not self._over():
                for batch in self.batches[self.at.batch :]:
                    stop, save = self._step(batch)
                    advance(1)
                    self._after_step()
                    if self._over():
                        break
                    if save or stop:
                        self._save()
                    if stop:
                        raise self._stopped()
                else:
                    self.batches = self._epoch()
            if self.at.targets:  # steps since the last validation
                self._validate()
        last = self._copy()
        stopped_early = self._exhausted() and not self._done()
        return Fitted(self.best or last, last, self.at, stopped_early, self.pace.targets_per_second)

    def _epoch(self) -> list[NDArray[np.int64]]:
        size = self.settings.batch_size * processes.world_size()
        return self.objective.batches(size, (self.run.seed, self.at.epoch))

    def _over(self) -> bool:
        return self._exhausted() or self._done()

    def _done(self) -> bool:
        if self.settings.steps is None:
            return self.at.epoch >= self.settings.epochs
        return self.at.step >= self.settings.steps

    def _exhausted(self) -> bool:
        return 0 < self.settings.patience <= self.at.waited

    def _step(self, batch: NDArray[np.int64]) -> tuple[bool, bool]:
        """One optimizer step; whether to stop, and whether to save."""
        started = time.perf_counter()
        rate = rate_at((self.at.step + 0.5) / self.at.total, self.settings.warmup, self.settings.schedule)
        for group, highest in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = highest * rate
        targets = self.objective.targets(batch)
        loss, stop, save = self._shared(self._gradient(batch, targets))
        self.unchecked += loss
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._count_overflow(self.scaler.get_scale() < scale)
        self.at.step += 1
        self.at.batch += 1
        self.at.targets += targets
        if self.run.device.type == "cpu" or self.at.step % CHECKED_EVERY == 0:
            self._check_losses()
        self.pace.count(time.perf_counter() - started, targets)
        if self.pace.to_be_told():
            self._check_losses()  # waits for a GPU, so that what it has yet to do counts too
            if left := self._left():
                aside = "" if self.pace.validations else ", validation aside"
                console.say(f"about {left} for the {self.at.total - self.at.step:,} steps that remain at most{aside}")
        return stop, save

    def _seconds_left(self) -> float | None:
        """How long the run will go on at most; None before its pace is known."""
        if not self.pace.known:
            return None
        interval = self.settings.validate_steps or max(1.0, self.settings.validate_epochs * len(self.batches))
        validations = math.ceil((self.at.total - 0.5) / interval) - math.floor((self.at.step + 0.5) / interval)
        return self.pace.remaining(self.at.total - self.at.step, validations)

    def _left(self) -> str:
        """The same in words; empty where it is not worth a line."""
        seconds = self._seconds_left()
        return in_words(seconds) if seconds is not None and seconds >= WORTH_TELLING_SECONDS else ""

    def _gradient(self, batch: NDArray[np.int64], targets: int) -> Tensor:
        """Gradients of this process's share of the step; the loss summed over it.

        Where the GPU runs out of memory the share is computed again, in more and smaller parts.
        """
        share = batch[processes.rank() :: processes.world_size()]
        while True:
            parts = self.objective.parts(share, self.at.parts)
            try:
                return self._backward(parts, targets)
            except torch.cuda.OutOfMemoryError:
                if self.at.parts >= len(share):
                    raise RectoolError(
                        f"{self.run.device} has too little memory for a single sample; {self.run.memory_advice}"
                    ) from None
            self.at.parts *= 2
            torch.cuda.empty_cache()
            console.say(f"too little memory on the GPU: a step is computed in parts of 1/{self.at.parts} from here on")

    def _backward(self, parts: list[NDArray[np.int64]], targets: int) -> Tensor:
        seed = np.random.SeedSequence((self.run.seed, self.at.step, processes.rank()))
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        self.optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=self.run.device)
        for samples in parts:
            if len(samples) == 0:
                continue
            with autocast(self.run.device, self.dtype):
                loss = self.objective.loss(samples)
            self.scaler.scale(loss / targets).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _shared(self, loss: Tensor) -> tuple[Tensor, bool, bool]:
        """Sum the loss and gradients over processes; whether to stop, and whether to save.

        Any process may have been told to stop; the main one's clock is that of all.
        """
        stop = self.stops.wanted()
        save = processes.is_main() and time.monotonic() - self.saved_at >= self.run.checkpoint_seconds
        gradients = []
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if processes.world_size() == 1:
            return loss, stop, save
        first = [loss.float()[None], torch.tensor([stop, save], dtype=torch.float32, device=self.run.device)]
        summed = processes.all_reduce_sum(torch.cat([*first, *(gradient.flatten().float() for gradient in gradients)]))
        start = 3
        for gradient in gradients:
            gradient.copy_(summed[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        stop, save = (summed[1:3] > 0).tolist()
        return summed[0].double(), stop, save

    def _count_overflow(self, skipped: bool) -> None:
        self.at.skipped += skipped
        self.overflows = self.overflows + 1 if skipped else 0
        if self.overflows >= OVERFLOWS_IN_A_ROW:
            raise RectoolError(
                f"fp16 overflowed in {self.overflows} steps in a row (step {self.at.step}); lower --learning-rate, "
                "set --clip 1, or choose --precision fp32"
            )

    def _check_losses(self) -> None:
        """Bring the summed losses from the device. Raises RectoolError if they are not finite."""
        loss = float(self.unchecked)
        self.unchecked.zero_()
        self.at.loss += loss
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")

    def _diverged(self, what: str) -> RectoolError:
        stays = f"; the checkpoint of step {self.saved_step} stays" if self.saved_step else ""
        return RectoolError(
            f"{what} at step {self.at.step} (epoch {self._epochs():.2f}): lower --learning-rate "
            f"({self.settings.learning_rate}), or set --clip 1{stays}"
        )

    def _epochs(self) -> float:
        """Passes over the training targets so far."""
        return round(self.at.epoch + self.at.batch / len(self.batches), 6)

    def _after_step(self) -> None:
        """What comes after a step: the next epoch, validation."""
        if self.settings.validate_steps is not None:
            due = self.at.step % self.settings.validate_steps == 0
        else:  # by the middles of this batch and the next, which no rounding takes across a bound
            interval = self.settings.validate_epochs * len(self.batches)
            done = self.at.epoch * len(self.batches) + self.at.batch
            due = math.floor((done + 0.5) / interval) > math.floor((done - 0.5) / interval)
        if self.at.batch >= len(self.batches):
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
        if due:
            self._validate()

    def _validate(self) -> None:
        self._check_losses()
        loss = self.at.loss / self.at.targets
        self.objective.module.eval()
        with self.pace.validation(), torch.inference_mode(), autocast(self.run.device, self.dtype):
            values = self.objective.validate()
        self.objective.module.train()
        at = (self.at.step, self._epochs())
        self.at.curve.append((*at, "train", "loss", loss))
        self.at.curve += [(*at, "valid", name, value) for name, value in values.items()]
        self.at.loss, self.at.targets = 0.0, 0
        if self.run.metric in values:
            self._compare(values[self.run.metric])
        elif values:
            self._tell_unmeasured()
        said = [f"loss {loss:.4f}", *(f"valid {name} {value:.4f}" for name, value in values.items())]
        best = " (best)" if self.at.best is not None and self.at.best_step == self.at.step else ""
        speed = f"{self.pace.targets_per_second:,.0f} targets/s"
        left = f"; about {self._left()} left at most" if not self._over() and self._left() else ""
        console.say(f"epoch {at[1]:g}, step {at[0]}: {', '.join(said)}{best}; {speed}{left}")

    def _compare(self, value: float) -> None:
        sign = -1 if self.run.metric in LOWER_IS_BETTER else 1
        if self.at.best is None or sign * value > sign * self.at.best:
            self.at.best, self.at.best_step, self.at.waited = value, self.at.step, 0
            self.best = self._copy()
        else:
            self.at.waited += 1

    def _tell_unmeasured(self) -> None:
        """Once: that nothing can be chosen by the metric, since these validation rows leave it undefined."""
        if not self.unmeasured:
            console.say(
                f"{self.run.metric} is not defined on the validation rows, so that nothing is chosen by it and the "
                "last weights count; choose another --metric, or more --validate-rows"
            )
        self.unmeasured = True

    def _copy(self) -> dict[str, Tensor]:
        return {name: p.detach().to("cpu", copy=True) for name, p in self.parameters.items()}

    def _stopped(self) -> Stopped:
        return Stopped(
            f"stopped at step {self.at.step} of {self.at.total} at most ({self.stops.reason or 'another process'}), "
            "with a checkpoint; the same command with --resume goes on",
            interrupted=self.stops.interrupted,
        )

    def _save(self) -> None:
        self._check_losses()
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters.values()):
            raise self._diverged("parameters are no longer finite")
        self.saved_at, self.saved_step = time.monotonic(), self.at.step
        if self.run.checkpoints is None or not processes.is_main():
            return
        tensors, options = optimizer_state(self.optimizer, list(self.parameters))
        tensors = {f"optimizer.{name}": tensor for name, tensor in tensors.items()}
        tensors |= {f"last.{name}": tensor for name, tensor in self._copy().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        state = {"progress": vars(self.at), "optimizer": options, "scaler": self.scaler.state_dict()}
        self.run.checkpoints.save(self.at.step, tensors, state)

    def _resume(self) -> None:
        """Go on from the latest checkpoint."""
        saved = self.run.checkpoints.latest() if self.run.checkpoints is not None else None
        if saved is None:
            return
        tensors, state = saved.tensors, saved.state
        curve = [tuple(point) for point in state["progress"]["curve"]]
        self.at = Progress(**{**state["progress"], "curve": curve})
        self.saved_step = self.at.step
        self.scaler.load_state_dict(state["scaler"])
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"last.{name}"])
        self.best = _under("best.", tensors)
        load_optimizer_state(self.optimizer, list(self.parameters), _under("optimizer.", tensors), state["optimizer"])
        console.say(f"going on from the checkpoint of step {self.at.step}")


def _by_rate(module: nn.Module, usual: float, rates: Mapping[str, float]) -> dict[float, dict[str, nn.Parameter]]:
    """What is trained, by name, under the learning rate that is meant for it."""
    groups: dict[float, dict[str, nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for start, rate in rates.items() if name.startswith(start)), usual)
            groups.setdefault(rate, {})[name] = parameter
    return groups


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def rate_at(progress: float, warmup: float, schedule: str) -> float:
    """The learning rate as a share of its highest value.

    Args:
        progress: share of the steps done, 0 to 1.
        warmup: share of the steps in which it rises linearly from 0.
    """
    if progress < warmup:
        return progress / warmup
    rest = min(1.0, (progress - warmup) / (1 - warmup)) if warmup < 1 else 0.0
    return {"constant": 1.0, "linear": 1 - rest, "cosine": (1 + math.cos(math.pi * rest)) / 2}[schedule]
