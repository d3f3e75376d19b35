from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rectool.data import histories
from rectool.data.histories import Histories

Log = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_] | None]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    per_user = draw(st.lists(st.integers(0, 6), max_size=6))  # 0 leaves a gap in the users
    user = np.repeat(np.arange(len(per_user), dtype=np.int32), per_user)
    item = np.array(draw(st.lists(st.integers(0, 9), min_size=len(user), max_size=len(user))), dtype=np.int32)
    marks = st.lists(st.booleans(), min_size=len(user), max_size=len(user))
    counts = draw(st.none() | marks)
    return user, item, None if counts is None else np.array(counts, dtype=np.bool_)


def naive(log: Log, row: int, length: int | None) -> list[int]:
    """The definition, one row at a time."""
    user, item, counts = log
    earlier = [
        int(item[other]) for other in range(row) if user[other] == user[row] and (counts is None or counts[other])
    ]
    return earlier if length is None else earlier[max(0, len(earlier) - length) :]


@pytest.fixture(params=[3, 1 << 16])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks smaller than one history, and as they are."""
    monkeypatch.setattr(histories, "_CHUNK", request.param)


def random_log(rows: int, users: int, seed: int) -> Log:
    random = np.random.default_rng(seed)
    user = np.sort(random.integers(0, users, rows)).astype(np.int32)
    return user, random.integers(0, 1000, rows).astype(np.int32), random.random(rows) < 0.5


@settings(deadline=None)
@given(log=logs(), length=st.sampled_from([0, 1, 2, 10, None]), data=st.data())
def test_slices_and_ragged_are_the_definition(log: Log, length: int | None, data: st.DataObject) -> None:
    count = len(log[0])
    wanted = data.draw(st.lists(st.integers(0, count - 1), max_size=10)) if count else []
    rows = np.array(wanted, dtype=np.int64)
    view = Histories(*log)

    start, stop = view.slices(rows, length)
    items, offsets = view.ragged(rows, length)

    assert start.dtype == stop.dtype == offsets.dtype == np.int64
    assert items.dtype == np.int32
    assert offsets[0] == 0
    assert offsets[-1] == len(items)
    for place, row in enumerate(wanted):
        expected = naive(log, row, length)
        assert view.items[start[place] : stop[place]].tolist() == expected
        assert items[offsets[place] : offsets[place + 1]].tolist() == expected


@settings(deadline=None)
@given(log=logs(), length=st.sampled_from([0, 1, 2, 10]), side=st.sampled_from(["left", "right"]))
def test_padded_is_the_definition(log: Log, length: int, side: Literal["left", "right"]) -> None:
    rows = np.arange(len(log[0]))

    padded = Histories(*log).padded(rows, length, padding=-7, side=side)

    assert padded.shape == (len(rows), length)
    assert padded.dtype == np.int32
    for row in rows.tolist():
        expected = naive(log, row, length)
        gap = [-7] * (length - len(expected))
        assert padded[row].tolist() == (gap + expected if side == "left" else expected + gap)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("liked_only", [True, False])
def test_many_rows_in_any_order(liked_only: bool) -> None:
    user, item, counts = random_log(600, 25, seed=1)
    log = (user, item, counts if liked_only else None)
    view = Histories(*log)
    rows = np.random.default_rng(2).integers(0, 600, 300)

    items, offsets = view.ragged(rows, 5)
    left, right = view.padded(rows, 5), view.padded(rows, 5, side="right")

    for place, row in enumerate(rows.tolist()):
        expected = naive(log, row, 5)
        gap = [-1] * (5 - len(expected))
        assert items[offsets[place] : offsets[place + 1]].tolist() == expected
        assert left[place].tolist() == gap + expected
        assert right[place].tolist() == expected + gap


@pytest.mark.usefixtures("chunk")
def test_no_item_of_the_row_itself_or_later_or_of_another_user() -> None:
    user, _, counts = random_log(500, 20, seed=3)
    place = np.arange(500, dtype=np.int32)  # as item ids: they tell where in the log an item came from
    rows = np.arange(500)
    assert counts is not None

    items, offsets = Histories(user, place, counts).ragged(rows)
    owner = np.repeat(rows, np.diff(offsets))

    assert len(items) > 1000
    assert (items < owner).all()
    assert (user[items] == user[owner]).all()
    assert counts[items].all()


def test_a_tie_of_time_is_broken_by_the_order_of_the_log() -> None:
    user, item = np.zeros(3, dtype=np.int32), np.array([5, 6, 7], dtype=np.int32)

    assert Histories(user, item).padded(np.arange(3), 2).tolist() == [[-1, -1], [-1, 5], [5, 6]]


def test_users_without_a_counting_row_have_no_history() -> None:
    user = np.array([0, 0, 1, 1], dtype=np.int32)
    item = np.array([1, 2, 3, 4], dtype=np.int32)
    view = Histories(user, item, np.array([True, True, False, False]))

    assert view.padded(np.array([3, 2, 1]), 2).tolist() == [[-1, -1], [-1, -1], [-1, 1]]
    nothing = Histories(user, item, np.zeros(4, dtype=np.bool_))
    assert nothing.padded(np.arange(4), 2).tolist() == [[-1, -1]] * 4
    assert nothing.ragged(np.arange(4))[0].tolist() == []


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_rows_may_be_of_any_integer_type(dtype: type[np.generic]) -> None:
    view = Histories(*random_log(50, 4, seed=5))
    rows = np.array([3, 40, 40])

    assert (view.padded(rows.astype(dtype), 4) == view.padded(rows, 4)).all()
    assert (view.ragged(rows.astype(dtype))[0] == view.ragged(rows)[0]).all()


def test_an_empty_log_and_an_empty_request() -> None:
    none = np.empty(0, dtype=np.int32)
    for view in (Histories(none, none), Histories(none, none, np.empty(0, dtype=np.bool_))):
        assert view.padded(np.empty(0, dtype=np.int64), 3).shape == (0, 3)
        assert view.ragged(np.array([], dtype=np.int64))[1].tolist() == [0]
    assert Histories(*random_log(9, 2, seed=6)).padded(np.empty(0, dtype=np.int64), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("user", "item", "counts", "message"),
    [
        (np.array([0, 1, 0], np.int32), np.zeros(3, np.int32), None, "not sorted: row 2"),
        (np.array([-1, 0], np.int32), np.zeros(2, np.int32), None, "must not be negative"),
        (np.zeros(3, np.int64), np.zeros(3, np.int32), None, "user must be int32"),
        (np.zeros((2, 2), np.int32), np.zeros(4, np.int32), None, "user must be int32"),
        (np.zeros(3, np.int32), np.zeros(2, np.int32), None, "item must be int32"),
        (np.zeros(3, np.int32), np.zeros(3, np.float32), None, "item must be int32"),
        (np.zeros(3, np.int32), np.zeros(3, np.int32), np.ones(3, np.int8), "counts must be bool"),
        (np.zeros(3, np.int32), np.zeros(3, np.int32), np.ones(2, np.bool_), "counts must be bool"),
    ],
)
def test_a_wrong_log_is_refused(user: Any, item: Any, counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Histories(user, item, counts)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([-1], {}, "row -1 is not in the log, which has the rows 0 to 9"),
        ([3, 10], {}, "row 10 is not in the log"),
        ([1.0], {}, "rows must be integers"),
        ([True], {}, "rows must be integers"),
        ([[1]], {}, "rows must be integers"),
        ([1], {"length": -1}, "length must not be negative"),
        ([1], {"side": "middle"}, "side must be 'left' or 'right'"),
        ([1], {"padding": 2**31}, "padding must fit into int32"),
    ],
)
def test_a_wrong_request_is_refused(rows: list[Any], options: dict[str, Any], message: str) -> None:
    view = Histories(*random_log(10, 3, seed=4))
    with pytest.raises(ValueError, match=message):
        view.padded(np.array(rows), **{"length": 2, **options})
    if "side" not in options and "padding" not in options:
        with pytest.raises(ValueError, match=message):
            view.ragged(np.array(rows), **options)
