"""Which task a language model is tuned for, and the item head that it is tuned with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rectool.artifacts import Artifact, Input, open_artifact
from rectool.data.dataset import Dataset
from rectool.llm.item_head import ItemHead
from rectool.models import semantic as semantics
from rectool.models.table import Task
from rectool.training.choice import task_of
from rectool.training.lora_settings import Asking, ItemHeadStart


def settled_task(dataset: Dataset, asking: Asking, usual: Task | None = None) -> Task:
    """The task that was asked for, else `usual`, else the one that the data set is for.

    Raises:
        RectoolError: the data set has no rows for it, or flags are of the other one.
    """
    task = task_of(dataset, asking.task or usual)
    if task == "ctr":
        asking.refuse_item_flags()
    return task


def item_head(
    dataset: Dataset, start: ItemHeadStart, semantic: Artifact | None, hidden_size: int, seed: int
) -> ItemHead:
    """An item head that starts here, bound to the data set's items.

    Args:
        semantic: a `semantic` or `aligned` artifact, whose embeddings it starts from or is tied to.

    Raises:
        RectoolError: the embeddings are damaged, all the same, or of another number of items.
    """
    if start == "random" or semantic is None:
        return ItemHead.random(dataset.items, hidden_size, seed).of(dataset)
    if semantic.manifest.kind == "aligned":
        semantic = open_artifact(semantic.path / "semantic", "semantic", elsewhere=semantic.elsewhere)
    made = ItemHead.started if start == "semantic" else ItemHead.tied
    return made(semantics.read(semantic), hidden_size, seed).of(dataset)


def parent_of_items(dataset: Dataset, role: str, path: Path, elsewhere: Mapping[str, Path]) -> Input:
    """An artifact that has vectors of this data set's items, or of its users and items.

    Raises:
        RectoolError: it is not there, is of another kind than `role` says, or is of another data set.
    """
    artifact = open_artifact(path, role, elsewhere={**elsewhere, "dataset": dataset.artifact.path})
    artifact.parent("dataset")
    return Input(role, path, artifact=artifact)
