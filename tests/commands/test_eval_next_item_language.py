"""`rectool eval` and `recommend` of language models that predict the next item, against the slow way."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from rectool.artifacts import Input, Making, open_artifact, write
from rectool.data.dataset import Dataset
from rectool.llm import backbone, recommender
from rectool.llm.item_head import ItemHead
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.recommender import Recommender
from rectool.llm.title_head import TitleHead
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting

Command = Callable[..., Any]
Make = Callable[..., Path]
CPU = torch.device("cpu")
FP32: dict[str, Any] = {"device": CPU, "dtype": torch.float32}


@pytest.fixture
def tuned(data: Path, shelf: Path, tiny_llm: Callable[..., Path]) -> Make:
    """An `llm` artifact of task next-item, whose model is as it was and whose item head is random."""

    def make(head: str = "item", mask: MaskPlan = CAUSAL) -> Path:
        out = shelf / f"{head}-{mask.text.replace(':', '').replace('*', '')}"
        if out.exists():
            return out
        found = backbone.find(str(tiny_llm("llama")))
        prompts = Prompts.chosen(Prompting(prompt="hatllm", history=3), found.tokenizer(), default="hatllm")
        model, dataset = found.model(**FP32), Dataset(open_artifact(data))
        made = recommender.assemble(
            found,
            model,
            prompts,
            device=CPU,
            head=ItemHead.random(dataset.items, 32, 0).of(dataset) if head == "item" else TitleHead(model),
            mask=mask,
        )
        sources = [Input("dataset", data, artifact=dataset.artifact), *found.inputs("backbone")]
        making = Making(["rectool", "tune-lora"], {}, 0, [source.parent(out, "llm") for source in sources])
        with write(out, "llm", making) as draft:
            recommender.save(made, draft.path, out)
        return out

    return make


def logits(model: Path, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, I) of the whole model, prompt by prompt, without masks."""
    loaded = recommender.load(open_artifact(model, "llm"), **FP32)
    assert isinstance(loaded.head, ItemHead)
    found = []
    for row in rows:
        ids = torch.from_numpy(loaded.prompts.rows(dataset, np.array([row])).ids.astype(np.int64))[None]
        with torch.no_grad():
            state = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
            found.append((loaded.head.keys() @ state).numpy())
    return np.stack(found)


def ranks(out: Path) -> NDArray[np.int64]:
    return np.asarray(pq.read_table(out / "predictions.parquet").column("rank"))


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def test_an_item_head_ranks_the_catalogue(rectool: Command, data: Path, tuned: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = rectool("eval", data, tuned(), "--topk", "--k", "5,10", "--exclude", "history", "--out", out)
    assert done.code == 0, done.stderr
    dataset = Dataset(open_artifact(data))
    table = pq.read_table(out / "predictions.parquet")
    rows = np.asarray(table.column("row"))
    assert rows.tolist() == dataset.targets("test").tolist()
    scores, best = logits(tuned(), dataset, rows), pq.read_table(out / "topk.parquet")
    for row, own, rank in zip(rows, scores, ranks(out), strict=True):
        met = dataset.item[np.flatnonzero(dataset.user == dataset.user[row])]
        met = met[: np.searchsorted(np.flatnonzero(dataset.user == dataset.user[row]), row)]
        own[np.setdiff1d(met, dataset.item[row])] = -np.inf
        assert rank == 1 + (own > own[dataset.item[row]]).sum()
    first = np.asarray(best.column("item"))[np.asarray(best.column("rank")) == 1]
    assert first.tolist() == scores.argmax(1).tolist()
    found = np.asarray(table.column("score"))
    np.testing.assert_allclose(found, scores[np.arange(len(rows)), dataset.item[rows]], atol=1e-4)
    lines = {(line["metric"], line["group"]): line["value"] for line in report(out)["metrics"]}
    assert lines["hr@10", "all"] == pytest.approx((ranks(out) <= 10).mean())
    about = report(out)["language_model"]
    assert (report(out)["task"], about["head"], about["mask"]) == ("next-item", "item", "causal")
    assert "answers" not in about
    assert "scores of an item head" in done.stderr
    assert rectool("compare", out, "--out", tmp_path / "table").code == 0


def test_a_mask_matters_and_can_be_stricter(rectool: Command, data: Path, tuned: Make, tmp_path: Path) -> None:
    masked = tuned(mask=MaskPlan.parse("in:1,cr:1"))
    words = ("eval", data, masked, "--draws", 0)
    flags: dict[str, tuple[Any, ...]] = {"plain": (), "deep": ("--compress-deep",), "alone": ("--isolate-items",)}
    said = {}
    for name, given in flags.items():
        done = rectool(*words, *given, "--out", tmp_path / name)
        assert done.code == 0, done.stderr
        said[name] = report(tmp_path / name)["language_model"]["mask"]
        assert f"mask {said[name]}" in done.stderr
    assert said == {"plain": "in:1,cr:1", "deep": "in:1,cr-last:1", "alone": "isolate:1,cr:1"}
    assert rectool("eval", data, tuned(), "--draws", 0, "--out", tmp_path / "causal").code == 0
    assert (ranks(tmp_path / "causal") != ranks(tmp_path / "plain")).any()
    assert "--compress-deep" in rectool("eval", data, tuned(), "--compress-deep", "--out", tmp_path / "no").error


def test_labels_can_be_rated_too(rectool: Command, data: Path, tuned: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = rectool("eval", data, tuned(), "--task", "ctr", "--draws", 0, "--out", out)
    assert done.code == 0, done.stderr
    dataset = Dataset(open_artifact(data))
    table = pq.read_table(out / "predictions.parquet")
    rows = np.asarray(table.column("row"))
    expected = logits(tuned(), dataset, rows)[np.arange(len(rows)), dataset.item[rows]]
    np.testing.assert_allclose(np.asarray(table.column("score")), expected, atol=1e-4)
    assert "gives no probabilities" in done.stdout


def test_a_stopped_ranking_goes_on(
    rectool: Command,
    data: Path,
    tuned: Make,
    small_pieces: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_pieces(1000)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert rectool("eval", data, tuned(), "--out", whole).code == 0
    real, asked = Recommender.states_of, []

    def stopping(self: Recommender, *arguments: Any, **named: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(self, *arguments, **named)

    monkeypatch.setattr(Recommender, "states_of", stopping)
    assert rectool("eval", data, tuned(), "--out", out).code == 130
    done = rectool("eval", data, tuned(), "--out", out, "--resume")
    assert "going on from row" in done.stderr
    for name in ("predictions.parquet", "metrics.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("ground", ["nearest", "trie"])
@pytest.mark.parametrize("is_tuned", [True, False])
def test_titles_are_grounded(
    rectool: Command,
    data: Path,
    tuned: Make,
    tiny_llm: Callable[..., Path],
    tmp_path: Path,
    ground: str,
    is_tuned: bool,
) -> None:
    out = tmp_path / "out"
    model = (tuned("title"),) if is_tuned else (tiny_llm("llama"), "--task", "next-item", "--history", 3)
    words = ("--ground", ground, "--beams", 3, "--k", "2,5", "--topk", "--draws", 0)
    done = rectool("eval", data, *model, *words, "--out", out)
    assert done.code == 0, done.stderr
    assert f"titles of 3 beams grounded by {ground}" in done.stderr
    about, items = report(out)["language_model"], Dataset(open_artifact(data)).items
    assert (about["head"], about["ground"], about["beams"]) == ("title", ground, 3)
    assert 1 <= ranks(out).min() <= ranks(out).max() <= items
    best = pq.read_table(out / "topk.parquet")
    assert np.asarray(best.column("score")).min() > -1e8  # nothing that was not reached
    assert "item_head" not in about


def test_recommend_needs_no_retriever(rectool: Command, data: Path, tuned: Make, tmp_path: Path) -> None:
    dataset = Dataset(open_artifact(data))
    for head in ("item", "title"):
        words = ("recommend", data, tuned(head), "--users", dataset.user_ids()[0].as_py(), "--k", 3)
        done = rectool(*words, "--out", tmp_path / head)
        assert done.code == 0, done.stderr
        found = pq.read_table(tmp_path / head / "recommendations.parquet")
        assert np.asarray(found.column("rank")).tolist() == [1, 2, 3]
        assert not set(found.column("item").to_pylist()) & set(dataset.item[dataset.user == 0].tolist())
        said = rectool(*words, "--retriever", tuned(), "--out", tmp_path / "no").error
        assert "is a next-item model, which ranks the catalogue itself" in said


def test_mistakes_are_one_line(
    rectool: Command, data: Path, tuned: Make, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    def refused(*words: object, data: Path = data) -> str:
        done = rectool("eval", data, *words, "--out", tmp_path / "out")
        assert done.code == 2, done.stderr
        assert not (tmp_path / "out").exists()
        return str(done.error)

    llama = tiny_llm("llama")
    assert f"--ground: {tuned()} writes no titles" in refused(tuned(), "--ground", "trie")
    assert "--beams 0 must be at least 1" in refused(tuned("title"), "--beams", 0)
    assert "writes the next title; it rates no items" in refused(tuned("title"), "--task", "ctr")
    assert "--beams: " in refused(llama, "--beams", 3)
    assert "--shots: " in refused(llama, "--task", "next-item", "--shots", 2)
    assert "--isolate-items: " in refused(llama, "--isolate-items")
    assert "prompt collm-text is of task ctr, but next-item is needed" in refused(
        llama, "--task", "next-item", "--prompt", "collm-text"
    )
    other = tmp_path / "other"
    words = ("prep", "synthetic", "--users", 40, "--items", 50, "--seed", 9, "--quiet", "--out", other)
    assert rectool(*words).code == 0
    assert "ranks the items of the data set that it was tuned on" in refused(tuned(), data=other)
