"""What every model must do: one more model is one more line in the table, and is tested here."""

from __future__ import annotations

import dataclasses
import inspect
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from rectool.artifacts import Making, open_artifact, write
from rectool.artifacts.schemas import CURVE
from rectool.data.histories import HistoryRule
from rectool.errors import RectoolError
from rectool.models import model as contract
from rectool.models import saved
from rectool.models.model import FactorModel, Model, SequenceModel, Sequences, TrainingRows
from rectool.models.table import MODELS, model_class

SETTINGS = {
    "embedding_size",
    "users",
    "max_length",
    "layers",
    "heads",
    "dropout",
    "init_scale",
    "biases",
    "smoothing",
    "hidden_size",
}
USERS = torch.arange(6)
NAMES = [
    pytest.param((name, choice), id=name + {None: "", True: "-biases", False: "-plain"}[choice])
    for name in MODELS
    for choice in ((True, False) if "biases" in inspect.signature(model_class(name).Settings).parameters else (None,))
]


@pytest.fixture(params=NAMES)
def named(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    name, choice = request.param
    return name, {} if choice is None else {"biases": choice}


@pytest.fixture
def model(named: tuple[str, dict[str, bool]], build: Any) -> Model:
    name, settings = named
    made: Model = build(name, **settings)
    return made


def all_scores(model: Model, sequences: Sequences, users: Tensor = USERS) -> Tensor:
    """Every pair scored by itself, (B, I)."""
    columns = [model.score(users, torch.full_like(users, item), sequences) for item in range(model.size.items)]
    return torch.stack(columns, 1)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_a_class_says_of_itself(named: Any) -> None:
    kind = model_class(named[0])
    assert issubclass(kind, Model)
    assert not inspect.isabstract(kind)
    assert set(kind.tasks) <= {"ctr", "next-item"}
    fields = {field.name: field for field in dataclasses.fields(kind.Settings)}
    assert fields.keys() <= SETTINGS
    assert set(kind.choices) == {name for name in fields if getattr(kind.Settings(), name) is None}
    assert kind.reads_history == hasattr(kind.Settings(), "max_length")
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind.Settings().embedding_size = 3


@torch.no_grad()
def test_ranking_agrees_with_scores_whatever_the_slices(
    model: Model, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = all_scores(model, sequences)
    assert expected.shape == (6, 9)
    assert expected.isfinite().all()
    assert expected.std() > 0.1
    scores = model.rank(USERS, sequences)
    close(scores(0, 9), expected)
    close(torch.cat([scores(0, 2), scores(2, 3), scores(3, 9)], 1), expected)
    assert scores(4, 4).shape == (6, 0)
    monkeypatch.setattr(contract, "PAIRS_BYTES", {"cpu": 1})  # one item at a time
    close(model.rank(USERS, sequences)(1, 8), expected[:, 1:8])


@torch.no_grad()
def test_padding_and_batch_change_nothing(model: Model, sequences: Sequences) -> None:
    expected = all_scores(model, sequences)
    vectors = model.user_vectors(USERS, sequences)
    other = Sequences(torch.where(sequences.mask, sequences.items, 8 - sequences.items), sequences.lengths)
    assert not torch.equal(other.items, sequences.items)
    close(all_scores(model, other), expected)
    close(model.rank(USERS, other)(0, 9), expected)
    close(model.user_vectors(USERS, other), vectors)

    for row, length in enumerate(sequences.lengths.tolist()):
        alone = Sequences(sequences.items[row : row + 1, :length], sequences.lengths[row : row + 1])
        user = USERS[row : row + 1]
        close(all_scores(model, alone, user)[0], expected[row])
        close(model.rank(user, alone)(0, 9)[0], expected[row])
        close(model.user_vectors(user, alone)[0], vectors[row])


@torch.no_grad()
def test_new_users_are_scored_by_histories_or_all_alike(model: Model, sequences: Sequences) -> None:
    new = USERS + model.size.users
    if not model.new_users:
        with pytest.raises(IndexError):
            model.score(new, torch.zeros_like(new), sequences)
        return
    scores = all_scores(model, sequences, new)
    close(model.rank(new, sequences)(0, 9), scores)
    close(all_scores(model, sequences, new + 5), scores)
    known = all_scores(model, sequences)
    close(scores - scores.mean(1, keepdim=True), known - known.mean(1, keepdim=True))  # but for their biases


@torch.no_grad()
def test_histories_matter_only_to_who_reads_them(model: Model, sequences: Sequences) -> None:
    nothing = Sequences(torch.zeros(6, 0, dtype=torch.int64), torch.zeros(6, dtype=torch.int64))
    scores = all_scores(model, nothing)
    assert scores.isfinite().all()
    close(model.rank(USERS, nothing)(0, 9), scores)
    same = torch.isclose(scores, all_scores(model, sequences)).all(1)
    assert same.tolist() == ([False, True, False, False, False, True] if model.reads_history else [True] * 6)


@torch.no_grad()
def test_vectors(model: Model, sequences: Sequences) -> None:
    users, items = model.user_vectors(USERS, sequences), model.item_vectors()
    assert len(users) == 6
    assert len(items) == 9
    assert users.shape[1] == items.shape[1]
    assert users.isfinite().all()
    assert items.isfinite().all()
    if isinstance(model, FactorModel):
        queries, keys = model.factors(USERS, sequences)
        close(model.queries(USERS, sequences), queries)
        close(model.keys(), keys)
        close(model.keys(torch.tensor([7, 2])), keys[[7, 2]])
        close(model.factors(USERS, sequences, torch.tensor([7, 2]))[1], keys[[7, 2]])
        close(queries[:, : users.shape[1]], users)
        close(keys[:, : items.shape[1]], items)


def test_the_way_to_disk_and_back(
    named: tuple[str, dict[str, bool]], model: Model, sequences: Sequences, tmp_path: Path
) -> None:
    history = HistoryRule(liked_only=True, length=model.settings.max_length) if model.reads_history else None
    trained = saved.Trained(named[0], model, "ctr", history, "sigmoid" if model.logits else None)
    with torch.inference_mode():
        expected = all_scores(model, sequences)
        users, items = model.user_vectors(USERS, sequences).numpy(), model.item_vectors().numpy()
    with write(tmp_path / "cf", "cf", Making(["rectool"], {}, 0, [])) as draft:
        saved.save(trained, users, items, draft.path)
        pq.write_table(pa.Table.from_pylist([], schema=CURVE), draft.path / "curve.parquet")
    read = saved.load(open_artifact(tmp_path / "cf", "cf"))
    assert (read.name, read.task, read.history, read.probability) == (named[0], "ctr", history, trained.probability)
    assert read.model.settings == model.settings
    assert read.model.state_dict().keys() == model.state_dict().keys()
    with torch.inference_mode():
        assert torch.equal(all_scores(read.model, sequences), expected)
        assert torch.equal(read.model.rank(USERS, sequences)(0, 9), model.rank(USERS, sequences)(0, 9))


def test_restoring_does_not_share_memory_and_refuses_other_weights(model: Model, build: Any, named: Any) -> None:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = build(named[0], fresh=True, **named[1])
    fresh.restore(tensors)
    for tensor in tensors.values():
        tensor.zero_()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert tensor.dtype == model.state_dict()[name].dtype
    with pytest.raises(RuntimeError):
        fresh.restore({**tensors, "foreign": torch.zeros(1)})


@torch.no_grad()
def test_a_copy_is_its_own(model: Model, sequences: Sequences) -> None:
    before = all_scores(model, sequences)
    copy = deepcopy(model)
    copy.restore({name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()})
    assert torch.equal(all_scores(model, sequences), before)
    assert not torch.equal(all_scores(copy, sequences), before)


def test_the_same_seed_and_rows_give_the_same_model(named: Any, build: Any) -> None:
    first, second = (build(named[0], fresh=True, **named[1]).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_gradients_reach_every_parameter(model: Model, sequences: Sequences) -> None:
    if model.counted:
        assert not list(model.parameters())
        return
    model.train()
    model.score(USERS, torch.tensor([0, 1, 2, 3, 4, 5]), sequences).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    if isinstance(model, SequenceModel):
        assert model.empty.grad is not None


def test_training_under_autocast(model: Model, sequences: Sequences) -> None:
    if model.counted:
        return
    items = torch.tensor([0, 1, 2, 3, 4, 5])
    expected = model.score(USERS, items, sequences)
    with torch.autocast("cpu", torch.bfloat16):
        scores = model.train().score(USERS, items, sequences)
        loss = scores.float().square().sum()
    torch.testing.assert_close(scores.float(), expected, rtol=0.1, atol=0.2)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
def test_dropout_only_acts_in_training(named: Any, build: Any, sequences: Sequences) -> None:
    if "dropout" not in inspect.signature(model_class(named[0]).Settings).parameters:
        return
    model = build(named[0], dropout=0.5, **named[1])
    assert torch.equal(all_scores(model, sequences), all_scores(model, sequences))
    model.train()
    assert not torch.equal(all_scores(model, sequences), all_scores(model, sequences))


@torch.no_grad()
def test_who_is_unknown_starts_from_zero(named: Any, build: Any, sequences: Sequences) -> None:
    """And scores finitely; user 5 and item 8 are in no training row."""
    model = build(named[0], fresh=True, **named[1])
    assert all_scores(model, sequences).isfinite().all()
    if model.counted:
        return
    assert not model.item_vectors()[8].any()
    assert model.item_vectors()[:8].any(1).all()
    if not model.reads_history:
        assert not model.user_vectors(USERS, sequences)[5].any()
        assert model.user_vectors(USERS, sequences)[:5].any(1).all()


def test_rows_without_labels(named: Any, build: Any, sequences: Sequences) -> None:
    rows = _rows(label=-1)
    model = build(named[0], fresh=True, observed=rows, **named[1])
    with torch.no_grad():
        assert all_scores(model, sequences).isfinite().all()


def test_one_row_is_enough(named: Any, build: Any, sequences: Sequences) -> None:
    one = torch.tensor([2])
    model = build(named[0], fresh=True, observed=TrainingRows(6, 9, one, one, one - 1, one - 3), **named[1])
    with torch.no_grad():
        assert all_scores(model, sequences).isfinite().all()


def test_what_is_left_to_choose_is_said(named: Any, rows: TrainingRows) -> None:
    kind = model_class(named[0])
    for name, values in kind.choices.items():
        with pytest.raises(ValueError, match=f"{name} is None"):
            kind(kind.Settings(), contract.Size(6, 9)).observe(rows)
        assert all(getattr(kind.Settings(**{name: value}), name) == value for value in values)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("bias", {"smoothing": 0.0}, "--smoothing 0.0 must be above 0"),
        ("markov", {"smoothing": float("nan")}, "--smoothing nan must be above 0"),
        ("sasrec", {"embedding_size": 6, "heads": 4}, "--embedding-size 6 is not a multiple of --heads 4"),
    ],
)
def test_settings_that_cannot_be(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RectoolError, match=said):
        model_class(name).Settings(**settings)


def test_no_such_model() -> None:
    with pytest.raises(RectoolError, match=r"there is no model slim; the models are popularity, bias, mf"):
        model_class("slim")


def _rows(label: int) -> TrainingRows:
    each = torch.arange(8)
    return TrainingRows(6, 9, each % 5, each, torch.full_like(each, label), each - 1)
