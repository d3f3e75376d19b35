"""Work on rows that is stopped, killed and damaged on its way, and ends as undisturbed work does."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rectool.artifacts import shards, unfinished
from rectool.artifacts.shards import Arrays, Shard, Shards, Work
from rectool.errors import RectoolError, Stopped

PIECES = [(0, 3), (3, 4), (4, 8), (8, 10)]
OFTEN = 0.0


class Squares:
    """Computes two arrays of rows, and remembers what was asked of it."""

    def __init__(self, before: Callable[[int, int], None] = lambda start, stop: None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.before = before

    def __call__(self, start: int, stop: int) -> Arrays:
        self.before(start, stop)
        self.asked.append((start, stop))
        rows = np.arange(start, stop)
        return {"square": (rows**2).astype(np.float32), "pair": np.stack([rows, -rows], 1).astype(np.float16)}


def assert_whole(found: Arrays | None) -> None:
    assert found is not None
    assert found["square"].tolist() == [row**2 for row in range(10)]
    assert found["pair"].tolist() == [[row, -row] for row in range(10)]
    assert (found["square"].dtype, found["pair"].dtype) == (np.float32, np.float16)


def interrupt_at(row: int, number: signal.Signals = signal.SIGINT) -> Squares:
    return Squares(lambda start, stop: signal.raise_signal(number) if start <= row < stop else None)


def test_undisturbed_work_leaves_nothing(tmp_path: Path) -> None:
    assert_whole(Work(tmp_path).run("part", PIECES, Squares()))
    assert list(tmp_path.iterdir()) == []
    assert_whole(Work().run("part", PIECES, Squares()))
    assert Work().run("part", [], Squares()) == {}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_work_goes_on_where_it_was(
    tmp_path: Path, number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    first = interrupt_at(3, number)
    with pytest.raises(
        Stopped, match=r"stopped at row 4 of 10 \(.*; the same command with --resume goes on"
    ) as stopped:
        Work(tmp_path).run("part", PIECES, first)
    assert stopped.value.exit_code == code
    assert [step for step, _ in unfinished.checkpoints(tmp_path)] == [4]
    work, again = Work(tmp_path, resumed=True), Squares()
    assert (work.done("part"), work.done("another")) == (4, 0)
    assert_whole(work.run("part", PIECES, again))
    assert again.asked == [(4, 8), (8, 10)]
    assert "going on from row 4 of 10" in capsys.readouterr().err


def test_time_that_has_passed_stops_after_one_piece_at_least(tmp_path: Path) -> None:
    for rows in (3, 4, 8):
        with pytest.raises(Stopped, match=rf"stopped at row {rows} of 10 \(--max-time: 0 s have passed\)"):
            Work(tmp_path, resumed=rows > 3, max_seconds=0).run("part", PIECES, Squares())
    with pytest.raises(Stopped):
        Work(tmp_path, resumed=True, max_seconds=0).run("part", PIECES, Squares())
    last = Squares()
    assert_whole(Work(tmp_path, resumed=True, max_seconds=0).run("part", PIECES, last))
    assert last.asked == []


def test_pieces_may_be_cut_otherwise_when_work_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        Work(tmp_path).run("part", PIECES, interrupt_at(3))
    again = Squares()
    assert_whole(Work(tmp_path, resumed=True).run("part", [(0, 7), (7, 10)], again))
    assert again.asked == [(4, 7), (7, 10)]


def test_parts_are_kept_apart(tmp_path: Path) -> None:
    """The first part was done and not yet saved when the second one is stopped: both are kept."""
    work = Work(tmp_path)
    assert_whole(work.run("first", PIECES, Squares()))
    with pytest.raises(Stopped):
        work.run("second", PIECES, interrupt_at(0))
    assert [step for step, _ in unfinished.checkpoints(tmp_path)] == [10, 13]
    again = Work(tmp_path, resumed=True)
    first, second = Squares(), Squares()
    assert_whole(again.run("first", PIECES, first))
    assert_whole(again.run("second", PIECES, second))
    assert (first.asked, second.asked) == ([], PIECES[1:])


def test_a_shard_at_every_save(tmp_path: Path) -> None:
    def fail(start: int, stop: int) -> None:
        if start == 8:
            raise RectoolError("too bad")

    with pytest.raises(RectoolError, match="too bad"):
        Work(tmp_path, save_seconds=OFTEN).run("part", PIECES, Squares(fail))
    assert [step for step, _ in unfinished.checkpoints(tmp_path)] == [3, 4, 8]
    assert all("saved" in json.loads((path / "state.json").read_text()) for path in tmp_path.iterdir())
    again = Squares()
    assert_whole(Work(tmp_path, resumed=True).run("part", PIECES, again))
    assert again.asked == [(8, 10)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: cut(path / "arrays.safetensors"),
        lambda path: (path / "arrays.safetensors").unlink(),
        lambda path: (path / "state.json").write_text("{"),
        lambda path: (path / "state.json").write_text('{"state": {"part": "part", "start": 3, "stop": 5}}'),
    ],
    ids=["cut short", "gone", "no JSON", "another number of rows"],
)
@pytest.mark.parametrize("which", ["step-8", "step-4"])
def test_what_is_damaged_is_done_again(
    tmp_path: Path, damage: Callable[[Path], Any], which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stopped):
        Work(tmp_path, save_seconds=OFTEN).run("part", PIECES, interrupt_at(5))
    damage(tmp_path / which)
    again = Squares()
    assert_whole(Work(tmp_path, resumed=True, save_seconds=OFTEN).run("part", PIECES, again))
    assert again.asked == (PIECES[2:] if which == "step-8" else PIECES[1:])
    assert f"{tmp_path / which} is damaged" in capsys.readouterr().err
    assert [step for step, _ in unfinished.checkpoints(tmp_path)] == [3, 4, 8, 10]


def test_what_was_cut_short_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / "step-7").mkdir()
    (tmp_path / "step-7/arrays.safetensors").write_bytes(b"half")
    kept = Shards(tmp_path)
    assert kept.load() == []
    kept.save(Shard("part", 0, 7, {"a": np.zeros(7, np.int64)}))
    assert [(shard.part, shard.start, shard.stop) for shard in kept.load()] == [("part", 0, 7)]


def test_a_full_disk_keeps_the_shards_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Shards(tmp_path)
    kept.save(Shard("part", 0, 2, {"a": np.arange(2)}))
    monkeypatch.setattr(Path, "write_bytes", _full)
    with pytest.raises(RectoolError, match="is full"):
        kept.save(Shard("part", 2, 4, {"a": np.arange(2)}))
    assert [shard.stop for shard in kept.load()] == [2]
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


SHARED = """
import json, signal, sys
from pathlib import Path
import numpy as np
from rectool import console, processes
from rectool.artifacts.shards import Work
from rectool.errors import Stopped

console.configure(quiet=True, json=False)
asked = []
stopping = "resumed" not in sys.argv

def compute(start, stop):
    asked.append([start, stop])
    if stopping and processes.rank() == 1 and start >= 5:
        signal.raise_signal(signal.SIGTERM)
    rows = np.arange(start, stop)
    return {"square": rows.astype(np.float32) ** 2, "pair": np.stack([rows, -rows], 1).astype(np.float16)}

def share():
    work, said = Work(Path(sys.argv[1]), resumed=not stopping), ""
    try:
        found = work.run("part", [(0, 5), (5, 6), (6, 11)], compute)
    except Stopped as problem:
        found, said = None, str(problem)
    print(json.dumps({
        "rank": processes.rank(), "asked": asked, "said": said,
        "found": None if found is None else {name: array.tolist() for name, array in found.items()},
    }), flush=True)

processes.together(share, everywhere=True)
processes.end(0)
"""


@pytest.fixture
def in_two(free_ports: Callable[[int], list[int]]) -> Callable[..., list[Any]]:
    """What each of two processes says."""

    def run(*arguments: object) -> list[Any]:
        command = [sys.executable, "-c", SHARED, *map(str, arguments)]
        [port] = free_ports(1)
        told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        both = [
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **told, "RANK": rank},
            )
            for rank in ("0", "1")
        ]
        ends = [process.communicate(timeout=120) for process in both]
        assert [process.returncode for process in both] == [0, 0], ends
        return [json.loads(shown) for shown, _ in ends]

    return run


def test_two_processes_share_each_piece_and_stop_together(in_two: Callable[..., list[Any]], tmp_path: Path) -> None:
    main, other = in_two(tmp_path)
    # Of the one row of the second piece the main process has none: it computes one to know its shape.
    assert main["asked"] == [[0, 2], [5, 6]]
    assert other["asked"] == [[2, 5], [5, 6]]
    assert "stopped at row 6 of 11 (another process)" in main["said"]
    assert "stopped at row 6 of 11 (terminated)" in other["said"]
    main, other = in_two(tmp_path, "resumed")
    assert (main["asked"], other["asked"]) == ([[6, 8]], [[8, 11]])
    assert other["found"] is None
    assert main["found"] == {
        "square": [row**2 for row in range(11)],
        "pair": [[row, -row] for row in range(11)],
    }


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    code = "import sys; from rectool.artifacts import shards; assert 'torch' not in sys.modules"
    assert shards.ARRAYS == "arrays.safetensors"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
