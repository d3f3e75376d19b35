"""`rectool tune-lora --task next-item`, run for real on a model of two layers and the embedded data set made tiny."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset
from rectool.llm import recommender as recommenders

Command = Callable[..., Any]
CPU = torch.device("cpu")
SHORT = ("--epochs", 1, "--batch-size", 64, "--learning-rate", 0.01)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def semantic(data: Path, shelf: Path, rectool: Command, tiny_llm: Callable[..., Path]) -> Path:
    """Embeddings of the items by the language model, made once."""
    out = shelf / "semantic"
    if not out.exists():
        done = rectool("distill", data, "--llm", tiny_llm("llama"), "--quiet", "--out", out)
        assert done.code == 0, done.stderr
    return out


@pytest.fixture
def tune(data: Path, tiny_llm: Callable[..., Path], rectool: Command, tmp_path: Path) -> Command:
    """Run `rectool tune-lora --task next-item` on the data into `out`, with a Llama if no other model is named."""

    def run(*more: object, out: Path = tmp_path / "out", llm: Path | None = None) -> Any:
        words = ("--task", "next-item", "--llm", llm or tiny_llm("llama"), "--history", 3, "--out", out)
        return rectool("tune-lora", data, *words, *SHORT, *more)

    return run


def ndcg(out: Path, dataset: Dataset) -> float:
    """On validation rows, by all scores of all items."""
    loaded = recommenders.load(open_artifact(out, verify=True), device=CPU, dtype=torch.float32)
    rows = dataset.targets("valid")
    total = 0.0
    with torch.no_grad():
        for places, hidden in loaded.states_of(loaded.asked(dataset, rows).tokens):
            scores = hidden @ loaded.head.keys().T
            own = scores.gather(1, torch.from_numpy(dataset.item[rows[places]]).long()[:, None])
            rank = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) // 2
            total += float(torch.where(rank <= 10, 1 / torch.log2(1 + rank), 0.0).sum())
    return total / len(rows)


@pytest.mark.parametrize(
    ("head", "mask", "llm"),
    [
        ("random", "causal", "llama"),
        ("semantic", "in:1,cr:1", "llama"),
        ("tied", "in:1,cr:*", "llama"),
        ("random", "or:*,cr:1", "gpt2"),
    ],
)
def test_what_is_saved_is_what_was_measured(
    head: str,
    mask: str,
    llm: str,
    data: Path,
    semantic: Path,
    tune: Command,
    tiny_llm: Callable[..., Path],
    tmp_path: Path,
) -> None:
    flags = [] if head == "random" else ["--semantic", semantic]
    done = tune("--item-head", head, "--mask", mask, *flags, llm=tiny_llm(llm))
    assert done.code == 0, done.stderr
    made, dataset = open_artifact(tmp_path / "out", "llm", verify=True), Dataset(open_artifact(data))
    found = made.manifest.metrics
    assert (found["task"], found["head"], found["mask"], found["metric"]) == ("next-item", "item", mask, "ndcg@10")
    assert found["valid"].keys() == {"ndcg@10", "hr@10", "mrr@10"}
    assert [prior["model"] for prior in found["priors"]] == ["popularity"]
    assert found["rows"] == len(dataset.targets("train"))
    assert ndcg(tmp_path / "out", dataset) == pytest.approx(found["valid"]["ndcg@10"], abs=1e-6)
    files = ("adapter_model.safetensors", "head.safetensors")
    trained = sum(tensor.numel() for name in files for tensor in load_file(made.file(name)).values())
    assert found["trained_parameters"] == trained
    assert load_file(made.file("last/head.safetensors")).keys() == load_file(made.file("head.safetensors")).keys()
    said = json.loads(made.file("model.json").read_text())
    assert (said["task"], said["head"], said["mask"]) == ("next-item", "item", mask)
    assert said["prompt"]["template"]["name"] == "hatllm"
    assert f"{dataset.items:,} items" in done.stderr
    assert ("semantic" in [parent.role for parent in made.manifest.parents]) == bool(flags)


def test_training_lowers_the_loss(tune: Command, tmp_path: Path) -> None:
    done = tune("--full", "--learning-rate", 0.003, "--epochs", 5, "--mask", "in:1,cr:1", "--patience", 0)
    assert done.code == 0, done.stderr
    points = pq.read_table(tmp_path / "out/curve.parquet").to_pylist()
    losses = [point["value"] for point in points if point["split"] == "train"]
    assert losses[-1] < 0.9 * losses[0]
    assert losses[0] == pytest.approx(np.log(60), rel=0.1)  # as many items as there are, hardly told apart at first


def test_the_head_has_a_rate_of_its_own(tune: Command, tmp_path: Path) -> None:
    for rate, out in ((0.0, "still"), (0.05, "moved")):
        done = tune("--head-learning-rate", rate, "--steps", 2, "--seed", 3, out=tmp_path / out)
        assert done.code == 0, done.stderr
    still, moved = (load_file(tmp_path / name / "head.safetensors")["item"] for name in ("still", "moved"))
    chance = torch.randn(60, 32, generator=torch.Generator().manual_seed(3)) / 32**0.5
    torch.testing.assert_close(still, chance)
    assert float((moved - chance).abs().max()) > 0.04


def test_steps_and_patience_are_flags(tune: Command, tmp_path: Path) -> None:
    """HatLLM's way: validation every so many steps, and an end when it does not get better."""
    flags = ("--steps", 40, "--validate-steps", 2, "--patience", 2, "--learning-rate", 0, "--head-learning-rate", 0)
    assert tune(*flags).code == 0
    found = open_artifact(tmp_path / "out").manifest.metrics
    assert found["steps"] == 6


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    tune: Command, signals: dict[int, int], tmp_path: Path
) -> None:
    flags = ("--mask", "in:1,cr:1", "--epochs", 2)
    assert tune(*flags, out=tmp_path / "whole").code == 0
    signals[3] = 15
    assert tune(*flags).code == 75
    signals.clear()
    done = tune(*flags, "--resume")
    assert done.code == 0, done.stderr
    one, other = (open_artifact(tmp_path / name).manifest.files for name in ("whole", "out"))
    assert one == other


@pytest.mark.parametrize("head", ["item", "title"])
@pytest.mark.parametrize("mask", ["in:1,cr:1", "or:1,cr-last:1"])
def test_however_it_is_computed_the_result_is_the_same(head: str, mask: str, tune: Command, tmp_path: Path) -> None:
    plain = ("--head", head, "--mask", mask, "--dropout", 0, "--samples", 100)
    assert tune(*plain).code == 0
    expected = open_artifact(tmp_path / "out").manifest.metrics["valid"]
    for flags in (("--packing", "on"), ("--checkpointing", "on"), ("--batch-tokens", 300)):
        done = tune(*plain, *flags, out=tmp_path / "other", llm=None)
        assert done.code == 0, done.stderr
        for name in ("adapter_model.safetensors", *(["head.safetensors"] if head == "item" else [])):
            one, other = (load_file(tmp_path / out / "last" / name) for out in ("out", "other"))
            torch.testing.assert_close(one, other, rtol=1e-2, atol=3e-4)
        found = open_artifact(tmp_path / "other").manifest.metrics
        assert found["valid"] == pytest.approx(expected, rel=1e-2)
        assert (found["packed"], found["checkpointing"]) == ("--packing" in flags, "--checkpointing" in flags)
        shutil.rmtree(tmp_path / "other")


def test_a_mask_that_changes_nothing_is_told(tune: Command, tmp_path: Path) -> None:
    told = "cr in the top layer alone changes nothing"
    for mask, idle in (("in:1,cr:1", True), ("cr:2", False)):
        done = tune("--mask", mask, "--steps", 1, out=tmp_path / mask)
        assert done.code == 0, done.stderr
        assert (told in done.stderr) == idle


def test_deep_layers_without_what_nobody_sees(data: Path, tune: Command, tmp_path: Path) -> None:
    """Trained and scored so, it is what the stricter mask makes."""
    for flags, out in ((("cr:*", "--compress-deep"), "out"), (("cr-last:*",), "plain")):
        done = tune("--mask", *flags, out=tmp_path / out)
        assert done.code == 0, done.stderr
    one, other = (open_artifact(tmp_path / name) for name in ("out", "plain"))
    assert one.manifest.metrics["mask"] == "cr-last:*"
    assert one.manifest.files == other.manifest.files
    expected = one.manifest.metrics["valid"]["ndcg@10"]
    assert ndcg(tmp_path / "out", Dataset(open_artifact(data))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mask", ["causal", "in:1,cr:1"])
def test_titles(mask: str, tune: Command, tmp_path: Path) -> None:
    done = tune("--head", "title", "--mask", mask, "--epochs", 2)
    assert done.code == 0, done.stderr
    made = open_artifact(tmp_path / "out", "llm", verify=True)
    found = made.manifest.metrics
    assert (found["head"], found["metric"], found["priors"]) == ("title", "loss", [])
    points = pq.read_table(made.file("curve.parquet")).to_pylist()
    held_out = [point["value"] for point in points if (point["split"], point["metric"]) == ("valid", "loss")]
    assert held_out[-1] < held_out[0]
    assert found["valid"]["loss"] == pytest.approx(min(held_out), rel=1e-5)
    assert "head.safetensors" not in made.manifest.files
    each = float(done.stderr.split("are written, ")[1].split()[0])
    written = found["tokens_per_second"] * each * found["rows"] / found["tokens"]
    assert found["targets_per_second"] == pytest.approx(written, rel=0.03)  # targets are the tokens of titles


def test_titles_may_be_ranked_by_while_training(tune: Command, tmp_path: Path) -> None:
    flags = ("--head", "title", "--metric", "ndcg@10", "--validate-rows", 5, "--steps", 1)
    done = tune(*flags)
    assert done.code == 0, done.stderr
    found = open_artifact(tmp_path / "out").manifest.metrics
    assert found["valid"].keys() == {"ndcg@10", "hr@10", "mrr@10"}
    assert [prior["model"] for prior in found["priors"]] == ["popularity"]


@pytest.mark.parametrize("by", ["projection", "pca"])
@pytest.mark.parametrize("head", ["random", "tied"])
def test_a_collaborative_model_starts_from_the_keys(
    head: str, by: str, data: Path, semantic: Path, tune: Command, rectool: Command, tmp_path: Path
) -> None:
    """HatLLM's CR -> SASRec."""
    flags = [] if head == "random" else ["--semantic", semantic]
    assert tune("--item-head", head, *flags, "--steps", 2).code == 0
    words = ("--model", "sasrec", "--task", "next-item", "--embedding-size", 4, "--heads", 1, "--epochs", 1)
    start = ("--init-items", tmp_path / "out", "--init-by", by, "--learning-rate", 0, "--out", tmp_path / "cf")
    done = rectool("train-cf", data, *words, *start)
    assert done.code == 0, done.stderr
    made = load_file(tmp_path / "cf/embeddings.safetensors")["item"].double()
    loaded = recommenders.load(open_artifact(tmp_path / "out"), device=CPU, dtype=torch.float32)
    keys = loaded.head.keys().detach().double()
    centred = keys - keys.mean(0)
    torch.testing.assert_close(centred @ torch.linalg.lstsq(centred, made).solution, made, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prompt", "plain"], "prompt plain is of task ctr, but --task is next-item"),
        (["--head", "title", "--item-head", "random"], "--item-head means nothing to --head title"),
        (["--item-head", "tied"], "--item-head tied needs --semantic"),
        (["--semantic", "somewhere"], "--semantic is what an item head starts from: add --item-head semantic or tied"),
        (["--answer-loss", "yes-logit"], "--answer-loss yes-logit is for --task ctr"),
        (["--metric", "auc"], "--metric auc is not measured for next-item"),
        (["--samples", 100_000], "train rows"),
        (["--head-learning-rate", -1], "--head-learning-rate -1.0 must be at least 0"),
        (["--mask", "in:1,or:*,cr:5"], "--mask in:1,or:*,cr:5 is for 6 layers or more, but the model has 2"),
    ],
)
@pytest.mark.usefixtures("weights_unread")
@pytest.mark.parametrize("dry", [False, True])
def test_what_does_not_go_together_is_refused_before_weights_are_read(
    flags: list[Any], said: str, dry: bool, tune: Command, tmp_path: Path
) -> None:
    done = tune(*flags, *(["--dry-run"] if dry else []))
    assert done.code == 2
    assert said in done.error
    assert not list(tmp_path.glob("*out*"))
