"""Writing as a whole: kills and errors at every system call, at random moments, and full disks."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rectool.artifacts import Making, folder, open_artifact, write
from rectool.artifacts.artifact import is_whole
from rectool.errors import RectoolError

OLD, NEW = 1, 2
KILL_POINTS = Path(__file__).parents[1] / "reliability/kill_points.py"
HOLD = """
import sys
from pathlib import Path
from rectool.artifacts import folder
with folder.lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.readline()
"""


def broken_at_every_call(scenario: str) -> tuple[int, set[int]]:
    """How many calls were broken, and which versions were left (0: none)."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a kill loses nothing there, and it is fast
    with tempfile.TemporaryDirectory(dir=memory) as parent:
        done = subprocess.run(
            [sys.executable, KILL_POINTS, scenario, Path(parent, "work")], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return result["points"], set(result["left"])


@pytest.mark.parametrize(
    ("scenario", "versions", "least"),
    [
        ("replace", {OLD, NEW}, 30),
        ("first", {0, NEW}, 25),
        ("empty", {0, NEW}, 25),
        ("unwind", {OLD, NEW}, 30),
        ("reader", {NEW}, 40),
        ("trained-replace", {OLD, NEW}, 40),
        ("trained-first", {0, NEW}, 35),
        ("resumed-replace", {OLD, NEW}, 40),
        ("resumed-first", {0, NEW}, 35),
    ],
)
def test_a_kill_at_any_call_leaves_the_old_or_the_new_one(scenario: str, versions: set[int], least: int) -> None:
    points, left = broken_at_every_call(scenario)

    assert points >= least
    assert left == versions


@pytest.mark.parametrize("scenario", ["full", "trained-full", "resumed-full"])
def test_a_disk_that_is_full_at_any_call_leaves_the_old_or_the_new_one(scenario: str) -> None:
    points, left = broken_at_every_call(scenario)

    assert points >= 20
    assert left == {OLD, NEW}


def test_kills_of_the_command_at_random_moments(tmp_path: Path, whole: Callable[..., Any]) -> None:
    def command(seed: int) -> list[str]:
        options = f"--users 60 --items 60 --seed {seed} --overwrite --quiet --out {tmp_path / 'x'}"
        return [sys.executable, "-m", "rectool", "prep", "synthetic", *options.split()]

    choose = random.Random(7)
    subprocess.run(command(0), check=True)
    stands, killed = 0, 0
    for seed in range(1, 8):
        process = subprocess.Popen(command(seed))
        while process.poll() is None and not folder.partial_of(tmp_path / "x").exists():
            time.sleep(0.002)
        time.sleep(choose.uniform(0, 0.4))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        artifact = whole(tmp_path / "x")
        assert artifact.manifest.seed in (stands, seed)
        stands = artifact.manifest.seed
    assert killed >= 1
    subprocess.run(command(99), check=True)
    assert whole(tmp_path / "x").manifest.seed == 99
    assert os.listdir(tmp_path) == ["x"]


def test_a_second_writer_is_refused_until_the_first_is_dead(tmp_path: Path, rectool: Callable[..., Any]) -> None:
    out = tmp_path / "x"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == "locked\n"
        refused = rectool("prep", "synthetic", "--users", 10, "--items", 40, "--out", out)
        holder.kill()
        holder.wait()
    assert refused.code == 2
    assert refused.error == f"{out} is being written by another process (pid {holder.pid}); wait for it or stop it"
    assert os.listdir(tmp_path) == [".x.lock"]  # the dead do not clean up

    assert rectool("prep", "synthetic", "--users", 10, "--items", 40, "--out", out).code == 0
    assert os.listdir(tmp_path) == ["x"]


def test_a_lock_that_is_given_back_can_be_had_again(tmp_path: Path) -> None:
    for _ in range(2):
        with folder.lock(tmp_path / "x"):
            with pytest.raises(folder.Busy), folder.lock(tmp_path / "x"):
                pass
            assert (tmp_path / ".x.lock").read_text() == str(os.getpid())
    assert os.listdir(tmp_path) == []


def test_what_went_wrong_is_told_though_the_lock_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with (
        monkeypatch.context() as patched,
        pytest.raises(RectoolError, match=r"^the first$"),
        folder.lock(tmp_path / "x"),
    ):
        patched.setattr(os, "unlink", refuse)
        raise RectoolError("the first")
    assert os.listdir(tmp_path) == [".x.lock"]
    folder.refuse_busy(tmp_path / "x")  # it is nobody's
    with folder.lock(tmp_path / "x"), pytest.raises(folder.Busy, match=rf"\(pid {os.getpid()}\)"):
        folder.refuse_busy(tmp_path / "x")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def cut_short(workshop: Any) -> Path:
    """A swap that was cut short: the old one set aside, the new one whole, neither in its place."""
    workshop.dataset("x", seed=NEW).rename(workshop.root / ".x.partial")
    workshop.dataset("y", seed=OLD).rename(workshop.root / ".x.old")
    return Path(workshop.root / "x")


def test_a_reader_finishes_a_swap_with_a_whole_new_one(cut_short: Path, whole: Callable[..., Any]) -> None:
    assert whole(cut_short).manifest.seed == NEW
    assert os.listdir(cut_short.parent) == ["x"]


def test_a_reader_undoes_a_swap_without_a_whole_new_one(cut_short: Path, whole: Callable[..., Any]) -> None:
    (folder.partial_of(cut_short) / "rectool.json").unlink()

    assert whole(cut_short).manifest.seed == OLD
    assert sorted(os.listdir(cut_short.parent)) == [".x.partial", "x"]  # the next writer's to remove


def test_a_reader_removes_what_was_replaced(cut_short: Path, whole: Callable[..., Any]) -> None:
    folder.partial_of(cut_short).rename(cut_short)
    (folder.old_of(cut_short) / "rectool.json").unlink()  # its removal had begun

    assert whole(cut_short).manifest.seed == NEW
    assert os.listdir(cut_short.parent) == ["x"]


def test_a_swap_is_finished_through_a_link_and_from_inside(
    cut_short: Path, whole: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, workshop: Any
) -> None:
    link = workshop.root / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(cut_short)
    assert whole(link).manifest.seed == NEW

    monkeypatch.chdir(cut_short)
    assert whole(Path(".")).manifest.seed == NEW


def test_a_swap_is_finished_where_the_artifact_is_a_parent(workshop: Any) -> None:
    child = workshop.child("child", "semantic", workshop.dataset("x"))
    (workshop.root / "x").rename(workshop.root / ".x.old")

    assert open_artifact(child).parent("dataset").path == workshop.root / "child" / "../x"
    assert sorted(os.listdir(workshop.root)) == ["child", "x"]


def test_every_command_finishes_a_swap(cut_short: Path, rectool: Callable[..., Any]) -> None:
    assert rectool("inspect", cut_short, "--verify").code == 0
    assert os.listdir(cut_short.parent) == ["x"]


def test_a_reader_waits_for_a_writer_that_swaps(cut_short: Path, whole: Callable[..., Any]) -> None:
    swapped = threading.Event()

    def swap() -> None:
        with folder.lock(cut_short):
            locked.set()
            time.sleep(0.2)
            folder.settle_locked(cut_short, is_whole)
            swapped.set()

    locked = threading.Event()
    writer = threading.Thread(target=swap)
    writer.start()
    locked.wait()
    artifact = whole(cut_short)
    assert swapped.is_set()
    assert artifact.manifest.seed == NEW
    writer.join()


def test_a_reader_does_not_wait_for_ever(cut_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "SETTLE_SECONDS", 0.1)
    with folder.lock(cut_short), pytest.raises(RectoolError, match="is being replaced by another process"):
        open_artifact(cut_short)
    assert open_artifact(cut_short).manifest.seed == NEW


def test_a_reader_that_may_not_finish_a_swap_says_where_the_old_one_is(
    cut_short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folder, "_acquire", refuse)
    with pytest.raises(RectoolError, match=r"was cut short and cannot be finished .* read .*\.x\.old instead"):
        open_artifact(cut_short)
    folder.partial_of(cut_short).rename(cut_short)
    assert open_artifact(cut_short).manifest.seed == NEW  # only the removal of the old one is left to do


def test_an_error_while_writing_leaves_nothing(workshop: Any, whole: Callable[..., Any]) -> None:
    out = workshop.dataset("x", seed=OLD)
    making = Making(["rectool"], {}, NEW, [])
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), write(out, "dataset", making, replace=True) as draft:
            workshop.fill_dataset(draft.path)
            raise error
        assert os.listdir(workshop.root) == ["x"]
        assert whole(out).manifest.seed == OLD


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_amid_what_is_put_in_order_after_an_error_leaves_nothing(
    number: signal.Signals, workshop: Any, whole: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a second Ctrl-C, or a launcher's SIGTERM because another process has ended."""
    out = workshop.dataset("x", seed=OLD)
    seen: list[int] = []
    discard = folder.discard_partial

    def disturbed(*arguments: Any) -> None:
        if folder.partial_of(out).exists():
            signal.raise_signal(number)
        discard(*arguments)

    monkeypatch.setattr(folder, "discard_partial", disturbed)
    before = signal.signal(number, lambda number, _: seen.append(number))
    try:
        with (
            pytest.raises(ValueError, match="first"),
            write(out, "dataset", Making(["rectool"], {}, NEW, []), replace=True),
        ):
            raise ValueError("first")
        assert seen == []
        signal.raise_signal(number)
        assert seen == [number], "only there"
    finally:
        signal.signal(number, before)
    assert os.listdir(workshop.root) == ["x"]
    assert whole(out).manifest.seed == OLD


def test_an_incomplete_artifact_is_not_put_in_place(workshop: Any, whole: Callable[..., Any]) -> None:
    out = workshop.dataset("x", seed=OLD)
    with (
        pytest.raises(RectoolError, match=r"users\.parquet is missing"),
        write(out, "dataset", Making(["rectool"], {}, NEW, []), replace=True) as draft,
    ):
        workshop.fill_dataset(draft.path)
        (draft.path / "users.parquet").unlink()
    assert os.listdir(workshop.root) == ["x"]
    assert whole(out).manifest.seed == OLD


@pytest.mark.parametrize(
    ("call", "number", "message"),
    [
        ("mkdir", errno.ENOSPC, "the disk of {out} is full; free some space"),
        ("write", errno.ENOSPC, "the disk of {out} is full; free some space"),
        ("fsync", errno.EDQUOT, "the disk of {out} is full; free some space"),
        ("rename", errno.ENOSPC, "the disk of {out} is full; free some space"),
        ("mkdir", errno.EROFS, "{out}: Read-only file system; choose another --out"),
        ("rename", errno.EACCES, "{out}: Permission denied; choose another --out"),
        ("fsync", errno.EIO, "Input/output error"),
    ],
)
def test_what_the_disk_refuses_is_one_line(
    call: str,
    number: int,
    message: str,
    workshop: Any,
    rectool: Callable[..., Any],
    whole: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = workshop.dataset("x", seed=OLD)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        done = rectool("prep", "synthetic", "--users", 10, "--items", 40, "--out", out, "--overwrite", "--quiet")

    assert done.code == 2
    assert message.format(out=out) in done.error
    assert done.stderr.count("\n") == 1
    assert whole(out).manifest.seed == OLD
    assert os.listdir(workshop.root) == ["x"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=300k", "none", disk], capture_output=True)
    if not done or done.returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_really_full(
    small_disk: Path, tmp_path: Path, rectool: Callable[..., Any], whole: Callable[..., Any]
) -> None:
    def prep(out: Path, users: int, *more: object) -> Any:
        return rectool("prep", "synthetic", "--users", users, "--items", 60, "--out", out, "--quiet", *more)

    out = small_disk / "x"
    assert prep(out, 10, "--temp-dir", tmp_path / "scratch").code == 0
    before = whole(out).manifest

    beside = prep(out, 3000, "--overwrite")
    away = prep(out, 8000, "--overwrite", "--temp-dir", tmp_path / "scratch")
    first = prep(small_disk / "y", 8000, "--temp-dir", tmp_path / "scratch")

    for done in (beside, away, first):
        assert done.code == 2
        assert "is full; free some space" in done.error
        assert done.stderr.count("\n") == 1
    assert os.listdir(small_disk) == ["x"]
    assert os.listdir(tmp_path / "scratch") == []
    assert whole(out).manifest == before


def test_a_disk_that_is_read_only(
    small_disk: Path, workshop: Any, rectool: Callable[..., Any], whole: Callable[..., Any]
) -> None:
    shutil.copytree(workshop.dataset("x"), small_disk / "x")
    assert subprocess.run(["mount", "-o", "remount,ro", small_disk]).returncode == 0

    whole(small_disk / "x")
    assert rectool("inspect", small_disk / "x", "--verify").code == 0
    done = rectool("prep", "synthetic", "--out", small_disk / "x", "--overwrite")
    assert done.code == 2
    assert done.error == f"{small_disk / 'x'}: Read-only file system; choose another --out"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path, rectool: Callable[..., Any]) -> None:
    tmp_path.chmod(0o555)
    done = rectool("prep", "synthetic", "--out", tmp_path / "x")
    tmp_path.chmod(0o755)
    assert done.code == 2
    assert done.error == f"{tmp_path / 'x'} cannot be written: Permission denied; choose another --out"


def test_a_temp_dir_that_cannot_be(tmp_path: Path, rectool: Callable[..., Any]) -> None:
    (tmp_path / "file").write_text("")
    done = rectool("prep", "synthetic", "--out", tmp_path / "x", "--temp-dir", tmp_path / "file")
    assert done.code == 2
    assert done.error == f"--temp-dir {tmp_path / 'file'} cannot be written: File exists"
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_reader_beside_a_live_writer_always_sees_a_whole_artifact(workshop: Any) -> None:
    out = workshop.dataset("x")
    done = threading.Event()
    seen, failed = set(), []

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(open_artifact(out, verify=True).manifest.seed)
            except RectoolError as problem:
                failed.append(str(problem))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        for seed in range(1, 60):
            workshop.dataset("x", replace=True, seed=seed, titles=["A", "B", "Z" * seed])
            time.sleep(0.02)  # a reader begins again when it has been overtaken, so let it come to an end at times
    finally:
        done.set()
        reader.join(timeout=30)
    assert failed == []
    assert len(seen) > 2
