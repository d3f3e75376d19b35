"""Soft tokens: what fills the places for embeddings in prompts.

    user, item, history     Projector(vector of a collaborative model)      SASRecLLM eq. 8, SeLLa-Rec's Proj_CL
                            or Projector([vector ; bias])                   ours
    warm                    W e + b of an item's semantic embedding         SeLLa-Rec's Proj_WL

Shapes: N rows   K vectors   G groups of vectors that stand together   H hidden size of the language model
D, H' widths of collaborative (with the bias, where it is told) and semantic vectors   U users   I items
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm import references as refs
from rectool.llm.references import Resolved, Wanted
from rectool.models.model import Model, Sequences
from rectool.models.projector import Projector
from rectool.models.saved import Trained
from rectool.prompts.tokens import Longs, TokenRows

Part = Literal["projector", "cf", "semantic"]
PARTS: tuple[Part, ...] = ("projector", "cf", "semantic")
Unknown = Literal["trained", "mean"]
Told = Literal["liked", "all"]
"""Which earlier items a prompt tells: the liked ones where it asks yes or no, all where it asks for the next one."""
PROJECTED = ("user", "item", "history")
"""Kinds that one network makes of vectors of the collaborative model."""
CHUNK = 1 << 14
"""Users whose vectors are made at a time, where the mean of all is needed."""

__all__ = ["PARTS", "Part", "Resolved", "SoftTokens", "Told", "Unknown", "Wanted"]


class SoftTokens(nn.Module):
    """What fills the placeholders of a data set's prompts.

    Args:
        kinds: vectors per place, by slot: the prompts' `soft`. One number for user, item and history, which one
            network makes; warm has its own.
        collaborative: its model becomes the sub-module `cf`.
        semantic: (I, H') items' semantic embeddings.
        projector: D -> H times vectors per place.
        warm: H' -> H times vectors per place.
        biases: tell the projector what the collaborative model adds for a user or an item, as one number more.
        known_users, known_items: (U,), (I,) bool: who has a vector. A model that reads histories knows all users.
        data: digests of the data set that users and items are of.
        told: the earlier items that the prompts tell, and history tokens are of.
        sources: the roles of parents that parts are read from, such as {"cf": "aligned"}, among `cf`, `semantic`,
            `projector` and `warm`; parts without one are written by whoever saves.

    All parameters are frozen at first, and all in evaluation mode; see `train_only`.
    """

    def __init__(
        self,
        kinds: Mapping[str, int],
        *,
        hidden_size: int,
        collaborative: Trained | None,
        semantic: Tensor | None,
        projector: Projector | None,
        warm: nn.Linear | None,
        known_users: NDArray[np.bool_],
        known_items: NDArray[np.bool_],
        data: Mapping[str, str],
        unknown: Unknown = "trained",
        told: Told = "liked",
        biases: bool = False,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.kinds = dict(kinds)
        self.hidden_size = hidden_size
        self.collaborative = collaborative
        self.cf: Model | None = collaborative.model if collaborative is not None else None
        self.semantic = None if semantic is None else nn.Embedding(len(semantic), semantic.shape[1], _weight=semantic)
        self.projector, self.warm, self.biases = projector, warm, biases
        self.known_users, self.known_items = known_users, known_items
        self.data, self.unknown, self.told, self.sources = dict(data), unknown, told, dict(sources or {})
        self.trained: frozenset[str] = frozenset()
        self.unknown_vectors = nn.ParameterDict()
        self._means: dict[int, Tensor] = {}
        if unknown == "trained" and projector is not None:
            for of, name in ((refs.USER, "user"), (refs.ITEM, "item")):
                if name == "user" and self.reads_history:
                    continue
                self.unknown_vectors[name] = nn.Parameter(self._mean(of).clone())
        self.requires_grad_(False)
        self.eval()

    @property
    def reads_history(self) -> bool:
        """Whether a user's vector is made of the row's own history: no user is unknown then."""
        return self.collaborative is not None and self.collaborative.history is not None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def train_only(self, parts: Collection[str]) -> None:
        """Freeze all but some of `PARTS`: "projector" has with it the warm token's and the vectors of the unknown.

        What is frozen stays in evaluation mode, whatever `train` says. What is trained is written by whoever saves,
        not referred to.

        Raises:
            RectoolError: there is no such part here.
        """
        for part in parts:
            if not self.parameters_of(part):
                raise RectoolError(f"--train {part}: the soft tokens {', '.join(self.kinds)} have no part of this name")
        self.requires_grad_(False)
        self.trained = frozenset(parts)
        if "semantic" in parts and self.semantic is not None:
            self.semantic.float()
        for part in parts:
            for parameter in self.parameters_of(part):
                parameter.requires_grad_(True)
        self.train(self.training)

    def parameters_of(self, part: str) -> list[nn.Parameter]:
        """The parameters of one of `PARTS`, all of which `train_only` has trained."""
        return [parameter for module in self._modules_of(part) for parameter in module.parameters()]

    def train(self, mode: bool = True) -> SoftTokens:
        super().train(mode)
        for part in PARTS:
            if part not in self.trained:
                for module in self._modules_of(part):
                    module.eval()
        self._means.clear()
        return self

    def refuse_other(self, dataset: Dataset) -> None:
        """Raises RectoolError if users, items or train rows are those of another data set."""
        refuse_other(self.data, dataset)

    def resolve(
        self,
        dataset: Dataset,
        rows: NDArray[np.integer[Any]],
        tokens: TokenRows,
        *,
        as_unknown: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
    ) -> Resolved:
        """Make references of the placeholders in the prompts of rows.

        Args:
            rows: (N,) rows of the log.
            tokens: (N,) their prompts, as `Prompts.rows` makes them.
            as_unknown: (N,) and (N,) bool, rows whose user, or whose target, is taken for unknown. All users and items
                of train rows are known, so that the vectors of the unknown learn only from rows that hide theirs.
                These vectors start at the mean of the known ones. Users of a model that reads histories are never
                unknown, and are not hidden.

        Raises:
            RectoolError: the data set is another one, or the prompts have a place that nothing fills.
        """
        self.refuse_other(dataset)
        users = np.ones(len(rows), np.bool_)
        targets = _known(self.known_items, dataset.item[rows])
        if as_unknown is not None:
            targets &= ~as_unknown[1]
        if not self.reads_history:
            users = _known(self.known_users, dataset.user[rows])
            if as_unknown is not None:
                users &= ~as_unknown[0]
        rule = self.collaborative.history if self.collaborative is not None else None
        known = refs.Known(users, targets, self.known_items)
        return refs.resolve(dataset, rows, tokens, self.kinds, known, rule, liked_only=self.told == "liked")

    def vectors(self, wanted: Wanted, references: NDArray[np.int64] | None = None) -> Tensor:
        """The vectors (K', H) of references, with gradient where parts are trained.

        Each part works once for all of them: on the users and items that are wanted, once each.

        Args:
            references: (K',) vectors by number, repeats allowed; None for all K.
        """
        numbers = np.arange(len(wanted)) if references is None else references
        groups, place = np.unique(wanted.groups_of(numbers), return_inverse=True)
        of = wanted.of[groups]
        made = [torch.zeros(0, self.hidden_size, device=self.device)]
        if self.projector is not None:
            users, which = groups[of == refs.USER], wanted.which[groups[of == refs.ITEM]]
            vectors = torch.cat([self._users(wanted, users), self._items(which)])  # (G, D)
            made.append(self.projector(vectors).view(-1, self.hidden_size))
        if self.warm is not None and self.semantic is not None:
            semantic = functional.embedding(
                self._on_device(wanted.which[groups[of == refs.WARM]]), self.semantic.weight
            )
            made.append(self.warm(semantic.float()).view(-1, self.hidden_size))
        counts = np.diff(wanted.first)[groups]
        rows = (np.cumsum(counts) - counts - wanted.first[groups])[place] + numbers
        table = torch.cat([part.to(made[-1].dtype) for part in made])
        return functional.embedding(self._on_device(rows), table)

    def _modules_of(self, part: str) -> list[nn.Module]:
        modules: dict[str, list[nn.Module | None]] = {
            "projector": [self.projector, self.warm, self.unknown_vectors],
            "cf": [self.cf],
            "semantic": [self.semantic],
        }
        return [module for module in modules.get(part, []) if module is not None]

    def _users(self, wanted: Wanted, groups: Longs) -> Tensor:
        """Collaborative vectors (G, D) of groups of `USER`."""
        assert self.cf is not None
        which = wanted.which[groups]
        known = which != refs.UNKNOWN
        sequences = Sequences.gather(wanted.items, wanted.start[groups], wanted.stop[groups], self.device)
        users = self._on_device(np.where(known, which, 0))
        with torch.set_grad_enabled(torch.is_grad_enabled() and "cf" in self.trained):
            vectors = self._told(self.cf.user_vectors(users, sequences), self.cf.user_biases(users))
        return vectors if known.all() else self._or_unknown(vectors, known, refs.USER)

    def _items(self, which: Longs) -> Tensor:
        """Collaborative vectors (G, D) of items."""
        assert self.cf is not None
        known = which != refs.UNKNOWN
        with torch.set_grad_enabled(torch.is_grad_enabled() and "cf" in self.trained):
            vectors = self._item_vectors(self.cf, self._on_device(np.where(known, which, 0)))
        return vectors if known.all() else self._or_unknown(vectors, known, refs.ITEM)

    def _item_vectors(self, cf: Model, items: Tensor) -> Tensor:
        """What the projector is told (N, D) of items (N,)."""
        biases = cf.item_biases() if self.biases else None
        return self._told(functional.embedding(items, cf.item_vectors()), None if biases is None else biases[items])

    def _told(self, vectors: Tensor, biases: Tensor | None) -> Tensor:
        """Vectors (N, D) with biases (N,), zero where a model has none of them, if biases are told."""
        if not self.biases:
            return vectors.float()
        column = vectors.new_zeros(len(vectors)) if biases is None else biases
        return torch.cat((vectors, column[:, None]), -1).float()

    def _or_unknown(self, vectors: Tensor, known: NDArray[np.bool_], of: int) -> Tensor:
        name = {refs.USER: "user", refs.ITEM: "item"}[of]
        unknown = self.unknown_vectors[name] if name in self.unknown_vectors else self._mean(of)
        return torch.where(self._on_device(known)[:, None], vectors, unknown.to(vectors.dtype))

    def _mean(self, of: int) -> Tensor:
        """The mean (D,) of the vectors of all that are known; kept until training goes on."""
        assert self.cf is not None
        if of not in self._means or self.training:
            known = np.flatnonzero(self.known_users if of == refs.USER else self.known_items)
            with torch.no_grad():
                if of == refs.ITEM:
                    self._means[of] = self._item_vectors(self.cf, self._on_device(known)).mean(0)
                else:
                    self._means[of] = self._mean_user(self.cf, known)
        return self._means[of]

    def _mean_user(self, cf: Model, known: Longs) -> Tensor:
        nothing = np.zeros(CHUNK, np.int64)
        total = torch.zeros((), device=self.device)
        for start in range(0, len(known), CHUNK):
            users = known[start : start + CHUNK]
            empty = nothing[: len(users)]
            sequences = Sequences.gather(empty.astype(np.int32), empty, empty, self.device)
            which = self._on_device(users)
            total = total + self._told(cf.user_vectors(which, sequences), cf.user_biases(which)).sum(0)
        return total / max(1, len(known))

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def refuse_other(data: Mapping[str, str], dataset: Dataset) -> None:
    """Raises RectoolError if a data set is not the one that soft tokens are of, by the digests of that one."""
    for name, digest in data.items():
        if dataset.artifact.manifest.digests.get(name) != digest:
            what = {"training": "train rows"}.get(name, name)
            raise RectoolError(
                f"the soft tokens are of the {what} of another data set than {dataset.artifact.path}; name the one "
                "that they were trained on, or train them on this one with: rectool train-proj"
            )


def _known(known: NDArray[np.bool_], which: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(N,) whether each of some users or items is known; one that is newer than all is not."""
    return np.asarray((which < len(known)) & known[np.minimum(which, len(known) - 1)])
