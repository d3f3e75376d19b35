"""`rectool align`, run for real on the embedded data set made tiny."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch.nn import functional

from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset
from rectool.models import projector as projectors
from rectool.models import saved
from rectool.training import align as training
from rectool.training.loop import _Loop

Command = Callable[..., Any]
SHORT = ("--epochs", 2, "--batch-size", 64, "--learning-rate", 0.01, "--embedding-size", 8, "--expansion", 2)
WIDTH = 12


pytestmark = pytest.mark.usefixtures("one_thread")


def table(items: int) -> NDArray[np.float16]:
    return np.random.default_rng(0).normal(size=(items, WIDTH)).astype(np.float16)


def adopted(rectool: Command, values: NDArray[Any], data: Path, out: Path) -> Path:
    out.mkdir(parents=True)
    save_file({"item": values}, out / "embeddings.safetensors")
    (out / "config.json").write_text('{"pooling": "last"}')
    assert rectool("adopt", out, "--kind", "semantic", "--data", data).code == 0
    return out


@pytest.fixture
def semantic(rectool: Command, data: Path, shelf: Path) -> Path:
    out = shelf / "semantic"
    return out if out.exists() else adopted(rectool, table(items_of(data)), data, out)


def items_of(data: Path) -> int:
    return open_artifact(data).manifest.counts["items"]


@pytest.fixture
def align(rectool: Command, data: Path, semantic: Path, tmp_path: Path) -> Command:
    """Run `rectool align` on the data into `out`."""

    def run(*more: object, of: Path = semantic, out: Path = tmp_path / "out") -> Any:
        return rectool("align", data, "--semantic", of, "--out", out, *more)

    return run


def test_each_part_is_valid_alone(align: Command, rectool: Command, data: Path, semantic: Path, tmp_path: Path) -> None:
    done = align(*SHORT)
    assert done.code == 0, done.stderr
    out = tmp_path / "out"
    for said in ("retrieval@1", "matched_cosine", "unmatched_cosine", "align_loss", "collab_loss", "bias (prior)"):
        assert said in done.stdout
    made = open_artifact(out, "aligned", verify=True)
    counts = {name: made.manifest.counts[name] for name in ("users", "items", "embedding_size", "semantic_size")}
    assert counts == {"users": 60, "items": items_of(data), "embedding_size": 8, "semantic_size": WIDTH}
    cf, table_, net = (open_artifact(out / kind, kind, verify=True) for kind in ("cf", "semantic", "projector"))
    assert [set(part.manifest.parents[0].digests) for part in (cf, table_, net)] == [
        {"users", "items", "training"},
        {"items"},
        set(),
    ]

    trained, projector = saved.load(cf), projectors.load(net)
    assert (trained.name, trained.task, trained.probability, trained.model.settings.biases) == (
        "mf",
        "ctr",
        None,
        False,
    )
    assert (projector.inputs, projector.hidden, projector.outputs, projector.activation) == (8, 16, WIDTH, "gelu")
    found = load_file(table_.file("embeddings.safetensors"))["item"]
    assert found.dtype == torch.float32
    assert json.loads(table_.file("config.json").read_text()) == {"pooling": "last", "aligned": True}
    before = load_file(semantic / "embeddings.safetensors")["item"].float()
    assert (found != before).any(1).all()  # of every item, seen in training or not
    with torch.inference_mode():  # what was saved is what was measured
        cosines = functional.cosine_similarity(projector(trained.model.item_vectors()), found)
    assert made.manifest.metrics["alignment"]["matched_cosine"] == pytest.approx(float(cosines.mean()), abs=1e-5)

    points = {(point["split"], point["metric"]) for point in pq.read_table(out / "curve.parquet").to_pylist()}
    expected = ("auc", "uauc", "collab_loss", "align_loss", "matched_cosine", "unmatched_cosine", "retrieval@1")
    assert points == {("train", "loss"), *(("valid", name) for name in expected)}

    assert rectool("eval", data, out / "cf", "--split", "valid", "--out", tmp_path / "result").code == 0
    refused = rectool("eval", data, out, "--out", tmp_path / "other")
    assert refused.code == 2
    assert f"{out} holds three artifacts; name its collaborative model, {out / 'cf'}" in refused.error
    metrics = json.loads((tmp_path / "result/metrics.json").read_text())["metrics"]
    auc = next(each["value"] for each in metrics if each["metric"] == "auc" and each["group"] == "all")
    assert auc == pytest.approx(made.manifest.metrics["valid"]["auc"])
    shown = rectool("inspect", out)
    assert shown.code == 0
    assert "semantic/embeddings.safetensors" in shown.stdout


def test_alignment_is_learned(align: Command, tmp_path: Path) -> None:
    """From nothing to nearly every item, cold ones too."""
    flags = ("--embedding-size", 16, "--learning-rate", 0.01, "--batch-size", 64, "--align-weight", 1)
    assert align("--epochs", 1, *flags, out=tmp_path / "short").code == 0
    assert align("--epochs", 15, "--patience", 0, "--no-train-semantic", *flags).code == 0
    first, last = (
        open_artifact(tmp_path / name).manifest.metrics["alignment"]["retrieval@1"] for name in ("short", "out")
    )
    curve = pq.read_table(tmp_path / "out/curve.parquet").to_pylist()
    reached = max(point["value"] for point in curve if point["metric"] == "retrieval@1")
    assert reached > 0.9
    assert first < reached
    assert last <= reached


def test_a_frozen_table_stays_what_it_was(align: Command, semantic: Path, tmp_path: Path) -> None:
    assert align(*SHORT, "--no-train-semantic", "--negatives", "batch", "--anchors", 9).code == 0
    made = open_artifact(tmp_path / "out")
    before, after = (path / "embeddings.safetensors" for path in (semantic, tmp_path / "out/semantic"))
    assert before.read_bytes() == after.read_bytes()
    assert made.manifest.metrics["trained_semantic"] is False


def test_large_tables_are_frozen_unless_told_otherwise(
    align: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "TRAINED_BYTES", 100)
    assert align(*SHORT, out=tmp_path / "frozen").code == 0
    assert align(*SHORT, "--train-semantic", out=tmp_path / "trained").code == 0
    assert "frozen unless --train-semantic" in align("--semantic-learning-rate", 0.1).error
    found = [open_artifact(tmp_path / name).manifest.metrics["trained_semantic"] for name in ("frozen", "trained")]
    assert found == [False, True]


@pytest.mark.parametrize("model", ["ncf", "lightgcn", "din", "gru4rec", "sasrec"])
def test_every_model_with_item_embeddings(model: str, align: Command, tmp_path: Path) -> None:
    done = align("--model", model, *SHORT[:6])
    assert done.code == 0, done.stderr
    assert open_artifact(tmp_path / "out").manifest.metrics["model"] == model


def test_going_on_from_a_trained_model(align: Command, rectool: Command, data: Path, tmp_path: Path) -> None:
    cf = tmp_path / "sasrec"
    flags = ("--task", "next-item", "--embedding-size", 8, "--heads", 2, "--epochs", 1, "--batch-size", 64)
    assert rectool("train-cf", data, "--model", "sasrec", *flags, "--out", cf).code == 0
    done = align("--cf", cf, "--epochs", 1, "--learning-rate", 0)
    assert done.code == 0, done.stderr
    weights = [load_file(path / "weights.safetensors") for path in (cf, tmp_path / "out/cf")]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    made = open_artifact(tmp_path / "out")
    assert {parent.role for parent in made.manifest.parents} == {"dataset", "semantic", "cf"}
    assert (made.manifest.metrics["task"], made.manifest.metrics["model"]) == ("next-item", "sasrec")
    assert "model" not in made.manifest.settings
    again = align("--cf", tmp_path / "out/cf", *SHORT[:6], of=tmp_path / "out/semantic", out=tmp_path / "again")
    assert again.code == 0, again.stderr


@pytest.mark.parametrize(("loss", "probability"), [("bce", "sigmoid"), ("squared-error", None)])
def test_a_trained_model_keeps_its_loss(
    loss: str, probability: str | None, align: Command, rectool: Command, data: Path, tmp_path: Path
) -> None:
    cf = tmp_path / "mf"
    assert rectool("train-cf", data, "--model", "mf", "--loss", loss, *SHORT[:8], "--out", cf).code == 0
    assert align("--cf", cf, *SHORT[:6]).code == 0
    assert saved.load(open_artifact(tmp_path / "out/cf")).probability == probability
    assert align("--cf", cf, *SHORT[:6], "--loss", "bce", "--metric", "log_loss", out=tmp_path / "bce").code == 0
    assert saved.load(open_artifact(tmp_path / "bce/cf")).probability == "sigmoid"


def test_bce_and_biases(align: Command, tmp_path: Path) -> None:
    assert align(*SHORT, "--loss", "bce", "--biases", "--metric", "log_loss").code == 0
    trained = saved.load(open_artifact(tmp_path / "out/cf"))
    assert (trained.probability, trained.model.settings.biases) == ("sigmoid", True)


# What goes wrong


def test_bad_flags(align: Command, rectool: Command, data: Path, tmp_path: Path) -> None:
    cf = tmp_path / "bias"
    assert rectool("train-cf", data, "--model", "bias", "--out", cf).code == 0
    mf = tmp_path / "mf"
    assert rectool("train-cf", data, "--model", "mf", *SHORT[:8], "--out", mf).code == 0
    for flags, said in (
        (("--model", "popularity"), "--model popularity only counts: it has no item embeddings"),
        (("--cf", cf), "bias only counts"),
        (("--cf", mf, "--embedding-size", 8), "--embedding-size: --cf"),
        (("--cf", mf, "--task", "next-item"), "was trained for ctr; leave it out"),
        (("--cf", mf, "--loss", "bpr"), "--loss bpr is not for --task ctr"),
        (("--metric", "log_loss"), "--metric log_loss needs probabilities"),
        (("--cf", tmp_path / "nothing"), "nothing does not exist; make one with: rectool train-cf"),
    ):
        done = align(*flags)
        assert done.code == 2, done.stderr
        assert said in done.error
        assert not (tmp_path / "out").exists()


def test_a_cf_of_another_data_set(align: Command, rectool: Command, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert rectool("prep", "synthetic", "--users", 60, "--items", 60, "--seed", 5, "--quiet", "--out", other).code == 0
    assert rectool("train-cf", other, "--model", "mf", *SHORT[:8], "--out", tmp_path / "mf").code == 0
    done = align("--cf", tmp_path / "mf")
    assert done.code == 2
    assert "was made from a dataset whose" in done.error


@pytest.mark.parametrize(
    ("row", "value", "said"), [(4, np.nan, "row 4 of item is not finite"), (7, 0, "row 7 of item is all zeros")]
)
def test_embeddings_of_no_use(
    row: int, value: float, said: str, align: Command, rectool: Command, data: Path, tmp_path: Path
) -> None:
    bad = adopted(rectool, table(items_of(data)), data, tmp_path / "bad")
    broken(bad, row, value)
    done = align(of=bad)
    assert done.code == 2
    assert said in done.error
    done = align("--dry-run", of=bad)
    assert said in done.error


def broken(semantic: Path, row: int, value: float) -> None:
    """Change a row, without the manifest's knowing."""
    values = table(len(load_file(semantic / "embeddings.safetensors")["item"]))
    values[row] = value
    save_file({"item": values}, semantic / "embeddings.safetensors")


def test_embeddings_that_are_all_the_same(align: Command, rectool: Command, data: Path, tmp_path: Path) -> None:
    bad = adopted(rectool, np.ones((items_of(data), WIDTH), np.float32), data, tmp_path / "bad")
    done = align(of=bad)
    assert done.code == 2
    assert "all rows are the same" in done.error


def test_embeddings_of_other_items(align: Command, rectool: Command, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert rectool("prep", "synthetic", "--users", 60, "--items", 40, "--quiet", "--out", other).code == 0
    done = align(of=adopted(rectool, table(items_of(other)), other, tmp_path / "items"))
    assert done.code == 2
    assert "has embeddings of other items" in done.error


def test_a_run_that_does_not_fit_is_refused_with_its_estimate(
    align: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "free_memory", lambda device: 1000)
    done = align()
    assert done.code == 2
    assert "would need about 0.5 GB of memory, but cpu has 0.0 GB free; --no-train-semantic" in done.error
    assert "--negatives batch" in done.error
    assert "choose smaller" in align("--no-train-semantic", "--negatives", "batch").error
    assert not (tmp_path / "out").exists()


# Stopping, resuming, doing nothing


def test_dry_run(align: Command, tmp_path: Path) -> None:
    done = align("--dry-run")
    assert done.code == 0
    assert "(aligned, about" in done.stdout
    assert not (tmp_path / "out").exists()


def test_update_and_overwrite(align: Command, tmp_path: Path) -> None:
    assert align(*SHORT).code == 0
    assert "exists already" in align(*SHORT).error
    assert "is up to date" in align(*SHORT, "--update").stderr
    done = align(*SHORT, "--temperature", 0.5, "--update")
    assert "made again: temperature was 0.1, is 0.5" in done.stderr
    assert open_artifact(tmp_path / "out").manifest.settings["temperature"] == 0.5


@pytest.mark.parametrize("negatives", ["catalogue", "batch"])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(
    negatives: str, align: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*SHORT, "--negatives", negatives, "--anchors", 20, "--seed", 4)
    assert align(*flags, out=tmp_path / "whole").code == 0
    real = _Loop._step

    def stopping(loop: _Loop, batch: Any) -> tuple[bool, bool]:
        _, save = real(loop, batch)
        return loop.at.step == 7, save

    with monkeypatch.context() as patched:
        patched.setattr(_Loop, "_step", stopping)
        assert align(*flags).code == 75
    assert "temperature was 0.1, is 0.2" in align(*flags, "--temperature", 0.2, "--resume").error
    assert align(*flags, "--resume").code == 0
    for name in ("cf/weights", "projector/weights", "semantic/embeddings"):
        one, other = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("whole", "out"))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert pq.read_table(tmp_path / "whole/curve.parquet").equals(pq.read_table(tmp_path / "out/curve.parquet"))
    metrics = [open_artifact(tmp_path / folder).manifest.metrics["alignment"] for folder in ("whole", "out")]
    assert metrics[0] == metrics[1]
    assert Dataset(open_artifact(tmp_path / "out").parent("dataset")).users == 60
