"""The item head: the hidden state at a prompt's last token, times a key of each item.

Shapes: B rows   H hidden size   I items   H' width of semantic embeddings
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rectool.artifacts import Artifact, open_artifact
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm import document
from rectool.llm.origins import DOCUMENT
from rectool.models import semantic as semantics

FILE = "head.safetensors"
ROLE = "semantic"
"""Of the parent whose embeddings a tied head stands on."""


class ItemHead(nn.Module):
    """Scores of all items: each has a key of its own, or one that a projection makes of its semantic embedding.

    The latter ranks items of no training row, too. Hidden states come out of a norm, so that their values are about 1:
    keys start with values of H^-1/2, and logits with about 1.

    Args:
        keys: (I, H), trained.
        semantic: (I, H') fixed, of which `projection` makes the keys; see `tied`.
        projection: H' -> H, trained.

    Attributes:
        data: the digest of the data set's items that the keys are of, see `of`.
        source: the role of the parent that has the semantic embeddings.

    Raises:
        ValueError: neither or both are given.
    """

    kind: ClassVar[Literal["item"]] = "item"
    task: ClassVar[Literal["next-item"]] = "next-item"
    semantic: Tensor | None

    def __init__(self, keys: nn.Parameter | None, semantic: Tensor | None, projection: nn.Linear | None) -> None:
        super().__init__()
        if (keys is None) == (projection is None) or (semantic is None) != (projection is None):
            raise ValueError("an item head has keys, or semantic embeddings with a projection")
        self.weight = keys
        self.projection = projection
        self.register_buffer("semantic", semantic, persistent=False)
        self.data: dict[str, str] = {}
        self.source = ROLE

    @classmethod
    def random(cls, items: int, hidden_size: int, seed: int) -> ItemHead:
        """Keys that start from chance."""
        keys = torch.randn(items, hidden_size, generator=torch.Generator().manual_seed(seed))
        return cls(nn.Parameter(keys / math.sqrt(hidden_size)), None, None)

    @classmethod
    def started(cls, semantic: Tensor, hidden_size: int, seed: int) -> ItemHead:
        """Keys that start from semantic embeddings (I, H'), centred, and trained from there.

        Of another width than H their principal axes are taken, as many as there are up to H, turned at random into
        the H dimensions: inner products of items stay what they are on these axes.

        Raises:
            RectoolError: the embeddings are all the same.
        """
        centred = semantics.centred(semantic)
        if centred.shape[1] != hidden_size:
            axes = semantics.principal_axes(centred, min(hidden_size, *centred.shape))
            turn = torch.randn(hidden_size, axes.shape[1], generator=torch.Generator().manual_seed(seed))
            centred = axes @ torch.linalg.qr(turn).Q.T
        return cls(nn.Parameter(_of_length_one(centred)), None, None)

    @classmethod
    def tied(cls, semantic: Tensor, hidden_size: int, seed: int) -> ItemHead:
        """Keys that a projection makes of semantic embeddings (I, H'), which stay as they are.

        They are centred and scaled to a root mean square length of 1, over all items.

        Raises:
            RectoolError: the embeddings are all the same.
        """
        scaled = _of_length_one(semantics.centred(semantic))
        projection = nn.Linear(scaled.shape[1], hidden_size, bias=False)
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            projection.weight.normal_(std=hidden_size**-0.5, generator=chance)
        return cls(None, scaled, projection)

    @property
    def items(self) -> int:
        """I."""
        table = self.weight if self.weight is not None else self.semantic
        assert table is not None
        return len(table)

    @property
    def hidden_size(self) -> int:
        """H."""
        if self.weight is not None:
            return self.weight.shape[1]
        assert self.projection is not None
        return self.projection.out_features

    def of(self, dataset: Dataset) -> ItemHead:
        """This head, bound to a data set's items: `save` and `refuse_other` need to know them.

        Raises:
            RectoolError: it has another number of items.
        """
        if self.items != dataset.items:
            raise RectoolError(f"the item head has {self.items:,} items, but {dataset.artifact.path} {dataset.items:,}")
        self.data = {"items": dataset.artifact.manifest.digests["items"]}
        return self

    def keys(self, items: Tensor | None = None) -> Tensor:
        """(I, H), or those (N, H) of some items, with gradient where it is trained."""
        if self.weight is not None:
            return self.weight if items is None else self.weight[items]
        assert self.projection is not None
        assert self.semantic is not None
        keys: Tensor = self.projection(self.semantic if items is None else self.semantic[items])
        return keys

    def scores(self, hidden: Tensor, items: Tensor) -> Tensor:
        """(B,) float32 logits of one item (B,) each, of hidden states (B, H)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return (hidden.float() * self.keys(items).float()).sum(1)

    def document(self) -> dict[str, Any]:
        """What model.json says of it."""
        return {"item_head": {"from": None if self.projection is None else self.source, "data": self.data}}

    def save(self, directory: Path) -> None:
        """Write the tensor that is trained: `item` (I, H), or `projection` (H, H') of the parent's embeddings.

        Raises:
            ValueError: it is bound to no data set.
        """
        if not self.data:
            raise ValueError("an item head is saved with the data set whose items it has: ItemHead.of")
        name = "item" if self.projection is None else "projection"
        (trained,) = self.parameters()
        save_file({name: trained.detach().float().cpu().contiguous()}, directory / FILE)


def read(artifact: Artifact, said: Mapping[str, Any]) -> ItemHead:
    """The item head of an `llm` artifact, on the CPU.

    Args:
        said: the whole of its model.json.

    Raises:
        RectoolError: a file is damaged, or the parent with the semantic embeddings is not there.
    """
    path = artifact.file(FILE)
    try:
        role, data = said["item_head"]["from"], dict(said["item_head"]["data"])
        tensors = load_file(path)
        if role is None:
            head = ItemHead(nn.Parameter(tensors["item"]), None, None)
        else:
            table = _of_length_one(semantics.centred(_semantic_of(artifact, role)))
            projection = nn.Linear(table.shape[1], len(tensors["projection"]), bias=False)
            projection.load_state_dict({"weight": tensors["projection"]})
            head = ItemHead(None, table, projection)
    except (OSError, SafetensorError, RuntimeError, LookupError, TypeError, ValueError, AttributeError) as problem:
        said_of_it = " ".join(str(problem).split())
        raise RectoolError(f"{path} does not fit {DOCUMENT} ({said_of_it}); tune the model again") from None
    head.data = data
    if role is not None:
        head.source = role
    return head


def refuse_other_items(artifact: Artifact, dataset: Dataset) -> None:
    """Raises RectoolError if an `llm` artifact has an item head, and its items are not those of a data set."""
    about = document.read(artifact).get("item_head")
    if about is not None and about["data"]["items"] != dataset.artifact.manifest.digests["items"]:
        raise RectoolError(
            f"{artifact.path} ranks the items of the data set that it was tuned on, and those of "
            f"{dataset.artifact.path} are others; name that data set, or tune a model on this one"
        )


def _semantic_of(artifact: Artifact, role: str) -> Tensor:
    """The embeddings (I, H') of a parent: its own, or those that its own item head stands on."""
    parent = artifact.parent(role)
    if parent.manifest.kind == "llm":
        above = document.read(parent).get("item_head") or {"from": None}
        if above["from"] is None:
            raise RectoolError(
                f"{artifact.path} needs the semantic embeddings of its {role} {parent.path}: it has none"
            )
        return _semantic_of(parent, above["from"])
    if parent.manifest.kind == "aligned":
        parent = open_artifact(parent.path / "semantic", "semantic", elsewhere=parent.elsewhere)
    return semantics.read(parent)


def _of_length_one(rows: Tensor) -> Tensor:
    """Rows scaled all alike, so that their root mean square length is 1."""
    return rows / rows.square().sum(1).mean().sqrt()
