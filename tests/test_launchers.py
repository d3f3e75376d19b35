"""The lines of docs/processes.md, with the real launchers: what they start, and how all of it ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from safetensors.torch import load_file, save_file

from rectool import console, launchers, processes
from rectool.artifacts import folder, open_artifact, unfinished
from rectool.data.dataset import Dataset

DOCUMENTED = (Path(__file__).parents[1] / "docs/processes.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lines(free_ports: Callable[[int], list[int]]) -> dict[str, list[str]]:
    """The launchers of the documented lines, by name; with a port of their own, since torch 2.4 knows no other."""
    [port] = free_ports(1)
    found = re.findall(r"^((?:accelerate|torchrun) .*) -m rectool ", DOCUMENTED, re.MULTILINE)
    bin = Path(sys.executable).parent
    own = {"0": str(port)}
    return {
        name: [str(bin / name), *(own.get(word, word) for word in words)] for name, *words in map(shlex.split, found)
    }


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a launcher with `-m rectool` and a command line."""
    begun: list[subprocess.Popen[str]] = []

    def start(launcher: list[str], *words: object, **told: str) -> subprocess.Popen[str]:
        command = [*launcher, "-m", "rectool", *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **told}
        for output in ("out", "err"):
            (tmp_path / output).touch()
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            begun.append(subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


@pytest.fixture
def data(rectool: Callable[..., Any], tmp_path: Path) -> Path:
    assert rectool("prep", "synthetic", "--users", 40, "--items", 50, "--quiet", "--out", tmp_path / "data").code == 0
    return tmp_path / "data"


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error: ")]


def test_accelerate_is_told_to_end(lines: Any, launch: Any, data: Path, tmp_path: Path) -> None:
    """SIGTERM to the launcher: a checkpoint, one line, nothing half written, and the same line goes on."""
    out = tmp_path / "out-of-two"
    words = ("train-cf", data, "--model", "sasrec", "--embedding-size", 8, "--heads", 2, "--dropout", 0)
    words = (*words, "--batch-size", 8, "--patience", 0, "--out", out)
    started = launch(lines["accelerate"], *words, "--steps", 10**6, "--checkpoint-minutes", 1e-4)
    kept, deadline = folder.partial_of(out) / folder.CHECKPOINTS, time.monotonic() + 150
    while not unfinished.checkpoints(kept) and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) != 0
    said = (tmp_path / "err").read_text()
    assert [re.sub(r"\d+", "N", line) for line in errors(said)] == [
        "error: stopped at step N of N at most (terminated), with a checkpoint; the same command with --resume goes on"
    ]
    assert not out.exists()
    assert f"stopped at step {unfinished.checkpoints(kept)[-1][0]} " in said


def test_what_goes_wrong_in_one_process_of_torchrun_is_told_once(
    lines: Any, launch: Any, rectool: Callable[..., Any], data: Path, tmp_path: Path
) -> None:
    """A score that is not finite, of a row that the second process has."""
    model, out = tmp_path / "mf", tmp_path / "result"
    assert rectool("train-cf", data, "--model", "mf", "--epochs", 1, "--quiet", "--out", model).code == 0
    weights = load_file(model / "weights.safetensors")
    last = int(Dataset(open_artifact(data)).user.max())  # rows are in the order of users
    weights["user_bias.weight"][last] = float("nan")
    save_file(weights, model / "weights.safetensors")

    started = launch(lines["torchrun"], "eval", data, model, "--out", out)
    assert started.wait(150) != 0
    said = (tmp_path / "err").read_text()
    [told] = errors(said)
    assert re.match(r"error: process 1: the model's scores for row \d+ of .*/interactions.parquet are not finite", told)
    assert re.findall(r"exitcode +: (\d+)", said) == ["2"] * said.count("exitcode  "), said
    assert sorted(path.name for path in tmp_path.iterdir() if "result" in path.name) == []


@pytest.mark.parametrize("flags", [("--num_processes", "2"), ("--cpu", "--num_processes", "2")])
def test_one_process_that_should_be_two_works_alone_and_says_so(
    flags: Any, monkeypatch: pytest.MonkeyPatch, rectool: Callable[..., Any], data: Path, tmp_path: Path
) -> None:
    """The environment is what accelerate makes of it on a machine without GPUs."""
    rest = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "x")
    understood, *_ = _validate_launch_command(launch_command_parser().parse_args([*flags, *rest]))
    _, environment = prepare_simple_launcher_cmd_env(understood)
    for name in environment.keys() - os.environ.keys():
        monkeypatch.setenv(name, environment[name])
    assert launchers.left_alone()
    words = ("train-cf", data, "--model", "popularity", "--out", tmp_path / "out")
    done = rectool(*words)
    assert done.code == 0, done.stderr
    assert done.stderr.count(launchers.ALONE) == 1
    assert open_artifact(tmp_path / "out").manifest.run["world_size"] == 1
    assert launchers.ALONE not in rectool(*words, "--update", "--quiet").stderr
    assert launchers.ALONE not in rectool("inspect", tmp_path / "out").stderr, "it works alone anyway"
    monkeypatch.delenv("MASTER_ADDR")
    assert not launchers.left_alone(), "as with --num_processes 1"


@pytest.mark.parametrize(
    ("told", "cores", "expected"), [("2", 8, "for 4: set OMP_NUM_THREADS=4"), ("4", 8, ""), ("1", 2, "")]
)
def test_cores_without_work_are_told(
    told: str, cores: int, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure(quiet=False, json=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "OMP_NUM_THREADS": told}.items():
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    processes._share_cores()
    said = capsys.readouterr().err
    assert expected in said
    assert bool(said) == bool(expected)
    assert torch.get_num_threads() == before, "what the launcher says holds"


def test_cores_are_shared_where_nobody_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    processes._share_cores()
    assert threads == [3]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_for_the_others_heeds_sigterm(rank: int) -> None:
    with ExitStack() as open_sockets:
        place = open_sockets.enter_context(socket.socket())
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
        told = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        if rank == 0:
            place.close()  # the process is the one to be asked
        else:
            place.listen()
        waiting = subprocess.Popen(
            [sys.executable, "-m", "rectool", "inspect", "x"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **{name: str(value) for name, value in told.items()}},
        )
        try:
            open_sockets.enter_context(ask(port) if rank == 0 else asked(place))
            waiting.send_signal(signal.SIGTERM)
            _, said = waiting.communicate(timeout=20)
        finally:
            waiting.kill()
    assert waiting.returncode == 143
    assert said == ("" if rank else "error: terminated; no artifact was written\n")


def ask(port: int) -> socket.socket:
    """Come to where the main process waits, once it does."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), timeout=1)
        time.sleep(0.1)
    raise AssertionError("nobody is there")


def asked(place: socket.socket) -> socket.socket:
    """Wait until a process comes."""
    place.settimeout(90)
    return place.accept()[0]
