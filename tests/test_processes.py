"""Several processes that work together: what they share, and that none waits for one that has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rectool import processes
from rectool.artifacts import open_artifact
from rectool.errors import RectoolError

FAKE = Path(__file__).with_name("commands") / "fake_training.py"
SHARE = """
import json, torch
from rectool import processes

def share():
    processes.start()
    rank = processes.rank()
    rows = torch.arange(6.0).reshape(3, 2)[: 2 - rank] + 10 * rank
    tensors = {
        "a": torch.tensor([[1.5, float("nan")]], dtype=torch.float64).t(), "b": torch.tensor([True, False]),
        "c": torch.tensor(7), "d": torch.zeros(0, 3), "e": torch.ones(2).bfloat16(),
    }
    got = processes.broadcast_tensors(tensors if processes.is_main() else {"x": torch.ones(1)})
    print(json.dumps({
        "rank": rank,
        "size": processes.world_size(),
        "json": [processes.broadcast_json({"from": rank}), processes.broadcast_json(None)],
        "sum": processes.all_reduce_sum(torch.tensor([1.0, rank])).tolist(),
        "rows": processes.all_gather_rows(rows, [2, 1]).tolist(),
        "one": processes.all_gather_rows(torch.ones(rank, dtype=torch.int64), [0, 1]).tolist(),
        "tensors": {name: [str(value.dtype), str(value.tolist())] for name, value in got.items()},
    }), flush=True)

processes.together(share, everywhere=True)
processes.end(0)
"""


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def begin(free_ports: Callable[[int], list[int]]) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Start a script in two processes, as a launcher would."""
    begun: list[subprocess.Popen[str]] = []

    def run(script: Sequence[object]) -> list[subprocess.Popen[str]]:
        [port] = free_ports(1)
        for rank in (0, 1):
            told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment = {**os.environ, "OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in told.items()}
            begun.append(
                subprocess.Popen(
                    [sys.executable, *map(str, script)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
        return begun[-2:]

    yield run
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def two(begin: Callable[..., Any]) -> Callable[..., list[Ended]]:
    def run(*script: object) -> list[Ended]:
        ends = []
        for process in begin(script):
            shown, said = process.communicate(timeout=90)
            ends.append(Ended(process.returncode, shown, said))
        return ends

    return run


@pytest.fixture
def fake(two: Callable[..., list[Ended]], tmp_path: Path) -> Callable[..., list[Ended]]:
    """Run `rectool fake` in two processes, into `x`."""
    return lambda *more: two(FAKE, "fake", "--out", tmp_path / "x", *more)


def test_one_process_needs_no_others() -> None:
    rows = torch.arange(3.0)
    processes.start()
    assert (processes.rank(), processes.world_size(), processes.is_main(), processes.started()) == (0, 1, True, False)
    assert processes.broadcast_json([1, None]) == [1, None]
    assert processes.broadcast_tensors({"rows": rows})["rows"] is rows
    assert processes.all_reduce_sum(rows) is rows
    assert processes.all_gather_rows(rows, [3]) is rows
    with pytest.raises(ValueError, match="3 rows in process 0, but the counts are"):
        processes.all_gather_rows(rows, [2])


def test_what_two_processes_share(two: Callable[..., list[Ended]]) -> None:
    ends = two("-c", SHARE)
    assert [end.code for end in ends] == [0, 0], ends
    main, other = (json.loads(end.stdout) for end in ends)
    assert (main.pop("rank"), other.pop("rank")) == (0, 1)
    assert main == other
    assert main["size"] == 2
    assert main["json"] == [{"from": 0}, None]
    assert main["sum"] == [2, 1]
    assert main["rows"] == [[0, 1], [2, 3], [10, 11]]
    assert main["one"] == [1]
    assert main["tensors"] == {
        "a": ["torch.float64", "[[1.5], [nan]]"],
        "b": ["torch.bool", "[True, False]"],
        "c": ["torch.int64", "7"],
        "d": ["torch.float32", "[]"],
        "e": ["torch.bfloat16", "[1.0, 1.0]"],
    }


def test_training_stops_is_resumed_and_skipped_together(fake: Callable[..., list[Ended]], tmp_path: Path) -> None:
    stopped = fake("--at", "3:stop")
    assert [(end.code, end.stderr) for end in stopped] == [(75, "error: stopped at step 3\n"), (75, "")]
    assert os.listdir(tmp_path) == [".x.partial"]

    done = fake("--resume", "--json")
    assert [end.code for end in done] == [0, 0], done
    assert "goes on from step 2" in done[0].stderr
    assert (done[1].stdout, done[1].stderr) == ("", "")
    made = open_artifact(tmp_path / "x", verify=True).manifest
    assert json.loads(done[0].stdout)["digest"] == made.digests["artifact"]
    assert made.metrics["value"] == pytest.approx(1.0)  # 5 steps of 0.1 in 2 processes
    assert made.run["world_size"] == 2
    assert json.loads((tmp_path / "x/config.json").read_text()) == {"rank": 0}
    assert os.listdir(tmp_path) == ["x"]

    skipped = fake("--update")
    assert [(end.code, end.stderr) for end in skipped] == [(0, f"{tmp_path / 'x'} is up to date\n"), (0, "")]


def test_what_the_main_process_refuses_ends_all(fake: Callable[..., list[Ended]], tmp_path: Path) -> None:
    ends = fake("--resume")
    assert [end.code for end in ends] == [2, 2]
    assert ends[0].stderr.startswith("error: --resume: ")
    assert ends[1].stderr == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("at", ["3:mistake", "3:mistake:0"])
def test_a_mistake_that_the_main_process_meets_is_told_once(
    at: str, fake: Callable[..., list[Ended]], tmp_path: Path
) -> None:
    ends = fake("--at", at)
    assert [end.code for end in ends] == [2, 2]
    assert "error: the loss is nan at step 3\n" in ends[0].stderr
    assert ends[1].stderr == ""
    assert os.listdir(tmp_path) == [".x.partial"]


def test_what_another_process_alone_meets_is_told_by_it(fake: Callable[..., list[Ended]]) -> None:
    ends = fake("--at", "3:mistake:1")
    assert [end.code for end in ends] == [2, 2]
    assert ends[1].stderr == "error: process 1: the loss is nan at step 3\n"
    assert "error: " not in ends[0].stderr, "once is enough"
    assert "--resume continues it" in ends[0].stderr


@pytest.mark.parametrize(("failed", "expected"), [(True, 2), (False, 143)])
def test_the_main_process_that_is_ended_since_another_has_failed_has_its_code(
    failed: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launchers send SIGTERM to all when one has ended; the one that failed has told why."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    store.set(f"{processes.LEFT} 1", "")
    if failed:
        store.set(processes.FAILED, "2")
    handled: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handled.__setitem__)
    monkeypatch.setattr(processes._shared, "store", store)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit) as end:
        processes.together(lambda: sys.exit(143), everywhere=True)
    assert end.value.code == expected
    assert store.get(processes.END) == str(expected).encode()
    assert handled == {signal.SIGTERM: signal.SIG_IGN}, "its code stands"


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_the_other(killed: int, fake: Callable[..., list[Ended]]) -> None:
    started = time.monotonic()
    ends = fake("--at", f"3:kill:{killed}")
    assert ends[killed].code == -signal.SIGKILL
    assert ends[1 - killed].code == 2
    assert (
        ends[1 - killed]
        .stderr.splitlines()[-1]
        .endswith(
            "another process of this run has ended without a word: it was killed, or its machine ran out of memory"
        )
    )
    assert ends[1 - killed].stderr.count("\n") <= 2
    assert time.monotonic() - started < 60


def test_a_launcher_runs_what_does_not_train_once(tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, "-m", "rectool", "inspect", str(tmp_path / "nothing")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count(f"error: {tmp_path / 'nothing'} does not exist\n") == 1


def test_mistakes_on_the_command_line_are_told_once(two: Callable[..., list[Ended]]) -> None:
    ends = two("-m", "rectool", "prep", "synthetic", "--users", "many")
    assert [end.code for end in ends] == [2, 2]
    assert ends[0].stderr.startswith("error: ")
    assert ends[1].stderr == ""


@pytest.mark.parametrize("told", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1"}])
def test_a_launcher_that_leaves_something_out_is_one_line(told: dict[str, str], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")} | told
    done = subprocess.run(
        [sys.executable, "-m", "rectool", "inspect", "x"], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 2
    assert "did not meet the others" in done.stderr or done.stderr == ""


def test_a_port_of_none_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(RectoolError, match=r"port 0 .* --main_process_port 29500"):
        processes.start()
