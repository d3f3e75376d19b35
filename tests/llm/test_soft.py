"""Soft tokens: each place gets its own vector, made of what came before and nothing later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm.backbone import find
from rectool.llm.body import reading
from rectool.llm.recommender import assemble
from rectool.llm.soft import SoftTokens
from rectool.llm.soft_parts import Parts, build
from rectool.models.model import Sequences
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting
from rectool.prompts.tokens import SOFT_IDS, TokenRows

CPU = torch.device("cpu")
ALL = {"user": 2, "item": 2, "warm": 1, "history": 2}

SoftParts = Callable[..., Parts]

TEMPLATE = """+++
task = "ctr"
answers = ["Yes", "No"]
entry = '"{title}" {item}'
separator = ", "
empty = "nothing"
+++
A user{? like {user}?} enjoys: {history}. Would the user like "{target}"{? with {item}?}{? about {warm}?}? Answer:"""


@pytest.fixture
def asked(tmp_path: Path, tiny_llm: Callable[..., Path]) -> Callable[..., Prompts]:
    """Prompts with places for these kinds."""

    def make(kinds: dict[str, int], **prompting: Any) -> Prompts:
        template = tmp_path / "all.txt"
        template.write_text(TEMPLATE)
        settings = Prompting(**{"prompt": str(template), "history": 3, **prompting})
        return Prompts.chosen(settings, find(str(tiny_llm())).tokenizer(), default="plain", soft=kinds)

    return make


@pytest.fixture
def rows(dataset: Dataset) -> NDArray[np.int64]:
    """Rows of all splits in no order, one of them twice."""
    chosen = np.random.default_rng(1).permutation(len(dataset.user))[:60]
    return np.append(chosen, chosen[7])


def known_by_hand(dataset: Dataset, column: str) -> set[int]:
    train = dataset.targets("train")
    return set(getattr(dataset, column)[train].tolist())


def by_hand(soft: SoftTokens, dataset: Dataset, row: int, tokens: TokenRows, place: int) -> list[Tensor]:
    """The vectors of a row's placeholders, in their order, each made by itself."""
    cf, projector = soft.cf, soft.projector
    user, item = int(dataset.user[row]), int(dataset.item[row])
    liked = [
        int(dataset.item[earlier])
        for earlier in range(row)
        if dataset.user[earlier] == user and dataset.label[earlier] == 1
    ]
    known_users, known_items = known_by_hand(dataset, "user"), known_by_hand(dataset, "item")

    def with_bias(vector: Tensor, bias: Tensor | None) -> Tensor:
        if not soft.biases:
            return vector
        return torch.cat([vector, torch.zeros(1) if bias is None else bias.reshape(1)])

    def of_item(one: int) -> Tensor:
        if one not in known_items:
            return soft.unknown_vectors["item"]
        biases = cf.item_biases()
        return with_bias(cf.item_vectors()[one], None if biases is None else biases[one])

    def of_user() -> Tensor:
        if soft.collaborative.history is None:
            if user not in known_users:
                return soft.unknown_vectors["user"]
            recent = []
        else:
            recent = liked[-soft.collaborative.history.length :]
        one = torch.tensor([user])
        sequences = Sequences(torch.tensor([recent], dtype=torch.int64), torch.tensor([len(recent)]))
        return with_bias(cf.user_vectors(one, sequences)[0], cf.user_biases(one))

    def history(count: int) -> list[Tensor]:
        return [of_item(one) for one in liked[len(liked) - count :]]

    ids = tokens.ids[tokens.offsets[place] : tokens.offsets[place + 1]].tolist()
    entries = ids.count(SOFT_IDS["history"]) // soft.kinds.get("history", 1)
    pieces: dict[str, Any] = {}
    for kind in soft.kinds.keys() & {"user", "item", "history"}:
        told = {"user": lambda: [of_user()], "item": lambda: [of_item(item)], "history": lambda: history(entries)}[
            kind
        ]()
        pieces[kind] = torch.cat([projector(one).view(-1, soft.hidden_size) for one in told]) if told else []
    if "warm" in soft.kinds:
        pieces["warm"] = soft.warm(soft.semantic.weight[item]).view(-1, soft.hidden_size)
    names = {id_: name for name, id_ in SOFT_IDS.items()}
    taken = dict.fromkeys(pieces, 0)
    found = []
    for one in ids:
        if one < 0:
            name = names[one]
            found.append(pieces[name][taken[name]])
            taken[name] += 1
    assert entries == 0 or taken["history"] == len(pieces["history"])
    return found


@pytest.mark.parametrize("kinds", [ALL, {"user": 1, "item": 1}, {"warm": 3}, {"history": 1}, {"item": 1, "warm": 2}])
@pytest.mark.parametrize(
    ("model", "biases"),
    [(name, False) for name in ("mf", "lightgcn", "sasrec", "gru4rec", "din")]
    + [(name, True) for name in ("mf", "sasrec", "din")],
)
def test_each_place_gets_its_own_vector(
    soft_parts: SoftParts,
    asked: Callable[..., Prompts],
    dataset: Dataset,
    rows: NDArray[np.int64],
    model: str,
    biases: bool,
    kinds: dict[str, int],
) -> None:
    parts = soft_parts(model, **({"biases": True} if biases else {}))
    soft = build(dataset, kinds, 32, parts, expansion=2, activation="gelu", biases=biases, seed=1)
    assert soft.biases == (biases and kinds.keys() != {"warm"})
    tokens = asked(kinds).rows(dataset, rows)
    resolved = soft.resolve(dataset, rows, tokens)
    table = soft.vectors(resolved.wanted)
    assert table.shape == (len(resolved.wanted), 32)
    np.testing.assert_array_equal(np.maximum(resolved.tokens.ids, -1), np.maximum(tokens.ids, -1))
    seen: dict[int, Tensor] = {}
    for place, row in enumerate(rows):
        ids = resolved.tokens.ids[tokens.offsets[place] : tokens.offsets[place + 1]]
        references = -1 - ids[ids < 0].astype(np.int64)
        expected = by_hand(soft, dataset, int(row), tokens, place)
        assert len(references) == len(expected) > 0 or kinds == {"history": 1}
        for reference, vector in zip(references.tolist(), expected, strict=True):
            torch.testing.assert_close(table[reference], vector, atol=1e-5, rtol=0)
            seen[reference] = vector
    assert sorted(seen) == list(range(len(resolved.wanted)))
    if model in ("mf", "lightgcn"):  # short histories of two users may be the same
        assert len(table.unique(dim=0)) == len(table)
    some = np.random.default_rng(0).integers(len(table), size=17)
    torch.testing.assert_close(soft.vectors(resolved.wanted, some), table[torch.from_numpy(some)], atol=1e-6, rtol=0)
    assert soft.vectors(resolved.wanted, some[:0]).shape == (0, 32)


def test_history_tokens_are_of_the_titles_beside_them(
    soft_parts: SoftParts, asked: Callable[..., Prompts], dataset: Dataset
) -> None:
    kinds = {"history": 2}
    soft = build(dataset, kinds, 32, soft_parts("mf"))
    rows = dataset.targets("test")[:40]
    tokens = asked(kinds, history=8, max_tokens=60).rows(dataset, rows, spans=True)
    assert tokens.shortened > 5
    assert tokens.spans is not None
    assert tokens.span_offsets is not None
    resolved = soft.resolve(dataset, rows, tokens)
    for place in range(len(rows)):
        beside = tokens.spans[tokens.span_offsets[place] : tokens.span_offsets[place + 1] - 1, 2]  # but for the target
        ids = resolved.tokens.ids[tokens.offsets[place] : tokens.offsets[place + 1]].astype(np.int64)
        groups = resolved.wanted.groups_of(-1 - ids[ids < 0])
        known = np.where(soft.known_items[beside], beside, -1)
        np.testing.assert_array_equal(resolved.wanted.which[groups], np.repeat(known, 2))


class Changed(Dataset):
    """A log that is on no disk."""

    digest = None

    def with_columns(self, **columns: NDArray[Any]) -> Changed:
        self.__dict__.update(columns)
        return self


def later_changed(dataset: Dataset, row: int, seed: int) -> tuple[Changed, NDArray[np.int64]]:
    """The log with all that the users did after a moment of each changed: some rows otherwise, some gone, some new.

    Returns:
        the log; the rows up to those moments, as rows of the new log. The moment of the user of `row` is `row` itself.
    """
    chance = np.random.default_rng(seed)
    columns = {name: getattr(dataset, name) for name in ("user", "item", "timestamp", "label", "split")}
    pieces: list[dict[str, NDArray[Any]]] = []
    kept = np.full(len(dataset.user), -1)
    done = 0
    for user in range(dataset.users):
        mine = np.flatnonzero(dataset.user == user)
        moment = int(np.searchsorted(mine, row)) if user == dataset.user[row] else int(chance.integers(len(mine)))
        before, after = mine[: moment + 1], mine[moment + 1 :]
        after = chance.choice(after, chance.integers(len(after) + 1)) if len(after) else after  # gone, and doubled
        part = {name: column[np.append(before, after)].copy() for name, column in columns.items()}
        part["item"][moment + 1 :] = chance.integers(dataset.items, size=len(after))
        part["label"][moment + 1 :] = chance.integers(2, size=len(after))
        kept[before] = done + np.arange(len(before))
        done += len(part["user"])
        pieces.append(part)
    joined = {name: np.concatenate([part[name] for part in pieces]) for name in columns}
    return Changed(dataset.artifact).with_columns(**joined), kept


@pytest.mark.parametrize("model", ["mf", "lightgcn", "sasrec", "gru4rec", "din"])
def test_no_later_interaction_changes_a_prediction(
    soft_parts: SoftParts, asked: Callable[..., Prompts], dataset: Dataset, tiny_llm: Callable[..., Path], model: str
) -> None:
    backbone = find(str(tiny_llm()))
    soft = build(dataset, ALL, 32, soft_parts(model), seed=1)
    language_model = backbone.model(device=CPU, dtype=torch.float32)

    def scores(log: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        recommender = assemble(backbone, language_model, asked(ALL), device=CPU, soft=soft)
        return recommender.score(log, rows)

    targets = dataset.targets("test")[:12]
    before = scores(dataset, targets)
    assert before.std() > 1e-3
    for seed, row in enumerate(targets.tolist()):
        changed, kept = later_changed(dataset, row, seed)
        assert len(changed.user) != len(dataset.user)
        same = kept[targets] >= 0
        assert kept[row] >= 0
        np.testing.assert_allclose(scores(changed, kept[targets[same]]), before[same], atol=2e-5)


def test_an_earlier_interaction_does_change_a_prediction(
    soft_parts: SoftParts, asked: Callable[..., Prompts], dataset: Dataset
) -> None:
    """So that the test before says something: the vector of the user alone, without what the text tells."""
    kinds = {"user": 1}
    soft = build(dataset, kinds, 32, soft_parts("sasrec"), seed=1)
    row = dataset.targets("test")[:1]
    mine = np.flatnonzero((dataset.user == dataset.user[row]) & (np.arange(len(dataset.user)) < row))
    item = dataset.item.copy()
    item[mine] = (item[mine] + 1) % dataset.items
    changed = Changed(dataset.artifact).with_columns(item=item)
    vectors = []
    for log in (dataset, changed):
        resolved = soft.resolve(log, row, asked(kinds).rows(log, row))
        vectors.append(soft.vectors(resolved.wanted))
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_who_is_unknown(
    soft_parts: SoftParts, asked: Callable[..., Prompts], dataset: Dataset, rows: NDArray[np.int64]
) -> None:
    users, items = known_by_hand(dataset, "user"), known_by_hand(dataset, "item")
    cold = np.array([row for row in range(len(dataset.user)) if dataset.item[row] not in items])
    assert len(cold)
    rows = np.concatenate([rows, cold])
    kinds = {"user": 1, "item": 1}
    tokens = asked(kinds).rows(dataset, rows)
    for unknown in ("trained", "mean"):
        soft = build(dataset, kinds, 32, soft_parts("mf"), unknown=unknown)  # type: ignore[arg-type]
        resolved = soft.resolve(dataset, rows, tokens)
        assert resolved.unknown_users.tolist() == [int(user) not in users for user in dataset.user[rows]]
        assert resolved.unknown_items.tolist() == [int(item) not in items for item in dataset.item[rows]]
        mean = soft.cf.item_vectors()[sorted(items)].mean(0)
        of_cold = soft.resolve(dataset, cold[:1], tokens.take(np.array([len(rows) - len(cold)])))
        found = soft.vectors(of_cold.wanted)
        expected = soft.projector(mean)  # where trained vectors start, too
        torch.testing.assert_close(found[int(-1 - of_cold.tokens.ids.min())], expected, atol=1e-5, rtol=0)
    hidden = np.arange(len(rows)) % 3 == 0, np.arange(len(rows)) % 2 == 0
    resolved = soft.resolve(dataset, rows, tokens, as_unknown=hidden)
    assert resolved.unknown_users[hidden[0]].all()
    assert resolved.unknown_items[hidden[1]].all()
    assert not resolved.unknown_items[~hidden[1] & np.isin(dataset.item[rows], sorted(items))].any()
    reads = build(dataset, kinds, 32, soft_parts("sasrec"))
    assert not reads.resolve(dataset, rows, tokens, as_unknown=hidden).unknown_users.any()
    assert set(reads.unknown_vectors) == {"item"}


@pytest.mark.parametrize("parts", [(), ("projector",), ("cf",), ("semantic",), ("projector", "cf", "semantic")])
def test_gradients_reach_what_is_trained_alone(
    soft_parts: SoftParts,
    asked: Callable[..., Prompts],
    dataset: Dataset,
    rows: NDArray[np.int64],
    parts: tuple[str, ...],
) -> None:
    soft = build(dataset, ALL, 32, soft_parts("sasrec", dropout=0.5), seed=1)
    soft.train()
    soft.train_only(parts)
    assert soft.cf.training == ("cf" in parts)
    assert soft.projector.training == ("projector" in parts)
    hidden = rows % 2 == 0
    resolved = soft.resolve(dataset, rows, asked(ALL).rows(dataset, rows), as_unknown=(hidden, hidden))
    vectors = soft.vectors(resolved.wanted)
    assert vectors.requires_grad == bool(parts)
    if parts:
        functional.mse_loss(vectors, torch.ones_like(vectors)).backward()
    for part in ("projector", "cf", "semantic"):
        touched = [each.grad is not None for each in soft.parameters_of(part)]
        assert any(touched) == (part in parts)
    with reading(soft):
        assert not soft.vectors(resolved.wanted).requires_grad
        assert not soft.cf.training
    assert soft.cf.training == ("cf" in parts)


def test_each_part_works_once_for_all(
    soft_parts: SoftParts, asked: Callable[..., Prompts], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"user": 1, "item": 1, "history": 1}
    soft = build(dataset, kinds, 32, soft_parts("mf"))
    rows = np.arange(len(dataset.user))
    resolved = soft.resolve(dataset, rows, asked(kinds).rows(dataset, rows))
    assert len(resolved.wanted) <= dataset.users + dataset.items + 2
    widths: list[int] = []
    forward = soft.projector.forward
    monkeypatch.setattr(soft.projector, "forward", lambda x: widths.append(len(x)) or forward(x))
    soft.vectors(resolved.wanted, np.array([0, 3, 3, 0, 3]))
    assert widths == [2]


def test_what_does_not_fit(soft_parts: SoftParts, asked: Callable[..., Prompts], dataset: Dataset) -> None:
    parts = soft_parts("mf")
    with pytest.raises(RectoolError, match="made of a collaborative model; name one with --cf"):
        build(dataset, {"user": 1}, 32, Parts())
    with pytest.raises(RectoolError, match="made of semantic embeddings; name them with --semantic"):
        build(dataset, {"warm": 1}, 32, Parts())
    with pytest.raises(RectoolError, match="give them the same --tokens-per-id"):
        build(dataset, {"user": 1, "item": 2}, 32, parts)
    with pytest.raises(RectoolError, match="semantic embeddings has 7 items, but 47 are needed"):
        build(dataset, {"warm": 1}, 32, Parts(semantic=torch.zeros(7, 3)))
    soft = build(dataset, {"user": 1}, 32, parts)
    with pytest.raises(RectoolError, match="--train semantic: the soft tokens user have no part"):
        soft.train_only(["semantic"])
    with pytest.raises(RectoolError, match=r"row 3 has a place for \{item\} that is not filled"):
        soft.resolve(dataset, np.array([3]), asked({"user": 1, "item": 1}).rows(dataset, np.array([3])))
    soft.data["training"] = "another"
    with pytest.raises(RectoolError, match="of the train rows of another data set than"):
        soft.refuse_other(dataset)


def test_a_model_without_biases_has_none_to_tell(soft_parts: SoftParts, dataset: Dataset) -> None:
    with pytest.raises(RectoolError, match="--biases: the collaborative model has no biases; leave it out"):
        build(dataset, {"user": 1}, 32, soft_parts("mf", biases=False), biases=True)


def test_the_same_seed_gives_the_same_projector(soft_parts: SoftParts, dataset: Dataset) -> None:
    first, again, other = (build(dataset, ALL, 32, soft_parts("mf"), seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["projector.up.weight"], other["projector.up.weight"])
    assert not torch.equal(first["warm.weight"], other["warm.weight"])
