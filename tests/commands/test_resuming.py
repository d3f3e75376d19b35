"""Runs that stop and are resumed, whatever they train."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rectool import cli
from rectool.artifacts import folder, open_artifact
from rectool.commands.options import Train
from rectool.errors import RectoolError

Command = Callable[..., Any]
SCRIPT = Path(__file__).with_name("fake_training.py")


@pytest.fixture(scope="module")
def fake_training() -> ModuleType:
    specification = importlib.util.spec_from_file_location("fake_training", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["fake_training"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def fake(rectool: Command, fake_training: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run `rectool fake` into `x`."""

    def run(*more: object) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(cli, "app", fake_training.app)
            return rectool("fake", "--out", tmp_path / "x", *more)

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "x"


@pytest.fixture
def stopped(fake: Command, out: Path) -> Path:
    """The partial folder of a run that stopped at step 3, with a checkpoint of step 2."""
    done = fake("--at", "3:stop")
    assert (done.code, done.error) == (75, "stopped at step 3")
    assert os.listdir(out.parent) == [".x.partial"]
    return out.with_name(".x.partial")


def assert_made(out: Path, rate: float = 0.1) -> Any:
    """That the whole run was made, and nothing else is there; its manifest."""
    assert os.listdir(out.parent) == ["x"]
    names = {path.name for path in out.iterdir()}
    assert {"embeddings.safetensors", "config.json", "rectool.json"} < names
    assert "checkpoints" not in names
    made = open_artifact(out, verify=True).manifest
    assert made.metrics["value"] == pytest.approx(5 * rate)
    assert not any("checkpoints" in name for name in made.files)
    return made


# Stopping and resuming


def test_a_run_that_stopped_is_resumed(stopped: Path, fake: Command, out: Path) -> None:
    assert sorted(os.listdir(stopped)) == ["checkpoints", "left-0.txt"]
    assert sorted(os.listdir(stopped / "checkpoints")) == ["making.json", "step-2"]
    done = fake("--resume")
    assert done.code == 0
    assert "goes on from step 2" in done.stderr
    made = assert_made(out)
    assert "left-0.txt" not in made.files
    assert made.command == ["rectool", "fake", "--out", str(out)]
    assert (made.run["device"], made.run["world_size"]) == ("abacus", 1)


def test_time_adds_up_and_the_start_stays(stopped: Path, fake: Command, out: Path) -> None:
    path, state = stopped / "checkpoints/making.json", stopped / "checkpoints/step-2/state.json"
    record, saved = json.loads(path.read_text()), json.loads(state.read_text())
    began = saved["saved"] - 1000
    path.write_text(json.dumps({**record, "seconds": 500, "began": began, "started": "2001-01-01T00:00:00+00:00"}))
    assert fake("--resume", "--at", "2:stop").code == 75
    again = json.loads(path.read_text())
    assert (again["seconds"], again["started"]) == (pytest.approx(1500), "2001-01-01T00:00:00+00:00")
    assert fake("--resume").code == 0
    run = assert_made(out).run
    assert 1500 < run["wall_seconds"] < 1560
    assert run["started"] == "2001-01-01T00:00:00+00:00"


def test_each_resumption_goes_on_where_the_last_one_stopped(fake: Command, out: Path) -> None:
    assert fake("--at", "2:stop").code == 75
    assert fake("--at", "4:stop", "--resume").code == 75
    done = fake("--resume")
    assert "goes on from step 4" in done.stderr
    assert_made(out)


@pytest.mark.parametrize(("what", "code"), [("mistake", 2), ("fault", 1)])
def test_an_error_keeps_the_last_checkpoint_and_says_so(what: str, code: int, fake: Command, out: Path) -> None:
    done = fake("--at", f"3:{what}")
    assert done.code == code
    assert f"{out}: what was done up to the last checkpoint is kept; --resume continues it\n" in done.stderr
    assert fake("--resume").code == 0
    assert_made(out)


@pytest.mark.parametrize("what", ["stop", "mistake", "fault"])
def test_an_error_before_the_first_checkpoint_leaves_nothing(what: str, fake: Command, out: Path) -> None:
    done = fake("--at", f"1:{what}")
    assert done.code != 0
    assert "--resume" not in done.stderr
    assert os.listdir(out.parent) == []


def test_a_run_that_was_killed_is_resumed(fake: Command, out: Path) -> None:
    command = [sys.executable, SCRIPT, "fake", "--out", out, "--at", "5:kill"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert sorted(os.listdir(out.parent)) == [".x.lock", ".x.partial"]
    assert fake("--resume").code == 0
    assert_made(out)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_outside_the_loop_keeps_the_checkpoint(
    number: signal.Signals, code: int, word: str, fake: Command, out: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "fake", "--out", out, "--at", "3:wait"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and not out.with_name(".x.partial").joinpath("checkpoints/step-2/state.json").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert f"error: {word}; no artifact was written" in said
    assert fake("--resume").code == 0
    assert_made(out)


def test_what_was_replaced_stays_until_the_resumed_run_is_done(fake: Command, out: Path) -> None:
    assert fake().code == 0
    assert fake("--rate", 0.5, "--overwrite", "--at", "3:stop").code == 75
    assert open_artifact(out).manifest.settings["rate"] == 0.1
    assert fake("--rate", 0.5, "--resume").code == 0
    assert_made(out, rate=0.5)


def test_a_run_that_was_whole_but_not_in_its_place_is_put_there(stopped: Path, fake: Command, out: Path) -> None:
    (out.with_name("checkpoints")).mkdir()
    shutil.copytree(stopped / "checkpoints", out.with_name("checkpoints"), dirs_exist_ok=True)
    assert fake("--resume").code == 0
    for flag in ("none", "--resume", "--update"):
        shutil.copytree(out, out.with_name(".x.partial"))
        shutil.copytree(out.with_name("checkpoints"), out.with_name(".x.partial") / "checkpoints")
        if flag == "none":
            shutil.rmtree(out)
            assert open_artifact(out).manifest.metrics["value"] == pytest.approx(0.5)
        else:
            done = fake(flag)
            assert ("is finished" if flag == "--resume" else "is up to date") in done.stderr
        assert sorted(os.listdir(out.parent)) == ["checkpoints", "x"]
        assert not (out / "checkpoints").exists()


# What is refused


def test_a_run_that_stopped_is_not_thrown_away_unasked(stopped: Path, fake: Command, state: Command) -> None:
    before = state(stopped)
    for flags in ([], ["--dry-run"], ["--rate", "0.5"]):
        done = fake(*flags)
        assert done.code == 2
        assert done.error == (
            f"{stopped.with_name('x')} stopped at step 2; --resume continues it, --overwrite starts anew, "
            "or choose another --out"
        )
    assert state(stopped) == before


def test_a_run_that_still_goes_on_is_not_taken_for_one_that_stopped(stopped: Path, fake: Command, out: Path) -> None:
    with folder.lock(out):
        for flags in ([], ["--dry-run"], ["--resume"], ["--overwrite"], ["--update"]):
            done = fake(*flags)
            assert done.code == 2
            assert (
                done.error == f"{out} is being written by another process (pid {os.getpid()}); wait for it or stop it"
            )
    assert fake("--resume").code == 0
    assert_made(out)


def test_another_command_does_not_throw_it_away_either(stopped: Path, rectool: Command, state: Command) -> None:
    before = state(stopped)
    done = rectool("prep", "synthetic", "--users", 10, "--items", 40, "--out", stopped.with_name("x"))
    assert done.code == 2
    assert "stopped at step 2; " in done.error
    assert state(stopped) == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rate", 0.01], "rate was 0.1, is 0.01"),
        (["--seed", 1], "seed was 0, is 1"),
        (["--seed", 1, "--rate", 0.5, "--depth", 3], "seed was 0, is 1; depth was 1, is 3; rate was 0.1, is 0.5"),
    ],
)
def test_other_settings_are_not_resumed(
    flags: list[Any], said: str, stopped: Path, fake: Command, state: Command
) -> None:
    before = state(stopped)
    for more in ([], ["--dry-run"]):
        done = fake("--resume", *flags, *more)
        assert done.code == 2
        assert done.error == f"--resume: {said}; set them as they were, or start anew with --overwrite"
    assert fake("--resume", "--dry-run").code == 0
    assert state(stopped) == before
    assert fake("--resume", "--keep", 5, "--checkpoint-minutes", 1, "--max-time", "5m").code == 0


def test_another_data_set_is_not_resumed(fake: Command, rectool: Command, out: Path, tmp_path: Path) -> None:
    small = ["prep", "synthetic", "--users", 10, "--items", 40, "--quiet"]
    assert rectool(*small, "--out", tmp_path / "data").code == 0
    assert rectool(*small, "--out", tmp_path / "other", "--seed", 1).code == 0
    assert fake("--data", tmp_path / "data", "--at", "3:stop").code == 75
    for flags in (["--data", tmp_path / "other"], [], ["--dry-run"]):
        done = fake("--resume", *flags)
        assert done.error == "--resume: dataset is another one; set them as they were, or start anew with --overwrite"
    (tmp_path / "data").rename(tmp_path / "moved")
    done = fake("--resume", "--data", tmp_path / "moved", "--at", "4:stop")
    assert "goes on from step 2" in done.stderr


def test_another_number_of_processes_is_not_resumed(stopped: Path, fake: Command) -> None:
    path = stopped / "checkpoints/making.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "recipe": {**record["recipe"], "world_size": 2}}))
    assert fake("--resume").error.startswith("--resume: world_size was 2, is 1; ")


def test_there_must_be_something_to_resume(fake: Command, out: Path) -> None:
    done = fake("--resume")
    assert (done.code, done.error) == (
        2,
        f"--resume: {out} has no checkpoint to continue from; start it without --resume",
    )
    assert os.listdir(out.parent) == []
    assert fake().code == 0
    done = fake("--resume")
    assert (done.code, done.error) == (
        2,
        f"--resume: {out} is finished; --overwrite makes it anew, or choose another --out",
    )


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"recipe": 1, "seconds": 1, "began": 1, "started": ""}', '{"recipe": {}}']
)
def test_a_damaged_record_is_one_line(content: str, stopped: Path, fake: Command) -> None:
    (stopped / "checkpoints/making.json").write_text(content)
    for flags in ([], ["--resume"], ["--update"]):
        done = fake(*flags)
        assert done.code == 2
        assert re.search(rf"{stopped}/checkpoints/making.json is damaged .*; remove {stopped} to start", done.error)
    assert fake("--overwrite").code == 0


def test_a_checkpoint_that_is_damaged_gives_way_to_the_one_before(fake: Command, out: Path) -> None:
    assert fake("--at", "5:stop").code == 75
    newest = out.with_name(".x.partial") / "checkpoints/step-4"
    for name in ("state.json", "tensors.safetensors"):
        (newest / name).write_bytes(b"{")
    done = fake("--resume")
    assert f"{newest} is damaged" in done.stderr
    assert "goes on from step 2" in done.stderr
    assert_made(out)


# Overwriting and updating


def test_overwrite_starts_anew(stopped: Path, fake: Command, out: Path) -> None:
    done = fake("--overwrite", "--rate", 0.5)
    assert "goes on" not in done.stderr
    assert_made(out, rate=0.5)


def test_update_resumes_what_matches(stopped: Path, fake: Command, out: Path) -> None:
    done = fake("--update")
    assert done.code == 0
    assert "goes on from step 2" in done.stderr
    assert_made(out)
    assert "is up to date" in fake("--update").stderr


def test_update_starts_anew_what_does_not(stopped: Path, fake: Command, out: Path) -> None:
    done = fake("--update", "--rate", 0.5)
    assert done.code == 0
    assert f"{out} starts anew, not from step 2: rate was 0.1, is 0.5\n" in done.stderr
    assert "goes on" not in done.stderr
    assert_made(out, rate=0.5)


def test_update_resumes_the_replacement_of_what_stands(fake: Command, out: Path) -> None:
    assert fake().code == 0
    assert fake("--rate", 0.5, "--update", "--at", "3:stop").code == 75
    done = fake("--rate", 0.5, "--update")
    assert f"{out} is made again: rate was 0.1, is 0.5\n" in done.stderr
    assert "goes on from step 2" in done.stderr
    assert_made(out, rate=0.5)


# Flags


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--resume", "--overwrite"], "--resume and --overwrite contradict each other; give one"),
        (["--resume", "--update"], "--resume and --update contradict each other; give one"),
        (["--keep", 0], "--keep 0 must be at least 1"),
        (["--checkpoint-minutes", 0], "--checkpoint-minutes 0 must be more than 0"),
        (["--checkpoint-minutes", "nan"], "--checkpoint-minutes nan must be more than 0"),
        (["--max-time", "soon"], "--max-time soon is not a time such as 8h30m, 45m or 90s"),
    ],
)
def test_flags_that_make_no_sense_are_one_line(flags: list[Any], said: str, fake: Command, out: Path) -> None:
    done = fake(*flags)
    assert (done.code, done.error) == (2, said)
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h30m", 30600), ("90s", 90), ("2h", 7200), ("45m", 2700), ("1h1m1s", 3661), ("0h5s", 5), ("100m", 6000)],
)
def test_times(text: str, seconds: float, out: Path) -> None:
    assert Train(out=out, max_time=text).max_seconds() == seconds


@pytest.mark.parametrize("text", ["", "90", "0s", "m", "1.5h", "30m8h", "-1h", "1h 5m", "1d"])
def test_what_is_no_time(text: str, out: Path) -> None:
    with pytest.raises(RectoolError, match=r"^--max-time.* is not a time"):
        Train(out=out, max_time=text)


def test_debug_shows_no_traceback_of_a_run_that_stopped(fake: Command) -> None:
    done = fake("--at", "3:stop", "--debug")
    assert (done.code, done.error) == (75, "stopped at step 3")
