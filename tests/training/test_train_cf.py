"""From a data set to the files of a cf artifact: what is observed, counted, trained and left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rectool.artifacts import Draft
from rectool.data.dataset import Dataset
from rectool.evaluation.auc import auc
from rectool.evaluation.score import score_rows
from rectool.models.model import Sequences
from rectool.models.saved import Trained
from rectool.training import train_cf, validation
from rectool.training.estimate import estimate
from rectool.training.run import Run
from rectool.training.settings import Fit
from rectool.training.train_cf import train, untrained, user_vectors
from rectool.training.validation import Validation

CPU = torch.device("cpu")
RUN = Run(0, CPU)
SHORT = Fit(epochs=4, batch_size=64, learning_rate=0.02)


@pytest.fixture
def trained(dataset: Dataset, chosen: Callable[..., Any], tmp_path: Path) -> Callable[..., Draft]:
    """Train for real: `trained("mf", embedding_size=8)`; the draft has the files."""

    def run(model: str, settings: Fit = SHORT, **given: Any) -> Draft:
        choice, objective = chosen(dataset, model, **given)
        draft = Draft(tmp_path / f"{model}-{len(list(tmp_path.iterdir()))}", tmp_path)
        draft.path.mkdir()
        train(draft, dataset, choice, objective, settings, RUN)
        return draft

    return run


@pytest.fixture
def new(chosen: Callable[..., Any]) -> Callable[..., Trained]:
    """An untrained model: `new(dataset, "mf", task="ctr")`."""
    return lambda data, model, **given: untrained(data, chosen(data, model, **given)[0], RUN)


# What is left behind


@pytest.mark.parametrize("history", ["liked", "all"])
@pytest.mark.parametrize("model", ["sasrec", "din"])
def test_a_user_is_the_history_that_ends_with_training(
    model: str, history: str, random_log: Callable[..., Dataset], new: Callable[..., Trained], monkeypatch: Any
) -> None:
    monkeypatch.setattr(train_cf, "USERS_AT_A_TIME", 3)
    data = random_log(4, rows=70)
    size = {"embedding_size": 8, "max_length": 4, **({"heads": 2} if model == "sasrec" else {})}
    made = new(data, model, history=history, **size)
    made.model.eval()
    with torch.inference_mode():
        vectors = user_vectors(made, data, CPU)
        for user in range(data.users):
            last = max(np.flatnonzero((data.user == user) & (data.split == 0)), default=-1)
            rows = [r for r in range(last + 1) if data.user[r] == user and (history == "all" or data.label[r] == 1)]
            items = torch.from_numpy(data.item[rows[-4:]].astype(np.int64))[None]
            expected = made.model.user_vectors(torch.tensor([user]), Sequences(items, torch.tensor([items.shape[1]])))
            np.testing.assert_allclose(vectors[user], expected[0].numpy(), rtol=1e-4, atol=1e-6)
    assert vectors.shape == (data.users, 8)


def test_the_best_weights_are_the_model_and_the_last_are_kept_beside_them(
    trained: Callable[..., Draft], dataset: Dataset, new: Callable[..., Trained]
) -> None:
    """Trained far too long, so that the best lie before the end."""
    settings = replace(SHORT, epochs=15, learning_rate=0.1, patience=0)
    draft = trained("mf", settings, embedding_size=16)
    found = draft.metrics
    curve = pq.read_table(draft.path / "curve.parquet").to_pylist()
    auc_by_step = {point["step"]: point["value"] for point in curve if point["metric"] == "auc"}
    assert found["best_step"] == max(auc_by_step, key=auc_by_step.get) < found["steps"] == max(auc_by_step)
    rows = dataset.targets("valid")
    for name, step in (("weights", found["best_step"]), ("last", found["steps"])):
        model = new(dataset, "mf", embedding_size=16).model
        model.restore(load_file(draft.path / f"{name}.safetensors"))
        scores = score_rows(model, None, dataset, rows, device=CPU)
        assert auc(dataset.label[rows], scores) == pytest.approx(auc_by_step[step])
    assert found["valid"]["auc"] == pytest.approx(max(auc_by_step.values()))


def test_the_figures_of_a_run(trained: Callable[..., Draft]) -> None:
    draft = trained("mf", embedding_size=8)
    found = draft.metrics
    assert found["model"] == "mf"
    assert (found["task"], found["metric"]) == ("ctr", "auc")
    assert found["epochs"] == 4
    assert found["prior"].keys() == {"model", "auc", "uauc", "log_loss"}
    assert found["prior"]["model"] == "bias"
    tensors = load_file(draft.path / "weights.safetensors")
    assert found["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert draft.run == {"device": "cpu", "world_size": 1}
    curve = pq.read_table(draft.path / "curve.parquet")
    assert curve["epoch"].unique().to_pylist() == [1.0, 2.0, 3.0, 4.0]
    assert curve["value"].null_count == 0


def test_the_prior_of_a_prior_is_not_told(trained: Callable[..., Draft]) -> None:
    assert trained("bias").metrics["prior"] is None
    assert trained("popularity", task="next-item").metrics["prior"] is None
    assert trained("markov").metrics["prior"]["model"] == "bias"
    assert trained("markov", task="next-item").metrics["prior"]["model"] == "popularity"


def test_training_lowers_the_loss_and_learns_something(trained: Callable[..., Draft]) -> None:
    draft = trained("mf", replace(SHORT, epochs=12), embedding_size=8)
    losses = [p["value"] for p in pq.read_table(draft.path / "curve.parquet").to_pylist() if p["split"] == "train"]
    assert losses[-1] < 0.9 * losses[0]
    assert draft.metrics["valid"]["auc"] > 0.55


def test_the_same_seed_gives_the_same_bytes(trained: Callable[..., Draft]) -> None:
    one, other = (trained("sasrec", embedding_size=8, heads=2, dropout=0.3) for _ in range(2))
    names = sorted(path.name for path in one.path.iterdir())
    assert names == sorted(path.name for path in other.path.iterdir())
    assert names == [
        "config.json",
        "curve.parquet",
        "embeddings.safetensors",
        "last.safetensors",
        "weights.safetensors",
    ]
    for name in names:
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name


@pytest.mark.parametrize(("model", "task"), [("gru4rec", "next-item"), ("din", "ctr")])
def test_brain_floats(model: str, task: str, trained: Callable[..., Draft]) -> None:
    one, other = (
        trained(model, replace(SHORT, epochs=1, precision=precision), task=task, embedding_size=8)
        for precision in ("fp32", "bf16")
    )
    losses = [
        [p["value"] for p in pq.read_table(draft.path / "curve.parquet").to_pylist() if p["split"] == "train"]
        for draft in (one, other)
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert {tensor.dtype for tensor in load_file(other.path / "embeddings.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(("model", "loss", "rows"), [("din", "bce", 3), ("mf", None, 7), ("markov", None, 7)])
def test_slow_rankings_are_validated_on_fewer_rows(
    model: str, loss: str | None, rows: int, trained: Callable[..., Draft], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless told otherwise."""
    monkeypatch.setattr(validation, "ROWS", 7)
    monkeypatch.setattr(train_cf, "RANKED_BY_PAIRS", 3)
    found: list[int] = []
    real = Validation.__init__

    def init(self: Validation, dataset: Dataset, chosen: Any, device: Any) -> None:
        found.append(len(chosen))
        real(self, dataset, chosen, device)

    monkeypatch.setattr(Validation, "__init__", init)
    for limit in (None, 5):
        trained(model, replace(SHORT, epochs=1, validate_rows=limit), task="next-item", loss=loss)
    assert found == [rows, 5]


# What it will take


@pytest.mark.parametrize("model", ["mf", "sasrec", "popularity"])
def test_the_estimate_of_the_disk_is_what_is_written(
    model: str, dataset: Dataset, chosen: Callable[..., Any], trained: Callable[..., Draft]
) -> None:
    choice, _ = chosen(dataset, model)
    plan = estimate(dataset, choice, SHORT, ["a", "b"])
    written = sum(path.stat().st_size for path in trained(model).path.iterdir())
    assert plan.disk_bytes <= written < plan.disk_bytes + 20_000
    assert plan.reads == ["a", "b"]
    assert plan.memory_bytes > 100 << 20
