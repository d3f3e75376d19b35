"""A log made of a few columns, without files, and small models with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.models.mf import MatrixFactorization, MatrixFactorizationSettings
from rectool.models.model import Model, Size
from rectool.models.sasrec import SASRec, SASRecSettings


def make_log(
    user: Sequence[int],
    item: Sequence[int],
    label: Sequence[int] | None = None,
    split: Sequence[int] | None = None,
    **size: int,
) -> Dataset:
    rows = len(user)
    counts = {"users": max(user, default=-1) + 1, "items": max(item, default=-1) + 1, "interactions": rows, **size}
    artifact: Any = SimpleNamespace(manifest=SimpleNamespace(counts=counts), file=lambda name: Path("data") / name)
    dataset = Dataset(artifact)
    dataset.__dict__.update(
        user=np.asarray(user, np.int32),
        item=np.asarray(item, np.int32),
        label=np.asarray([1] * rows if label is None else label, np.int8),
        split=np.asarray([0] * rows if split is None else split, np.int8),
    )
    return dataset


@pytest.fixture
def log() -> Callable[..., Dataset]:
    """A data set of these columns: `log(user, item, label, split, items=9)`; split as in SPLITS."""
    return make_log


@pytest.fixture
def random_log() -> Callable[..., Dataset]:
    """A data set of random rows, whose users have from no row to many."""

    def make(seed: int, *, rows: int, users: int, items: int) -> Dataset:
        chance = np.random.default_rng(seed)
        user = np.sort((users * chance.random(rows) ** 2).astype(int))
        columns = (chance.integers(0, high, rows) for high in (items, 2, len(SPLITS)))
        return make_log(user.tolist(), *(column.tolist() for column in columns), users=users, items=items)

    return make


@pytest.fixture
def mf() -> Callable[..., Model]:
    """Matrix factorisation with random weights, biases included."""

    def make(seed: int, *, users: int, items: int, embedding_size: int = 8) -> Model:
        torch.manual_seed(seed)
        model = MatrixFactorization(MatrixFactorizationSettings(embedding_size=embedding_size), Size(users, items))
        return _random(model)

    return make


@pytest.fixture
def sasrec() -> Callable[..., Model]:
    """SASRec with random weights, and with dropout where it is trained."""

    def make(seed: int, *, users: int, items: int, max_length: int = 10) -> Model:
        torch.manual_seed(seed)
        settings = SASRecSettings(embedding_size=8, heads=2, max_length=max_length, biases=True)
        return _random(SASRec(settings, Size(users, items)))

    return make


def _random(model: Model) -> Model:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@dataclass(frozen=True)
class Results:
    """A folder of results of both tasks, their comparison with a report, and the command that makes such."""

    folder: Path
    rectool: Callable[..., Any]

    @property
    def compared(self) -> Path:
        """The comparison, which no test may change."""
        return self.folder / "compared"

    def compare(self, out: Path, *flags: object) -> Path:
        """Compare all of them with a report, and tests of a few draws; returns the report."""
        baselines = ("--baseline", "results/bias", "--baseline", "results/popularity")
        done = self.rectool("compare", "results", *baselines, "--report", "--draws", 20, "--out", out, *flags)
        assert done.code == 0, done.stderr
        return out / "report.html"


@pytest.fixture
def results(rectool: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Results:
    """Two results of ratings and two of sequences, of data whose truth is known; made once."""
    folder = tmp_path_factory.getbasetemp() / "results-of-both-tasks"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    if not Path("results").exists():
        for task, models in (("ctr", ("bias", "mf")), ("next-item", ("popularity", "markov"))):
            sizes = ("--users", 60, "--items", 60, "--quiet", "--task", task)
            assert rectool("prep", "synthetic", *sizes, "--out", f"data/{task}").code == 0
            for model in models:
                more = ("--epochs", 1, "--metric", "auc") if model == "mf" else ()
                flags = ("--model", model, "--quiet", "--task", task, *more)
                assert rectool("train-cf", f"data/{task}", *flags, "--out", f"models/{model}").code == 0
                flags = ("--draws", 20, "--quiet", "--out", f"results/{model}")
                assert rectool("eval", f"data/{task}", f"models/{model}", *flags).code == 0
    made = Results(folder, rectool)
    if not made.compared.exists():
        made.compare(made.compared)
    return made
