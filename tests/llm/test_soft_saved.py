"""Hybrids on disk: what was trained is written, the rest is referred to, and what is loaded scores the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import nn

from rectool.artifacts import Artifact, Input, Making, open_artifact, schemas, write
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm.backbone import Backbone, find
from rectool.llm.recommender import Recommender, assemble, load, save
from rectool.llm.soft_parts import Parts, build
from rectool.llm.soft_saved import parts_of
from rectool.models import projector as projectors
from rectool.models import saved
from rectool.models.projector import Projector
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting

CPU = torch.device("cpu")
FP32: dict[str, Any] = {"device": CPU, "dtype": torch.float32}
KINDS = {"user": 1, "item": 1, "warm": 1}

Keep = Callable[..., Artifact]


@pytest.fixture
def backbone(tiny_llm: Callable[..., Path]) -> Backbone:
    return find(str(tiny_llm()))


@pytest.fixture
def rows(dataset: Dataset) -> NDArray[np.int64]:
    return dataset.targets("test")[:25]


@pytest.fixture
def keep(tmp_path: Path, dataset: Dataset) -> Keep:
    """An artifact of these files and parents: `keep("cf", write_files, name="mf", adapter=artifact)`."""

    def make(kind: str, fill: Callable[[Path], None], name: str, inputs: list[Input] | None = None) -> Artifact:
        out = tmp_path / name
        sources = [Input("dataset", dataset.artifact.path, artifact=dataset.artifact)] if kind != "projector" else []
        parents = [each.parent(out, kind) for each in [*sources, *(inputs or [])]]
        with write(out, kind, Making(["rectool"], settings={}, seed=0, parents=parents)) as draft:
            fill(draft.path)
        return open_artifact(out, kind)

    return make


@pytest.fixture
def cf(keep: Keep, soft_parts: Callable[..., Parts], dataset: Dataset) -> Callable[[str], Artifact]:
    def make(model: str, name: str = "cf") -> Artifact:
        trained = soft_parts(model).collaborative
        assert trained is not None
        users = np.zeros((dataset.users, 8), np.float32)
        items = trained.model.item_vectors().detach().numpy().copy()
        return keep("cf", lambda folder: saved.save(trained, users, items, folder), name)

    return make


@pytest.fixture
def semantic(keep: Keep, soft_parts: Callable[..., Parts]) -> Artifact:
    table = soft_parts("mf").semantic
    assert table is not None

    def fill(folder: Path) -> None:
        save_file({"item": table.half().numpy()}, folder / "embeddings.safetensors")
        (folder / "config.json").write_text("{}")

    return keep("semantic", fill, "semantic")


@pytest.fixture
def lora(
    keep: Keep,
    backbone: Backbone,
    adapted: Callable[..., Any],
    untuned: Callable[..., Recommender],
    tmp_path: Path,
) -> tuple[Artifact, Recommender]:
    bare = untuned(backbone, Prompting(history=3))
    live = assemble(backbone, adapted(bare.model), bare.prompts, device=CPU)
    artifact = keep("llm", lambda folder: save(live, folder, tmp_path / "lora"), "lora", backbone.inputs())
    return artifact, load(artifact, **FP32)


def asked(backbone: Backbone, kinds: dict[str, int]) -> Prompts:
    return Prompts.chosen(Prompting(prompt="sella-rec", history=3), backbone.tokenizer(), default="plain", soft=kinds)


def names(artifact: Artifact) -> set[str]:
    return {path.name for path in artifact.path.iterdir()} - {"rectool.json"}


def shaken(soft: nn.Module, part: str) -> None:
    """As training would have changed it."""
    with torch.no_grad():
        for parameter in soft.parameters_of(part):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "trained", [("projector",), ("cf",), ("semantic", "projector"), ("projector", "cf", "semantic")]
)
@pytest.mark.parametrize("model", ["mf", "sasrec", "lightgcn"])
def test_what_is_loaded_scores_the_same(
    keep: Keep,
    cf: Callable[[str], Artifact],
    semantic: Artifact,
    lora: tuple[Artifact, Recommender],
    backbone: Backbone,
    dataset: Dataset,
    rows: NDArray[np.int64],
    tmp_path: Path,
    model: str,
    trained: tuple[str, ...],
) -> None:
    parts = parts_of(cf(model), "cf").over(parts_of(semantic, "semantic"))
    assert parts.sources == {"cf": "cf", "semantic": "semantic"}
    soft = build(dataset, KINDS, 32, parts, expansion=2, seed=1)
    soft.train_only(trained)
    for part in trained:
        shaken(soft, part)
    hybrid = assemble(
        backbone,
        lora[1].model,
        asked(backbone, KINDS),
        device=CPU,
        soft=soft,
        adapter="adapter",
        answer_loss="yes-logit",
    )
    expected = hybrid.score(dataset, rows)
    assert expected.std() > 1e-3
    inputs = [
        *backbone.inputs(),
        *(
            Input(role, found.path, artifact=found)
            for role, found in (("adapter", lora[0]), ("cf", open_artifact(tmp_path / "cf")), ("semantic", semantic))
        ),
    ]
    out = keep("llm", lambda folder: save(hybrid, folder, tmp_path / "hybrid"), "hybrid", inputs)
    own = {"projector.safetensors", "warm.safetensors"} | {f"{part}.safetensors" for part in trained}
    assert names(out) == own | {"model.json", "unknown.safetensors"}
    again = load(out, **FP32)
    assert again.answering.loss == "yes-logit"
    assert again.adapter == "adapter"
    np.testing.assert_allclose(again.score(dataset, rows), expected, atol=1e-5)
    live = load(out, merge=False, **FP32)
    np.testing.assert_allclose(live.score(dataset, rows), expected, atol=1e-5)


def test_a_hybrid_goes_on_from_another(
    keep: Keep,
    cf: Callable[..., Artifact],
    semantic: Artifact,
    backbone: Backbone,
    adapted: Callable[..., Any],
    dataset: Dataset,
    rows: NDArray[np.int64],
    tmp_path: Path,
) -> None:
    """The second one adds the warm token, and takes all else, an adapter of its own among it, from the first."""
    first_soft = build(dataset, {"user": 1, "item": 1}, 32, parts_of(cf("mf"), "cf"), seed=1)
    first_soft.train_only(("projector", "cf"))
    shaken(first_soft, "projector")
    shaken(first_soft, "cf")
    tuned = adapted(backbone.model(device=CPU, dtype=torch.float32))
    first = assemble(backbone, tuned, asked(backbone, {"user": 1, "item": 1}), device=CPU, soft=first_soft)
    of_cf = Input("cf", tmp_path / "cf", artifact=open_artifact(tmp_path / "cf"))
    stage = keep("llm", lambda folder: save(first, folder, tmp_path / "one"), "one", [*backbone.inputs(), of_cf])
    assert names(stage) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "cf.safetensors",
        "model.json",
        "projector.safetensors",
        "unknown.safetensors",
    }
    expected = first.score(dataset, rows)
    (tmp_path / "cf").rename(tmp_path / "gone")  # nothing is read of it any more
    np.testing.assert_allclose(load(stage, **FP32).score(dataset, rows), expected, atol=1e-5)

    parts = parts_of(semantic, "semantic").over(parts_of(stage, "init-from"))
    assert parts.sources == {"cf": "init-from", "projector": "init-from", "semantic": "semantic"}
    soft = build(dataset, KINDS, 32, parts, seed=1)
    torch.testing.assert_close(soft.unknown_vectors["item"], first_soft.unknown_vectors["item"])
    soft.train_only(("semantic",))
    model = load(stage, **FP32).model
    second = assemble(backbone, model, asked(backbone, KINDS), device=CPU, soft=soft, adapter="init-from")
    inputs = [
        *backbone.inputs(),
        *(Input(role, each.path, artifact=each) for role, each in (("init-from", stage), ("semantic", semantic))),
    ]
    out = keep("llm", lambda folder: save(second, folder, tmp_path / "two"), "two", inputs)
    assert names(out) == {"model.json", "semantic.safetensors", "unknown.safetensors", "warm.safetensors"}
    np.testing.assert_allclose(load(out, **FP32).score(dataset, rows), second.score(dataset, rows), atol=1e-5)

    elsewhere = stage.path.rename(tmp_path / "elsewhere")
    with pytest.raises(RectoolError, match="--parent init-from=PATH"):
        load(open_artifact(out.path), **FP32)
    named = load(open_artifact(out.path, elsewhere={"init-from": elsewhere}), **FP32)
    np.testing.assert_allclose(named.score(dataset, rows), second.score(dataset, rows), atol=1e-5)


def test_parts_of_an_aligned_artifact(
    keep: Keep, cf: Callable[..., Artifact], semantic: Artifact, dataset: Dataset, tmp_path: Path
) -> None:
    made = cf("mf")
    projector = Projector(8, 16, 32, "gelu")

    def fill(folder: Path) -> None:
        for name, source in (("cf", made), ("semantic", semantic)):
            shutil.copytree(source.path, folder / name)
        for name in ("cf", "semantic"):  # as far from the data set as it was
            text = (folder / name / "rectool.json").read_text()
            (folder / name / "rectool.json").write_text(text.replace('"path": "../', '"path": "../../'))
        own = keep("projector", lambda inside: projectors.save(projector, inside), "made")
        shutil.copytree(own.path, folder / "projector")
        pq.write_table(schemas.CURVE.empty_table(), folder / "curve.parquet")

    aligned = keep("aligned", fill, "aligned")
    parts = parts_of(aligned, "aligned")
    assert parts.sources == {"cf": "aligned", "semantic": "aligned", "projector": "aligned"}
    soft = build(dataset, KINDS, 32, parts)
    assert soft.projector is not None
    assert soft.projector.activation == "gelu"
    assert soft.known_items.all()
    random = build(dataset, KINDS, 32, replace(parts, projector=None, sources={"cf": "aligned"}), activation="relu")
    assert random.projector is not None
    assert random.projector.activation == "relu"


def test_what_model_json_says(
    keep: Keep, soft_parts: Callable[..., Parts], backbone: Backbone, dataset: Dataset, tmp_path: Path
) -> None:
    soft = build(dataset, {"user": 2, "item": 2}, 32, soft_parts("mf", biases=False), expansion=3)
    model = backbone.model(device=CPU, dtype=torch.float32)
    hybrid = assemble(backbone, model, asked(backbone, {"user": 2, "item": 2}), device=CPU, soft=soft)
    out = keep("llm", lambda folder: save(hybrid, folder, tmp_path / "hybrid"), "hybrid", backbone.inputs())
    said = json.loads((out.path / "model.json").read_text())
    assert said["adapter"] is False
    assert (out.path / said["backbone"]["name"]).resolve() == backbone.home
    assert said["soft_tokens"] == [{"kind": "user", "count": 2}, {"kind": "item", "count": 2}]
    digests = dataset.artifact.manifest.digests
    assert said["soft"] == {
        "hidden_size": 32,
        "unknown": "trained",
        "told": "liked",
        "biases": False,
        "data": {name: digests[name] for name in ("users", "items", "training")},
        "cf": {
            "from": None,
            "config": {
                "model": "mf",
                "task": "ctr",
                "users": dataset.users,
                "items": dataset.items,
                "history": None,
                "probability": "sigmoid",
                "settings": {"embedding_size": 8, "init_scale": 0.1, "biases": False},
            },
        },
        "semantic": None,
        "projector": {"from": None, "inputs": 8, "hidden": 24, "outputs": 64, "activation": "relu"},
        "warm": None,
    }


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"soft": {}}, r"model.json is not of rectool train-proj \(KeyError"),
        ({"soft_tokens": [{"kind": "smell", "count": 1}]}, "has soft tokens of kind 'smell', which this rectool"),
        ({"adapter": "adapter"}, "has no parent 'adapter'"),
    ],
)
def test_a_document_that_cannot_be_used(
    keep: Keep,
    soft_parts: Callable[..., Parts],
    backbone: Backbone,
    dataset: Dataset,
    tmp_path: Path,
    change: dict[str, Any],
    line: str,
) -> None:
    soft = build(dataset, {"user": 1}, 32, soft_parts("mf"))
    model = backbone.model(device=CPU, dtype=torch.float32)
    hybrid = assemble(backbone, model, asked(backbone, {"user": 1}), device=CPU, soft=soft)

    def fill(folder: Path) -> None:
        save(hybrid, folder, tmp_path / "hybrid")
        said = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**said, **change}))

    with pytest.raises(RectoolError, match=line):
        load(keep("llm", fill, "hybrid", backbone.inputs()), **FP32)


def test_damaged_parts(keep: Keep, semantic: Artifact, lora: tuple[Artifact, Recommender]) -> None:
    with pytest.raises(RectoolError, match="is an llm artifact that has nothing for soft tokens"):
        parts_of(lora[0], "init-from")

    table = np.ones((47, 3), np.float32)

    def fill(folder: Path) -> None:
        save_file({"item": table}, folder / "embeddings.safetensors")
        (folder / "config.json").write_text("{}")

    with pytest.raises(RectoolError, match=r"embeddings.safetensors: all rows are the same"):
        parts_of(keep("semantic", fill, "same"), "semantic")
    table[5, 1] = np.nan
    with pytest.raises(RectoolError, match=r"embeddings.safetensors: row 5 of item is not finite"):
        parts_of(keep("semantic", fill, "nan"), "semantic")


def test_prompts_and_soft_tokens_agree(soft_parts: Callable[..., Parts], backbone: Backbone, dataset: Dataset) -> None:
    soft = build(dataset, {"user": 1}, 32, soft_parts("mf"))
    model = backbone.model(device=CPU, dtype=torch.float32)
    with pytest.raises(RectoolError, match="has places for 1 user, 1 item, but there are 1 user"):
        assemble(backbone, model, asked(backbone, {"user": 1, "item": 1}), device=CPU, soft=soft)
    with pytest.raises(RectoolError, match="has places for 1 item, but there are no embeddings"):
        assemble(backbone, model, asked(backbone, {"item": 1}), device=CPU)
