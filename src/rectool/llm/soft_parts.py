"""Soft tokens put together of their parts, to be trained.

Shapes: I items   H hidden size of the language model   D, H' widths of collaborative and semantic vectors
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm.soft import PROJECTED, SoftTokens, Told, Unknown
from rectool.models.projector import Activation, Projector
from rectool.models.saved import Trained


@dataclass(frozen=True)
class Parts:
    """What soft tokens are made of.

    Attributes:
        collaborative: for user, item and history.
        semantic: (I, H'), for warm.
        projector: D -> H times vectors per place.
        warm: H' -> H times vectors per place.
        unknown: the trained vectors (D,) of "user" and "item" that are not known.
        known_items: (I,) bool, the items that have vectors; None: those of train rows.
        sources: the role of the parent that each part is read from, by its name in `FILES`.
    """

    collaborative: Trained | None = None
    semantic: Tensor | None = None
    projector: Projector | None = None
    warm: nn.Linear | None = None
    unknown: Mapping[str, Tensor] = field(default_factory=dict)
    known_items: NDArray[np.bool_] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def lacks(self, kinds: Collection[str]) -> bool:
        """Whether something that tokens of these kinds are made of is not here; a warm layer may start anywhere."""
        projected = any(kind in PROJECTED for kind in kinds)
        return (projected and (self.collaborative is None or self.projector is None)) or (
            "warm" in kinds and self.semantic is None
        )

    def over(self, other: Parts) -> Parts:
        """What is here, and of another what is not; vectors of the unknown are of the collaborative model's width."""
        users = self if self.collaborative is not None else other
        items = self if self.semantic is not None else other
        projector = self if self.projector is not None else other
        warm = self if self.warm is not None else other
        owners = {"cf": users, "semantic": items, "projector": projector, "warm": warm}
        return Parts(
            collaborative=users.collaborative,
            semantic=items.semantic,
            projector=projector.projector,
            warm=warm.warm,
            unknown=users.unknown,
            known_items=users.known_items,
            sources={part: owner.sources[part] for part, owner in owners.items() if part in owner.sources},
        )


def build(
    dataset: Dataset,
    kinds: Mapping[str, int],
    hidden_size: int,
    parts: Parts,
    *,
    expansion: float = 10.0,
    activation: Activation = "relu",
    unknown: Unknown = "trained",
    told: Told = "liked",
    biases: bool = False,
    seed: int = 0,
) -> SoftTokens:
    """Soft tokens to be trained, on the CPU.

    Args:
        kinds: vectors per place, by slot: any of {"user": 1, "item": 1, "warm": 1, "history": 1}.
        parts: a projector and a warm layer are made where they are needed and not there.
        expansion: of a projector that is made: width of its hidden layer, in widths of what comes in.
        biases: tell the projector the collaborative model's biases, too.

    Raises:
        RectoolError: what a kind needs is not there, or is of another size.
    """
    counts = {kinds[kind] for kind in PROJECTED if kind in kinds}
    if len(counts) > 1:
        raise RectoolError("one network makes user, item and history tokens: give them the same --tokens-per-id")
    train = dataset.split == SPLITS.index("train")
    collaborative, semantic, projector, warm = None, None, None, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if counts:
            collaborative = parts.collaborative
            if collaborative is None:
                raise RectoolError("tokens of users and items are made of a collaborative model; name one with --cf")
            _same("the collaborative model", "users", collaborative.model.size.users, dataset.users)
            _same("the collaborative model", "items", collaborative.model.size.items, dataset.items)
            width, outputs = width_of(collaborative, biases), hidden_size * counts.pop()
            projector = parts.projector or Projector(width, max(1, round(expansion * width)), outputs, activation)
            _same("the projector", "inputs", projector.inputs, width)
            _same("the projector", "outputs", projector.outputs, outputs)
        if "warm" in kinds:
            semantic = parts.semantic
            if semantic is None:
                raise RectoolError("warm tokens are made of semantic embeddings; name them with --semantic")
            _same("the table of semantic embeddings", "items", len(semantic), dataset.items)
            warm = parts.warm or nn.Linear(semantic.shape[1], hidden_size * kinds["warm"])
            _same("the layer of the warm token", "inputs", warm.in_features, semantic.shape[1])
            _same("the layer of the warm token", "outputs", warm.out_features, hidden_size * kinds["warm"])
    used = {"cf": collaborative, "semantic": semantic, "projector": projector, "warm": warm}
    known_items = parts.known_items
    if known_items is None:
        known_items = np.bincount(dataset.item[train], minlength=dataset.items) > 0
    digests = ("users", "items", "training") if collaborative is not None else ("items",)
    return with_vectors(
        SoftTokens(
            kinds,
            hidden_size=hidden_size,
            collaborative=collaborative,
            semantic=semantic,
            projector=projector,
            warm=warm,
            known_users=np.bincount(dataset.user[train], minlength=dataset.users) > 0,
            known_items=known_items,
            data={name: dataset.artifact.manifest.digests[name] for name in digests},
            unknown=unknown,
            told=told,
            biases=biases and projector is not None,
            sources={part: role for part, role in parts.sources.items() if used[part] is not None},
        ),
        parts.unknown,
    )


def width_of(collaborative: Trained, biases: bool) -> int:
    """How many numbers the projector is told of a user or an item.

    Raises:
        RectoolError: biases are to be told, and the model has none.
    """
    model = collaborative.model
    if not biases:
        return model.item_vectors().shape[1]
    if model.item_biases() is None:
        raise RectoolError("--biases: the collaborative model has no biases; leave it out, or train one that has some")
    return model.item_vectors().shape[1] + 1


def with_vectors(soft: SoftTokens, unknown: Mapping[str, Tensor]) -> SoftTokens:
    """Soft tokens whose trained vectors of the unknown are these, as far as they have such."""
    with torch.no_grad():
        for name, vector in unknown.items():
            if name in soft.unknown_vectors:
                soft.unknown_vectors[name].copy_(vector)
    return soft


def _same(what: str, of: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise RectoolError(f"{what} has {found:,} {of}, but {wanted:,} are needed here; name another one")
