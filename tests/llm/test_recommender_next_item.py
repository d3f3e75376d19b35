"""The composite with an item head: states as masked, logits, and what is saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from rectool.artifacts import Input, Making, open_artifact, write
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm import embeddings
from rectool.llm.backbone import Backbone, find
from rectool.llm.item_head import ItemHead, refuse_other_items
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.recommender import Recommender, assemble, load, refuse_unfit, save
from rectool.llm.title_head import TitleHead
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting

CPU = torch.device("cpu")
FP32: dict[str, Any] = {"device": CPU, "dtype": torch.float32}
PLAN = MaskPlan.parse("in:1,cr:1")

Make = Callable[..., Recommender]
Adapted = Callable[..., Any]


@pytest.fixture
def rows(dataset: Dataset) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(dataset.targets("test"))[:12]


@pytest.fixture
def backbone(tiny_llm: Callable[..., Path]) -> Backbone:
    return find(str(tiny_llm()))


@pytest.fixture
def semantic(dataset: Dataset, tmp_path: Path) -> Path:
    """A `semantic` artifact of the data set's items."""
    out = tmp_path / "semantic"
    table = np.random.default_rng(1).standard_normal((dataset.items, 12)).astype(np.float32)
    parents = [Input("dataset", dataset.artifact.path, artifact=dataset.artifact).parent(out, "semantic")]
    with write(out, "semantic", Making(["rectool"], settings={}, seed=0, parents=parents)) as draft:
        embeddings.write(table, {}, draft.path)
    return out


@pytest.fixture
def made(backbone: Backbone, adapted: Adapted, dataset: Dataset) -> Make:
    """A recommender with a live adapter and an item head."""

    def make(head: Any = None, mask: MaskPlan = CAUSAL) -> Recommender:
        prompts = Prompts.chosen(Prompting(prompt="hatllm", history=3), backbone.tokenizer(), default="hatllm")
        refuse_unfit(prompts, backbone)
        head = head or ItemHead.random(dataset.items, 32, 0).of(dataset)
        return assemble(backbone, adapted(backbone.model(**FP32)), prompts, device=CPU, head=head, mask=mask)

    return make


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., Path]:
    def make(recommender: Recommender, *sources: Input, name: str = "tuned") -> Path:
        out = tmp_path / name
        inputs = [*recommender.backbone.inputs(), *sources]
        with write(out, "llm", Making(["rectool"], {}, 0, [each.parent(out, "llm") for each in inputs])) as draft:
            save(recommender, draft.path, out)
        return out

    return make


def one_by_one(recommender: Recommender, dataset: Dataset, rows: NDArray[np.int64]) -> Tensor:
    """The last hidden state of each prompt alone, of the whole model without masks."""
    tokens = recommender.prompts.rows(dataset, rows)
    found = []
    with torch.no_grad():
        for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            ids = torch.from_numpy(tokens.ids[start:stop].astype(np.int64))[None]
            found.append(recommender.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1])
    return torch.stack(found)


def states(recommender: Recommender, dataset: Dataset, rows: NDArray[np.int64]) -> Tensor:
    found = torch.full((len(rows), 32), torch.nan)
    asked = recommender.asked(dataset, rows)
    for places, hidden in recommender.states_of(asked.tokens, wanted=asked.wanted, budget=200):
        found[torch.from_numpy(places)] = hidden
    return found


def test_states_and_logits_are_the_whole_models(made: Make, dataset: Dataset, rows: NDArray[np.int64]) -> None:
    recommender = made()
    expected = one_by_one(recommender, dataset, rows)
    torch.testing.assert_close(states(recommender, dataset, rows), expected, atol=1e-5, rtol=1e-5)
    assert isinstance(recommender.head, ItemHead)
    logits = expected @ recommender.head.keys().detach().T
    own = logits[torch.arange(len(rows)), torch.from_numpy(dataset.item[rows]).long()]
    np.testing.assert_allclose(recommender.score(dataset, rows), own, atol=1e-5)
    assert recommender.task == "next-item"
    with pytest.raises(RectoolError, match="predicts the next item; it answers no yes/no questions"):
        _ = recommender.answering


def test_a_mask_is_heeded_saved_and_loaded(
    made: Make, keep: Callable[..., Path], dataset: Dataset, rows: NDArray[np.int64]
) -> None:
    masked = made(mask=PLAN)
    found = states(masked, dataset, rows)
    plain = states(made(), dataset, rows)
    has_history = np.diff(masked.asked(dataset, rows).tokens.span_offsets) > 1
    assert (found - plain).abs().amax(1)[torch.from_numpy(has_history)].min() > 1e-3
    out = keep(masked)
    said = json.loads((out / "model.json").read_text())
    assert (said["task"], said["head"], said["mask"]) == ("next-item", "item", "in:1,cr:1")
    assert said["item_head"] == {"from": None, "data": {"items": dataset.artifact.manifest.digests["items"]}}
    assert "answers" not in said
    loaded = load(open_artifact(out, "llm"), **FP32)
    assert loaded.mask == PLAN
    torch.testing.assert_close(states(loaded, dataset, rows), found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["in", "cr", "cr-pre"])
def test_in_the_top_layer_alone_a_mask_of_items_changes_nothing(
    kind: str, made: Make, dataset: Dataset, rows: NDArray[np.int64]
) -> None:
    plain, masked = made(mask=MaskPlan("isolate:1,or:1")), made(mask=MaskPlan(f"isolate:1,{kind}:1"))
    assert masked.mask.idle_on_top(2) == kind
    torch.testing.assert_close(states(masked, dataset, rows), states(plain, dataset, rows), atol=1e-6, rtol=1e-6)
    deeper = made(mask=MaskPlan(f"{kind}:2"))
    assert deeper.mask.idle_on_top(2) is None
    assert (states(deeper, dataset, rows) - states(made(), dataset, rows)).abs().max() > 1e-3


def test_yes_or_no_under_a_mask(
    backbone: Backbone,
    keep: Callable[..., Path],
    dataset: Dataset,
    rows: NDArray[np.int64],
    untuned: Callable[..., Recommender],
) -> None:
    plain = untuned(backbone, Prompting(history=3))
    masked = assemble(backbone, backbone.model(**FP32), plain.prompts, device=CPU, mask=PLAN)
    scores = masked.score(dataset, rows)
    assert np.abs(scores - plain.score(dataset, rows)).max() > 1e-3
    np.testing.assert_allclose(load(open_artifact(keep(masked), "llm"), **FP32).score(dataset, rows), scores, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_is_saved_and_loaded(
    made: Make, keep: Callable[..., Path], dataset: Dataset, rows: NDArray[np.int64], semantic: Path, tied: bool
) -> None:
    artifact = open_artifact(semantic, "semantic")
    table = load_file(semantic / "embeddings.safetensors")["item"]
    recommender = made(ItemHead.tied(table, 32, 3).of(dataset)) if tied else made()
    sources = [Input("semantic", semantic, artifact=artifact)] if tied else []
    out = keep(recommender, *sources)
    tensors = load_file(out / "head.safetensors")
    shape = {"projection": (32, 12)} if tied else {"item": (dataset.items, 32)}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shape
    expected = recommender.score(dataset, rows)
    again = load(open_artifact(out, "llm"), **FP32)
    np.testing.assert_allclose(again.score(dataset, rows), expected, atol=1e-5)
    if not tied:
        return
    above = keep(again, Input("init-from", out, artifact=open_artifact(out)), name="above")  # it stands on the first
    said = json.loads((above / "model.json").read_text())
    assert said["item_head"]["from"] == "semantic"
    assert isinstance(again.head, ItemHead)
    again.head.source = "init-from"
    above = keep(again, Input("init-from", out, artifact=open_artifact(out)), name="higher")
    found = load(open_artifact(above, "llm"), **FP32).score(dataset, rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(RectoolError, match="semantic"):
        load(open_artifact(keep(recommender, name="alone"), "llm"), **FP32)


def test_what_does_not_go_together(
    made: Make,
    backbone: Backbone,
    keep: Callable[..., Path],
    dataset: Dataset,
    tmp_path: Path,
    untuned: Callable[..., Recommender],
) -> None:
    yes_no = untuned(backbone, Prompting())
    with pytest.raises(RectoolError, match="prompt collm-text is of task ctr, but the model is for next-item"):
        assemble(backbone, yes_no.model, yes_no.prompts, device=CPU, head=ItemHead.random(9, 32, 0))
    with pytest.raises(RectoolError, match=r"item head is of width 16, but .* is of 32"):
        made(ItemHead.random(9, 16, 0))
    with pytest.raises(RectoolError, match="the model has 2"):
        made(mask=MaskPlan.parse("in:8,or:*"))
    with pytest.raises(ValueError, match=r"ItemHead\.of"):
        keep(made(ItemHead.random(9, 32, 0)), name="nothing")
    head = ItemHead.random(9, 32, 0)
    head.data = {"items": "0" * 64}
    with pytest.raises(RectoolError, match="ranks the items of the data set that it was tuned on"):
        refuse_other_items(open_artifact(keep(made(head))), dataset)
    out = keep(made(), name="damaged")
    save_file({"other": torch.zeros(1)}, tmp_path / "head.safetensors")
    (out / "head.safetensors").write_bytes((tmp_path / "head.safetensors").read_bytes())
    with pytest.raises(RectoolError, match=r"head\.safetensors"):
        load(open_artifact(out, "llm"), **FP32)


def test_a_title_head_has_no_tensors(
    made: Make, backbone: Backbone, adapted: Adapted, keep: Callable[..., Path], dataset: Dataset
) -> None:
    model = adapted(backbone.model(**FP32))
    prompts = made().prompts
    out = keep(assemble(backbone, model, prompts, device=CPU, head=TitleHead(model)))
    assert not (out / "head.safetensors").exists()
    loaded = load(open_artifact(out, "llm"), **FP32)
    assert isinstance(loaded.head, TitleHead)
    assert loaded.task == "next-item"
    refuse_other_items(open_artifact(out), dataset)
