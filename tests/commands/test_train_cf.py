"""`rectool train-cf`, run for real on the embedded data set made tiny."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from rectool import cli, console
from rectool.artifacts import Artifact, open_artifact
from rectool.artifacts.schemas import CURVE
from rectool.data.dataset import Dataset
from rectool.evaluation.auc import auc
from rectool.evaluation.score import score_rows
from rectool.models import saved
from rectool.models.table import MODELS, model_class

Command = Callable[..., Any]
SHORT = ("--epochs", 2, "--batch-size", 128, "--learning-rate", 0.01)
COUNTED = tuple(name for name in MODELS if model_class(name).counted)
PAIRWISE = ("ncf", "din")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 40 users, with labels."""
    out = tmp_path_factory.mktemp("data") / "tiny"
    run("prep", "synthetic", "--users", 40, "--items", 50, "--quiet", "--out", out)
    return out


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset without ratings."""
    raw = tmp_path_factory.mktemp("raw")
    (raw / "events.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{n % 5},i{n * n % 7},{n}\n" for n in range(60))
    )
    (raw / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(7)))
    run("prep", "table", raw / "events.csv", "--items", raw / "items.csv", "--quiet", "--out", raw / "data")
    return raw / "data"


def run(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(sys, "argv", ["rectool", *map(str, arguments)])
        cli.main()
    console.configure(quiet=False, json=False)
    assert stopped.value.code == 0


@pytest.fixture
def train(data: Path, rectool: Command, tmp_path: Path) -> Command:
    """Run `rectool train-cf` on the data into `out`."""
    return lambda *more, out=tmp_path / "out", of=data: rectool("train-cf", of, "--out", out, *more)


def shapes(artifact: Artifact) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in load_file(artifact.file("embeddings.safetensors")).items()}


# Every model


def cases() -> list[Any]:
    return [pytest.param(model, task, id=f"{model} {task}") for model in MODELS for task in model_class(model).tasks]


@pytest.mark.parametrize(("model", "task"), cases())
def test_every_model_trains_for_every_task(model: str, task: str, data: Path, train: Command, tmp_path: Path) -> None:
    loss = ("--loss", "bce") if model in PAIRWISE and task == "next-item" else ()
    done = train("--model", model, "--task", task, *loss, *SHORT)
    assert done.code == 0, done.stderr
    assert f"{tmp_path / 'out'}: cf written in" in done.stderr
    metrics = {"ctr": ("auc", "uauc"), "next-item": ("ndcg@10", "hr@10", "mrr@10")}[task]
    assert all(name in done.stdout for name in (model, *metrics))
    assert model in ("bias", "popularity") or "(prior)" in done.stdout

    made, dataset = open_artifact(tmp_path / "out", "cf", verify=True), Dataset(open_artifact(data))
    trained = saved.load(made)
    assert (trained.name, trained.task) == (model, task)
    assert trained.history is None or trained.history.liked_only == (task == "ctr")
    assert (trained.probability == "sigmoid") == (task == "ctr" and model not in ("popularity", "markov"))
    found = shapes(made)
    assert [found["user"][0], found["item"][0]] == [dataset.users, dataset.items]
    assert found["user"][1] == found["item"][1]
    assert {made.manifest.counts["users"], made.manifest.counts["items"]} == {dataset.users, dataset.items}
    assert made.manifest.metrics["valid"].keys() >= set(metrics)
    if model in COUNTED:
        assert not {"curve.parquet", "last.safetensors"} & made.manifest.files.keys()
    else:
        curve = pq.read_table(made.file("curve.parquet"))
        assert curve.schema.equals(CURVE)
        points = {(point["epoch"], point["split"], point["metric"]) for point in curve.to_pylist()}
        assert points >= {(epoch, "train", "loss") for epoch in (1.0, 2.0)}
        assert points >= {(epoch, "valid", metric) for epoch in (1.0, 2.0) for metric in metrics}
    if task == "ctr":  # what was saved is what was measured
        rows = dataset.targets("valid")
        scores = score_rows(trained.model, trained.history, dataset, rows, device=torch.device("cpu"))
        assert auc(dataset.label[rows], scores) == pytest.approx(made.manifest.metrics["valid"]["auc"])


@pytest.mark.parametrize("loss", ["full-softmax", "sampled-softmax", "bce", "bpr"])
@pytest.mark.parametrize("model", ["mf", "sasrec"])
def test_every_loss_of_next_item(loss: str, model: str, train: Command, tmp_path: Path) -> None:
    draws = () if loss == "full-softmax" else ("--negatives", 3, "--negatives-by", "popularity")
    log_q = ("--log-q",) if loss == "sampled-softmax" else ()
    given = ("--task", "next-item", "--loss", loss, *draws, *log_q, "--robust", 0.1, "--autoregressive")
    assert train("--model", model, *given, *SHORT).code == 0
    settings = open_artifact(tmp_path / "out").manifest.settings
    assert (settings["loss"], settings["robust"], settings["log_q"]) == (loss, 0.1, bool(log_q))


@pytest.mark.parametrize("model", ["mf", "gru4rec"])
def test_squared_error(model: str, train: Command, tmp_path: Path) -> None:
    assert train("--model", model, "--loss", "squared-error", *SHORT).code == 0
    made = open_artifact(tmp_path / "out")
    assert saved.load(made).probability is None
    assert made.manifest.metrics["valid"].keys() == made.manifest.metrics["prior"].keys() - {"model"} == {"auc", "uauc"}


def test_training_for_real(train: Command, tmp_path: Path) -> None:
    """A few dozen epochs find what the prior cannot know, or stop in time."""
    flags = ("--embedding-size", 8, "--epochs", 40, "--batch-size", 64, "--learning-rate", 0.01, "--patience", 3)
    assert train("--model", "mf", "--schedule", "cosine", "--warmup", 0.1, "--clip", 1, *flags).code == 0
    found = open_artifact(tmp_path / "out").manifest.metrics
    assert found["valid"]["auc"] > 0.6
    assert found["best_step"] <= found["steps"]
    assert found["stopped_early"] == (found["epochs"] < 40)


def test_labels_choose_the_task(train: Command, events: Path, tmp_path: Path) -> None:
    assert train("--model", "mf", *SHORT).code == 0
    assert open_artifact(tmp_path / "out").manifest.metrics["task"] == "ctr"
    assert train("--model", "mf", *SHORT, of=events, out=tmp_path / "other").code == 0
    assert open_artifact(tmp_path / "other").manifest.metrics["task"] == "next-item"


def test_the_manifest_says_how_it_was_made(data: Path, train: Command, tmp_path: Path) -> None:
    assert train("--model", "mf", "--embedding-size", 4, "--no-biases", "--seed", 3, *SHORT).code == 0
    manifest = open_artifact(tmp_path / "out", verify=True).manifest
    assert manifest.command[:3] == ["rectool", "train-cf", str(data)]
    assert {"--embedding-size", "--no-biases", "--seed"} <= set(manifest.command)
    assert manifest.seed == 3
    assert manifest.settings["model"] == "mf"
    assert manifest.settings["biases"] is False
    assert not {"device", "out", "data", "init_items"} & manifest.settings.keys()
    assert [parent.role for parent in manifest.parents] == ["dataset"]
    assert manifest.run["world_size"] == 1
    assert manifest.run["device"] == "cpu"


# Refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "svd"], "--model svd is none of popularity, bias, mf, "),
        (["--model", "mf", "--heads", 2], "--heads means nothing to --model mf, which has --biases, "),
        (["--model", "popularity", "--smoothing", 2], "--smoothing means nothing to --model popularity"),
        (["--model", "bias", "--embedding-size", 2], "--embedding-size means nothing to --model bias"),
        (["--model", "mf", "--max-length", 2], "--max-length means nothing to --model mf"),
        (["--model", "markov", "--max-length", 2], "--max-length means nothing to --model markov"),
        (["--model", "mf", "--history", "all"], "--history means nothing to --model mf, which reads none"),
        (["--model", "bias", "--task", "next-item"], "--model bias is not for --task next-item"),
        (["--model", "popularity", "--loss", "bce"], "--loss means nothing to --model popularity, which only counts"),
        (["--model", "ncf", "--task", "next-item"], "--model ncf scores one pair at a time: --loss bce or bpr"),
        (["--model", "sasrec", "--embedding-size", 6], "--embedding-size 6 is not a multiple of --heads 4"),
        (["--model", "mf", "--loss", "bpr"], "--loss bpr is not for --task ctr, whose losses are bce, squared-error"),
        (["--model", "mf", "--metric", "ndcg@10"], "--metric ndcg@10 is not measured for ctr"),
        (["--model", "mf", "--log-q"], "--robust, --log-q, --autoregressive and negatives are for --task next-item"),
        (["--model", "mf", "--epochs", 0], "--epochs 0 must be at least 1"),
        (["--model", "mf", "--seed", -1], "--seed must not be negative, but is -1"),
        (["--model", "mf", "--init-by", "pca"], "--init-by pca needs --init-items"),
        (["--model", "mf", "--device", "abacus"], "--device abacus: rectool computes on cpu and cuda"),
        (["--model", "mf", "--device", "meta"], "--device meta: rectool computes on cpu and cuda"),
        (["--model", "mf", "--device", "cpu", "--precision", "fp16"], "--precision fp16 needs a GPU"),
        (["--model", "mf", "--max-time", "soon"], "--max-time soon is not a time such as"),
        (["--model", "mf", "--resume"], "has no checkpoint to continue from; start it without --resume"),
        (["--model", "mf", "--depth", 2], "rectool train-cf has no flag --depth"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_what_does_not_go_together_is_refused_before_any_work(
    flags: list[Any], said: str, dry: bool, train: Command, tmp_path: Path
) -> None:
    done = train(*flags, *(["--dry-run"] if dry else []))
    assert done.code == 2
    assert said in done.error
    assert not list(tmp_path.glob("*out*"))


def test_ctr_without_labels_is_refused(events: Path, train: Command, tmp_path: Path) -> None:
    for model in ("mf", "bias"):
        done = train("--model", model, "--task", "ctr", of=events)
        assert done.code == 2
        assert done.error == f"{events} has no labelled train rows; --task next-item needs none"
    assert not (tmp_path / "out").exists()


def test_no_data(rectool: Command, tmp_path: Path) -> None:
    done = rectool("train-cf", tmp_path / "none", "--model", "mf", "--out", tmp_path / "out")
    assert done.code == 2
    assert done.error == f"{tmp_path / 'none'} does not exist; make one with: rectool prep"


def test_a_loss_that_is_no_number(train: Command, tmp_path: Path) -> None:
    done = train("--model", "mf", "--loss", "squared-error", "--init-scale", 1e30, *SHORT)
    assert done.code == 2
    assert "the loss is " in done.error
    assert "lower --learning-rate" in done.error
    assert not list(tmp_path.glob("*out*"))


# Again


def test_update_skips_what_is_there(train: Command, tmp_path: Path) -> None:
    assert train("--model", "mf", *SHORT).code == 0
    before = (tmp_path / "out/rectool.json").read_bytes()
    again = train("--model", "mf", *SHORT, "--update", "--json")
    assert again.code == 0
    assert again.json["skipped"] is True
    assert (tmp_path / "out/rectool.json").read_bytes() == before
    refused = train("--model", "mf", *SHORT)
    assert refused.code == 2
    assert "exists already" in refused.error
    changed = train("--model", "mf", *SHORT, "--dropout", 0.5, "--update")
    assert "--dropout means nothing to --model mf" in changed.error
    assert train("--model", "mf", *SHORT, "--embedding-size", 4, "--update", "--json").json["skipped"] is False
    assert shapes(open_artifact(tmp_path / "out"))["item"][1] == 4


def test_a_dry_run_writes_nothing(data: Path, train: Command, tmp_path: Path) -> None:
    done = train("--model", "sasrec", "--dry-run", "--json")
    assert done.code == 0
    assert done.json["dry_run"] is True
    assert done.json["kind"] == "cf"
    assert done.json["reads"] == [str(data)]
    assert done.json["disk_bytes"] > 0
    assert not list(tmp_path.glob("*out*"))


def test_json_for_machines(train: Command, tmp_path: Path) -> None:
    done = train("--model", "mf", *SHORT, "--json")
    assert done.json["artifact"] == str(tmp_path / "out")
    assert done.json["metrics"]["valid"].keys() == {"auc", "uauc", "log_loss"}
    assert done.json["metrics"]["prior"]["model"] == "bias"
    assert "epoch 1, step " in done.stderr
    quiet = train("--model", "mf", *SHORT, "--quiet", "--overwrite")
    assert (quiet.stdout, quiet.stderr) == ("", "")


def test_without_validation_rows(rectool: Command, train: Command, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert rectool("prep", "synthetic", "--users", 20, "--items", 40, "--split", "ratio:9,0,1", "--out", data).code == 0
    for model in ("mf", "bias"):
        done = train("--model", model, *SHORT, of=data, out=tmp_path / model)
        assert done.code == 0, done.stderr
        assert "there are no validation rows to measure the model on" in done.stderr
        assert open_artifact(tmp_path / model, "cf").manifest.metrics["valid"] == {}


def test_help_lists_the_models_and_the_flags(rectool: Command) -> None:
    shown = rectool("train-cf", "--help").stdout
    words = " ".join(shown.replace("│", " ").split())
    assert f"One of {', '.join(MODELS)}." in words
    for flag in ("--init-items", "--log-q", "--robust", "--resume", "--max-time", "--precision", "--biases"):
        assert flag in shown
    for panel in ("Model", "Objective", "Training", "Artifact", "Output"):
        assert f"─ {panel} ─" in shown


# Item embeddings from elsewhere


@pytest.fixture
def semantic(data: Path, rectool: Command, tmp_path: Path) -> Callable[..., Path]:
    """A semantic artifact, made by hand: vectors (I, 6)."""

    def make(of: Path = data, items: int | None = None) -> Path:
        out = tmp_path / f"semantic-{of.name}"
        out.mkdir()
        torch.manual_seed(0)
        count = items or open_artifact(of).manifest.counts["items"]
        save_file({"item": torch.randn(count, 6)}, out / "embeddings.safetensors")
        (out / "config.json").write_text(json.dumps({"pooled": "by hand"}))
        done = rectool("adopt", out, "--kind", "semantic", "--data", of)
        assert done.code == 0, done.stderr
        return out

    return make


@pytest.mark.parametrize("by", ["projection", "pca"])
def test_a_start_from_semantic_vectors(by: str, semantic: Command, train: Command, tmp_path: Path) -> None:
    vectors = semantic()
    flags = ("--model", "mf", "--embedding-size", 4, "--init-items", vectors, "--init-by", by)
    assert train(*flags, "--epochs", 1, "--learning-rate", 0).code == 0
    made = open_artifact(tmp_path / "out", "cf", verify=True)
    assert sorted(parent.role for parent in made.manifest.parents) == ["dataset", "init-items"]
    assert saved.load(made).model.item.weight.shape[1] == 4
    item = load_file(made.file("embeddings.safetensors"))["item"].double()
    source = load_file(vectors / "embeddings.safetensors")["item"].double()
    centred = source - source.mean(0)
    torch.testing.assert_close(centred @ torch.linalg.lstsq(centred, item).solution, item, rtol=1e-4, atol=1e-5)
    assert train(*flags, "--epochs", 1, "--learning-rate", 0, "--update", "--json").json["skipped"]


def test_a_start_from_another_cf_model(train: Command, tmp_path: Path) -> None:
    assert train("--model", "mf", "--embedding-size", 6, *SHORT).code == 0
    flags = ("--model", "gru4rec", "--embedding-size", 8, "--init-items", tmp_path / "out")
    assert train(*flags, *SHORT, out=tmp_path / "next").code == 0
    assert shapes(open_artifact(tmp_path / "next", "cf", verify=True))["item"][1] == 8


@pytest.mark.parametrize("dry", [False, True])
def test_starts_that_are_refused(
    dry: bool, data: Path, events: Path, semantic: Command, train: Command, tmp_path: Path
) -> None:
    more = ["--dry-run"] if dry else []
    done = train("--model", "mf", "--init-items", data, *more)
    assert done.code == 2
    assert done.error == (
        f"--init-items {data} is a dataset artifact, which has no item embeddings; name a semantic or cf artifact, "
        "or an llm artifact with an item head"
    )
    other = semantic(of=events)
    done = train("--model", "mf", "--init-items", other, *more)
    assert done.code == 2
    assert done.error.startswith(f"--init-items {other} has embeddings of other items: their digest is ")
    done = train("--model", "popularity", "--init-items", semantic(), *more)
    assert done.code == 2
    assert done.error == "--init-items means nothing to --model popularity, which only counts"
    done = train("--model", "mf", "--init-items", tmp_path / "none", *more)
    assert done.code == 2
    assert f"{tmp_path / 'none'} does not exist" in done.error
    assert not (tmp_path / "out").exists()


def test_too_few_axes(semantic: Command, train: Command, tmp_path: Path) -> None:
    done = train("--model", "mf", "--init-items", semantic(), "--init-by", "pca")
    assert done.code == 2
    assert "have too few axes for --embedding-size 64" in done.error
    assert not list(tmp_path.glob("*out*"))
