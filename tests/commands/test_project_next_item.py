"""`rectool train-proj --task next-item`, run for real on a model of two layers and the embedded data set made tiny."""

from __future__ import annotations

import json
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
from rectool.evaluation import language_ranking
from rectool.llm import recommender as recommenders
from rectool.llm.references import UNKNOWN
from rectool.prompts.earlier import EarlierItems

Command = Callable[..., Any]
CPU = torch.device("cpu")
SHORT = "--task next-item --epochs 1 --batch-size 32 --samples 90 --learning-rate 0.01 --validate-rows 30"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def parents(data: Path, shelved: Command, tiny_llm: Callable[..., Path]) -> dict[str, Path]:
    """What soft tokens and heads are made of, and a tuned adapter; made once."""
    next_item, llm = ("--task", "next-item"), ("--llm", tiny_llm("llama"))
    sasrec = ("--model", "sasrec", *next_item, "--embedding-size", 8, "--epochs", 1, "--max-length", 6)
    lines = {
        "sasrec": ("train-cf", data, *sasrec),
        "hatllm": ("tune-lora", data, *llm, *next_item, "--steps", 2, "--history", 3, "--mask", "in:1,cr:1"),
        "semantic": ("distill", data, *llm),
    }
    return shelved(lines)


@pytest.fixture
def project(
    data: Path, rectool: Command, parents: dict[str, Path], tiny_llm: Callable[..., Path], tmp_path: Path
) -> Command:
    """Run `rectool train-proj --task next-item` on the data into `out`; @NAME stands for a parent, or for a model."""
    named = {**parents, "llama": tiny_llm("llama")}

    def run(words: str, out: Path = tmp_path / "out") -> Any:
        given = [named[word[1:]] if word.startswith("@") else word for word in words.split()]
        return rectool("train-proj", data, *SHORT.split(), "--out", out, *given)

    return run


def measured(out: Path, dataset: Dataset) -> float:
    """NDCG@10 of what was saved, on the rows that validation took."""
    loaded = recommenders.load(open_artifact(out, verify=True), device=CPU, dtype=torch.float32)
    valid = dataset.targets("valid")
    rows = np.sort(np.random.default_rng(0).choice(valid, 30, replace=False))
    ranks = language_ranking.rank(loaded, dataset, rows, k=10).rank
    return float(((ranks <= 10) / np.log2(1 + ranks)).mean())


E4SREC = "--llm @llama --adapter new --cf @sasrec --tokens history --prompt e4srec --train projector,lora,head"
LLARA = "--llm @llama --adapter new --cf @sasrec --tokens history --train projector,lora,head --mix linear"


@pytest.mark.parametrize(
    ("words", "prompt", "mask"),
    [
        (E4SREC, "e4srec", "causal"),
        (LLARA, "llara", "causal"),
        (f"{LLARA} --mask in:1,cr:1 --item-head semantic --semantic @semantic", "llara", "in:1,cr:1"),
        ("--llm @llama --cf @sasrec --tokens user,history --train head,projector --history 4", "llara", "causal"),
        ("--llm @llama --cf @sasrec --train head --item-head tied --semantic @semantic", "llara", "causal"),
        ("--adapter @hatllm --cf @sasrec --prompt llara", "llara", "in:1,cr:1"),
        ("--adapter @hatllm --cf @sasrec --train lora --mask causal --packing on", "llara", "causal"),
    ],
)
def test_what_is_saved_is_what_was_measured(
    words: str, prompt: str, mask: str, data: Path, project: Command, parents: dict[str, Path], tmp_path: Path
) -> None:
    done = project(words)
    assert done.code == 0, done.stderr
    found = open_artifact(tmp_path / "out").manifest.metrics
    said = json.loads((tmp_path / "out/model.json").read_text())
    assert (said["task"], said["head"], said["mask"]) == ("next-item", "item", mask)
    assert said["prompt"]["template"]["name"] == prompt
    assert said["soft"]["told"] == "all"
    assert found["valid"]["ndcg@10"] == pytest.approx(measured(tmp_path / "out", Dataset(open_artifact(data))))
    assert found["prefixed"] == ("--adapter" not in words)  # a frozen model without a mask
    kept = "--adapter @hatllm" in words
    heads = [load_file(path / "head.safetensors") for path in (tmp_path / "out", parents["hatllm"])]
    assert (heads[0].keys() == heads[1].keys() and torch.equal(heads[0]["item"], heads[1]["item"])) == kept


def test_history_tokens_are_of_all_earlier_items(data: Path, project: Command, tmp_path: Path) -> None:
    """Of the same items as the titles beside them, liked or not."""
    assert project(f"{LLARA} --steps 1 --history 4").code == 0
    loaded = recommenders.load(open_artifact(tmp_path / "out"), device=CPU, dtype=torch.float32)
    dataset = Dataset(open_artifact(data))
    rows = dataset.targets("test")[:40]
    asked = loaded.asked(dataset, rows)
    earlier = EarlierItems(dataset, loaded.prompts.template, 4).of(rows)
    assert not earlier.liked.all()
    referred = -1 - asked.tokens.ids[asked.tokens.ids < 0].astype(np.int64)
    which = asked.wanted.which[asked.wanted.groups_of(referred)]
    assert loaded.soft is not None
    expected = np.where(loaded.soft.known_items[earlier.items], earlier.items, UNKNOWN)
    assert which.tolist() == expected.tolist()


def test_training_lowers_the_loss(project: Command, tmp_path: Path) -> None:
    assert project(f"{E4SREC} --epochs 8 --patience 0").code == 0
    points = pq.read_table(tmp_path / "out/curve.parquet").to_pylist()
    losses = [point["value"] for point in points if point["split"] == "train"]
    assert losses[-1] < 0.9 * losses[0]


def test_a_hybrid_goes_on_with_its_head(project: Command, tmp_path: Path) -> None:
    """A tied head too, whose embeddings stand two artifacts above."""
    first = project("--llm @llama --cf @sasrec --train projector,head --item-head tied --semantic @semantic")
    assert first.code == 0, first.stderr
    done = project(f"--init-from {tmp_path / 'out'} --epochs 0", tmp_path / "on")
    assert done.code == 0, done.stderr
    one, other = (
        recommenders.load(open_artifact(tmp_path / name), device=CPU, dtype=torch.float32).head
        for name in ("out", "on")
    )
    torch.testing.assert_close(one.keys(), other.keys())
    one, other = (open_artifact(tmp_path / name).manifest.metrics["valid"] for name in ("out", "on"))
    assert one == pytest.approx(other)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--llm @llama --cf @sasrec", "an item head starts here that nothing has trained: add head to --train"),
        ("--llm @llama --cf @sasrec --tokens item --train head", "prompt llara has no place for item embeddings"),
        ("--llm @llama --cf @sasrec --train head --item-head tied", "--item-head tied needs --semantic"),
        ("--llm @llama --cf @sasrec --train head --semantic @semantic", "--semantic is for the token warm or an"),
        ("--llm @llama --cf @sasrec --train head --answer-loss softmax", "--answer-loss softmax is for --task ctr"),
        ("--llm @llama --cf @sasrec --train head --prompt collm", "prompt collm has no place for history"),
        ("--adapter @hatllm --cf @sasrec --cache-prefix 1GB", "with --mask in:1,cr:1 prompts are computed as wholes"),
        (f"{E4SREC} --mix linear", "--mix linear: without embeddings prompt e4srec says nothing of whom it asks"),
        (
            "--adapter @hatllm --cf @sasrec --head-learning-rate 1",
            "--head-learning-rate means nothing where",
        ),
        ("--adapter @hatllm --cf @sasrec --task ctr --item-head random", "--item-head random is for --task next-item"),
    ],
)
@pytest.mark.parametrize("dry", ["", " --dry-run"])
def test_what_does_not_go_together(words: str, said: str, dry: str, project: Command, tmp_path: Path) -> None:
    done = project(words + dry)
    assert done.code == 2
    assert said in done.error
    assert not list(tmp_path.glob("*out*"))
