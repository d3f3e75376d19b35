"""What item embeddings start from, when it is not chance: the vectors of another artifact."""

from __future__ import annotations

from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rectool.artifacts import Artifact
from rectool.artifacts.checking import explained
from rectool.errors import RectoolError
from rectool.models import semantic
from rectool.models.model import Model


class ProjectedItems(nn.Module):
    """A fixed table (I, H) behind a learned linear map to (I, D): stands in for an embedding while training."""

    source: Tensor

    def __init__(self, source: Tensor, width: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("source", source)
        self.map = nn.Linear(source.shape[1], width, bias=False)
        nn.init.normal_(self.map.weight, std=scale / float(source.square().sum(1).mean().sqrt()))

    @property
    def weight(self) -> Tensor:
        """(I, D) what the embedding's weight would be."""
        out: Tensor = self.map(self.source)
        return out

    def forward(self, items: Tensor) -> Tensor:
        out: Tensor = self.map(self.source[items])
        return out


def vectors_of(artifact: Artifact) -> Tensor:
    """The item embeddings (I, H) of a `semantic` or `cf` artifact, or the keys of an `llm` artifact's item head.

    Raises:
        RectoolError: the head is damaged, or what it stands on is not there.
    """
    if artifact.manifest.kind != "llm":
        path = artifact.file(semantic.FILE)
        with explained(path):
            return load_file(path)["item"]
    from rectool.llm import document, item_head  # with all of transformers, which nothing else here needs

    return item_head.read(artifact, document.read(artifact)).keys().detach()


class ItemStart:
    """Item embeddings that start from others (HatLLM's CR -> SASRec).

    Args:
        vectors: (I, H), of the same items.
        by: "projection": the vectors stay as they are and a linear map to the embedding's width is
            learned; "pca": their principal axes are copied, and the embedding is trained as ever.
    """

    def __init__(self, vectors: Tensor, by: Literal["projection", "pca"]) -> None:
        self.vectors, self.by = vectors.float(), by

    def begin(self, model: Model, scale: float) -> None:
        """Set the embeddings up for training.

        Args:
            scale: standard deviation of their values.

        Raises:
            RectoolError: the model has no item embeddings, they are wider than the vectors (pca), or the
                vectors say nothing.
        """
        owner: Any = model
        if not isinstance(getattr(model, "item", None), nn.Embedding):
            raise RectoolError("--init-items: the model has no item embeddings; choose another --model")
        device, width = owner.item.weight.device, owner.item.embedding_dim
        centred = semantic.centred(self.vectors).to(device)
        if self.by == "projection":
            owner.item = ProjectedItems(centred, width, scale)
            owner.item.to(device)
            return
        if width > min(centred.shape):
            raise RectoolError(
                f"--init-by pca: {tuple(centred.shape)} vectors have too few axes for --embedding-size {width}"
            )
        values = semantic.principal_axes(centred, width)
        with torch.no_grad():
            owner.item.weight.copy_(values * (scale / values.std()))

    @staticmethod
    def plain(model: Model) -> None:
        """Put an ordinary embedding of the same values in the place of a projected one."""
        owner: Any = model
        if isinstance(getattr(model, "item", None), ProjectedItems):
            weight = owner.item.weight.detach()
            owner.item = nn.Embedding(len(weight), weight.shape[1], device=weight.device)
            owner.item.weight = nn.Parameter(weight)
