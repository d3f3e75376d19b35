"""`rectool eval` of language models with soft tokens: as any model is evaluated, and saying who was unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rectool.artifacts import Input, Making, open_artifact, write
from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.llm import backbone, recommender
from rectool.llm.soft_parts import build
from rectool.llm.soft_saved import parts_of
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting

Command = Callable[..., Any]
CPU = torch.device("cpu")
KINDS = {"user": 1, "item": 2}


@pytest.fixture
def cf(rectool: Command, data: Path, shelf: Path) -> Path:
    out = shelf / "cf"
    if not out.exists():
        words = ("--model", "mf", "--embedding-size", 4, "--epochs", 1, "--device", "cpu")
        assert rectool("train-cf", data, *words, "--out", out).code == 0
    return out


@pytest.fixture
def hybrid(data: Path, cf: Path, shelf: Path, tiny_llm: Callable[..., Path]) -> Path:
    """Frozen matrix factorisation behind a random projector, untrained vectors for the unknown."""
    out = shelf / "hybrid"
    if out.exists():
        return out
    found, made = backbone.find(str(tiny_llm("llama"))), open_artifact(cf)
    kinds = {"user": 2, "item": 2}
    soft = build(Dataset(open_artifact(data)), kinds, 32, parts_of(made, "cf"), unknown="mean", seed=2)
    soft.train_only(["projector"])
    with torch.no_grad():
        for parameter in soft.parameters_of("projector"):
            parameter.normal_()
    settings = Prompting(prompt="collm", noun="films", history=3)
    prompts = Prompts.chosen(settings, found.tokenizer(), default="plain", soft=kinds)
    model = found.model(device=CPU, dtype=torch.float32)
    whole = recommender.assemble(found, model, prompts, device=CPU, soft=soft)
    sources = [Input("dataset", data, artifact=open_artifact(data)), *found.inputs(), Input("cf", cf, artifact=made)]
    making = Making(["rectool", "train-proj"], {}, 0, [source.parent(out, "llm") for source in sources])
    with write(out, "llm", making) as draft:
        recommender.save(whole, draft.path, out)
    return out


def test_a_hybrid_is_evaluated_like_any_model(rectool: Command, data: Path, hybrid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = rectool("eval", data, hybrid, "--out", out)
    assert done.code == 0, done.stderr
    assert "soft tokens 2 user, 2 item" in done.stderr
    table = pq.read_table(out / "predictions.parquet")
    found = {name: table.column(name).to_numpy() for name in table.column_names}
    dataset, loaded = (
        Dataset(open_artifact(data)),
        recommender.load(open_artifact(hybrid), device=CPU, dtype=torch.float32),
    )
    np.testing.assert_allclose(found["score"], loaded.score(dataset, found["row"]), atol=1e-5)
    train = dataset.split == SPLITS.index("train")
    unknown = {name: ~np.isin(found[name], getattr(dataset, name)[train]) for name in ("user", "item")}
    assert 0 < unknown["item"].sum() < len(table)
    for name, expected in unknown.items():
        np.testing.assert_array_equal(found[f"unknown_{name}"], expected)
    about = json.loads((out / "metrics.json").read_text())["language_model"]
    assert (about["soft_tokens"], about["collaborative"], about["unknown"]) == ({"user": 2, "item": 2}, "mf", "mean")
    assert about["unknown_rows"] == {f"unknown_{name}": int(each.sum()) for name, each in unknown.items()}
    said = f"{unknown['user'].sum()} rows tell of a user and {unknown['item'].sum()} of an item without a vector"
    assert f"{said}: the mean of the others stands there" in done.stdout
    assert open_artifact(out, "result", verify=True).manifest.kind == "result"


def test_users_and_items_are_those_of_its_data_set(rectool: Command, hybrid: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    assert rectool("prep", "synthetic", "--users", 60, "--items", 60, "--seed", 3, "--out", other).code == 0
    refused = rectool("eval", other, hybrid, "--out", out)
    assert refused.code == 2
    assert "cf was made from a dataset whose users is" in refused.error
    assert not out.exists()


def test_a_part_that_has_moved(rectool: Command, data: Path, cf: Path, hybrid: Path, tmp_path: Path) -> None:
    elsewhere = cf.rename(cf.with_name("moved"))
    try:
        lost = rectool("eval", data, hybrid, "--out", tmp_path / "out")
        assert lost.code == 2
        assert lost.error.endswith("say where it is with --parent cf=PATH")
        found = rectool("eval", data, hybrid, "--parent", f"cf={elsewhere}", "--out", tmp_path / "out")
        assert found.code == 0, found.stderr
        places = ("--parent", f"cf={elsewhere}", "--parent", f"adapter={elsewhere}")
        wrong = rectool("eval", data, hybrid, *places, "--out", tmp_path / "other")
        assert wrong.error.startswith("--parent adapter: rectool eval reads no artifact in this role")
    finally:
        elsewhere.rename(cf)


def test_a_hybrid_reranks_for_known_and_new_users(
    rectool: Command, data: Path, cf: Path, hybrid: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    retriever = tmp_path / "popular"
    assert rectool("train-cf", data, "--model", "popularity", "--out", retriever).code == 0
    title = Dataset(open_artifact(data)).titles()[3].as_py()
    words = ("--retriever", retriever, "--candidates", 8, "--k", 3, "--users", "u1", "--likes", title)
    done = rectool("recommend", data, hybrid, *words, "--out", out)
    assert done.code == 0, done.stderr
    table = pq.read_table(out / "recommendations.parquet").to_pydict()
    assert table["rank"] == [1, 2, 3, 1, 2, 3]
    assert table["new_user"] == [None] * 3 + [1] * 3
    assert table["score"][:3] == sorted(table["score"][:3], reverse=True)
