"""A log made of a few columns, the embedded data set made tiny, and a problem whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool import console
from rectool.artifacts import open_artifact
from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.training.choice import Choice, choose
from rectool.training.settings import Collaborative, Fit, Objective, Start


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small steps in several processes at once are slowed down by threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def loud() -> None:
    """Messages are shown, whatever ran before."""
    console.configure(quiet=False, json=False)


@pytest.fixture(scope="session")
def tiny(synthetic: Callable[[int, int], Path]) -> Path:
    """A dataset artifact of 40 users."""
    return synthetic(40, 50)


@pytest.fixture(scope="session")
def dataset(tiny: Path) -> Dataset:
    return Dataset(open_artifact(tiny, "dataset"))


def make_log(
    user: Sequence[int],
    item: Sequence[int],
    label: Sequence[int] | None = None,
    split: Sequence[str] | None = None,
    **size: int,
) -> Dataset:
    rows = len(user)
    counts = {"users": max(user, default=-1) + 1, "items": max(item, default=-1) + 1, "interactions": rows, **size}
    artifact: Any = SimpleNamespace(
        path=Path("data"), manifest=SimpleNamespace(counts=counts), file=lambda name: Path("data") / name
    )
    made = Dataset(artifact)
    made.__dict__.update(
        user=np.asarray(user, np.int32),
        item=np.asarray(item, np.int32),
        label=np.asarray([1] * rows if label is None else label, np.int8),
        split=np.asarray([SPLITS.index(name) for name in split or ["train"] * rows], np.int8),
    )
    return made


@pytest.fixture(scope="session")
def log() -> Callable[..., Dataset]:
    """A data set of these columns: `log(user, item, label, split, items=9)`."""
    return make_log


@pytest.fixture(scope="session")
def random_log() -> Callable[..., Dataset]:
    """A data set of random rows, of users with no row to many, with labels or without, in all splits."""

    def make(seed: int, *, rows: int = 60, users: int = 8, items: int = 12, labels: bool = True) -> Dataset:
        chance = np.random.default_rng(seed)
        user = np.sort((users * chance.random(rows) ** 2).astype(int)).tolist()
        item = chance.integers(0, items, rows).tolist()
        label = chance.integers(0, 2, rows).tolist() if labels else [-1] * rows
        split = chance.choice(SPLITS, rows, p=[0.5, 0.1, 0.1, 0.3]).tolist()
        return make_log(user, item, label, split, users=users, items=items)

    return make


def make_choice(dataset: Dataset, model: str, *, metric: str | None = None, **given: Any) -> tuple[Choice, Objective]:
    objective = {name: given.pop(name) for name in list(given) if name in Objective.__dataclass_fields__}
    minimised = Objective(**objective)
    return choose(dataset, Collaborative(model=model, **given), minimised, Fit(metric=metric), Start()), minimised


@pytest.fixture(scope="session")
def chosen() -> Callable[..., tuple[Choice, Objective]]:
    """A choice, and its objective's settings: `chosen(dataset, "mf", task="ctr", embedding_size=8)`."""
    return make_choice


class Points:
    """Minimise the squared distance of a point (D,) to targets (N, D), of which a sample has one or more.

    Attributes:
        seen: the samples of each call of `loss`, in order.
        values: what each validation finds; the loss of the point by default.
        before: called before each loss.
    """

    def __init__(self, samples: int = 24, width: int = 3, most: int = 3, noise: float = 0.0) -> None:
        chance = np.random.default_rng(0)
        self.counts = chance.integers(1, most + 1, samples)
        self.points = torch.from_numpy(chance.normal(size=(samples, width)).astype(np.float32))
        self.module = nn.Module()
        self.module.point = nn.Parameter(torch.full((width,), 3.0))
        self.module.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.module.unused = nn.Parameter(torch.ones(2))
        self.noise = noise
        self.seen: list[list[int]] = []
        self.values: list[Mapping[str, float]] | None = None
        self.before: Callable[[], None] = lambda: None

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        """As many batches as chance has it: epochs differ in their length."""
        chance = np.random.default_rng(seed)
        order = chance.permutation(len(self.points))
        cuts = np.cumsum(chance.integers(1, size + 1, len(order)))
        return [part for part in np.split(order, cuts[cuts < len(order)]) if len(part)]

    def targets(self, batch: NDArray[np.int64]) -> int:
        return int(self.counts[batch].sum())

    def parts(self, samples: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        return [samples[place::count] for place in range(count)]

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        assert self.module.training
        self.before()
        self.seen.append(samples.tolist())
        point = self.module.point + self.noise * torch.randn(3)
        distances = (point - self.points[samples]).square().sum(1)
        return (distances * torch.from_numpy(self.counts[samples])).sum()

    def validate(self) -> Mapping[str, float]:
        assert not self.module.training
        assert not torch.is_grad_enabled()
        if self.values is not None:
            return self.values.pop(0) if self.values else {}
        return {"auc": -float((self.module.point - self.points).square().sum())}


@pytest.fixture
def points() -> type[Points]:
    return Points
