"""Break the writing of an artifact at each of its system calls in turn, and see what is left.

Run by test_folder.py as `kill_points.py SCENARIO FOLDER`; prints what was found as JSON. The calls
that change the disk are counted. In the N-th run the N-th call kills its process (half done, where
half a call is possible) or fails with ENOSPC, for N = 1, 2, ... until a run survives.

Scenarios: `replace` (an old artifact stands there), `first` (nothing does), `empty` (an empty folder
does), `reader` (a killed swap is finished by a reader that is killed, too), `unwind` (the swap's second
rename fails, and what cleans up after that is killed), `full` (calls fail, nothing is killed);
`trained-` the same for a draft with a checkpoint, which can be resumed; `resumed-` for one that is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from breaking import Breaking

from rectool.artifacts import Draft, Making, digests, folder, open_artifact, schemas, unfinished, write
from rectool.artifacts.artifact import is_whole
from rectool.errors import RectoolError, Stopped

OLD, NEW, NEXT, STOPPED = 1, 2, 3, 4
Maker = Callable[[Path, int], None]


def contents(version: int) -> dict[str, bytes]:
    """The files of a tiny data set, another one for each version."""
    rows = 3 * version
    tables = {
        "interactions": pa.table(
            [[0] * rows, list(range(rows)), list(range(rows)), [4.0] * rows, [1] * rows, ["train"] * rows],
            schema=schemas.INTERACTIONS,
        ),
        "items": pa.table(
            [[str(i) for i in range(rows)], [f"{version}/{i}" for i in range(rows)], [None] * rows],
            schema=schemas.ITEMS,
        ),
        "users": pa.table([["u"]], schema=schemas.USERS),
    }
    files = {}
    for name, table in tables.items():
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        files[f"{name}.parquet"] = sink.getvalue().to_pybytes()
    return files


def make(out: Path, version: int) -> None:
    making = Making(["rectool", "prep"], {}, version, [])
    with write(out, "dataset", making, replace=True) as draft:
        fill(draft, version)


def train(out: Path, version: int) -> None:
    """Make an artifact with a checkpoint on the way; go on from the one that an earlier run left."""
    resume = unfinished.find(out) is not None
    making = Making(["rectool", "train"], {}, version, [])
    with write(out, "dataset", making, replace=not resume, resumable=True, resume=resume) as draft:
        save(draft.checkpoints)
        if version == STOPPED:
            raise Stopped("stopped")
        fill(draft, version)


def save(directory: Path) -> None:
    """One more checkpoint."""
    path = directory / f"step-{len(unfinished.checkpoints(directory)) + 1}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    put(path / "tensors.safetensors", b"x" * 100)
    folder.write_durably(path / "state.json", '{"saved": 0}')


def fill(draft: Draft, version: int) -> None:
    put(draft.scratch / "spill", b"x" * 100)
    for name, content in contents(version).items():
        put(draft.path / name, content)
    draft.digests.update(digests.of_dataset(draft.path))


def put(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(descriptor, content)
    os.close(descriptor)


def found(out: Path) -> int:
    """The version that stands at `out`, every byte of it checked."""
    artifact = open_artifact(out, verify=True)
    version = artifact.manifest.seed
    on_disk = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "rectool.json"}
    assert on_disk == contents(version), f"{out} says version {version}, but holds something else"
    return version


def in_child(work: Callable[[], None]) -> bool:
    """Do work in a process of its own; whether it survived. Any other end than a kill is an error."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as problem:
            os.write(2, f"{type(problem).__name__}: {problem}\n".encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def broken_write(out: Path, at: int, maker: Maker, *, unwind: bool = False) -> Callable[[], None]:
    def work() -> None:
        with Breaking(at, kill=True, fail_second_rename=unwind):
            try:
                maker(out, NEW)
            except RectoolError:
                if not unwind:
                    raise

    return work


def kills(
    parent: Path, prepare: Callable[[Path], None], maker: Maker = make, *, unwind: bool = False
) -> Iterator[Path]:
    """Folders in which each call of the writing of `x` was the last, and at the end one that survived."""
    survived, at = False, 0
    while not survived:
        at += 1
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir()
        prepare(parent / "x")
        survived = in_child(broken_write(parent / "x", at, maker, unwind=unwind))
        yield parent / "x"


def standing(out: Path) -> int:
    """The version that a reader finds, 0 for none."""
    is_there = folder.is_cut_short(out, is_whole) or (out.exists() and any(out.iterdir()))
    return found(out) if is_there else 0


def examine(out: Path, allowed: set[int]) -> int:
    """The version that is left (0 for none); then another write must succeed and leave nothing behind."""
    left = standing(out)
    assert left in allowed, f"version {left} is left, allowed are {allowed}"
    make(out, NEXT)
    assert found(out) == NEXT
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return left


def killed_writer(parent: Path, prepare: Callable[[Path], None], before: int, *, unwind: bool = False) -> list[int]:
    left = []
    for out in kills(parent, prepare, unwind=unwind):
        untouched = parent.with_name("copy")
        shutil.rmtree(untouched, ignore_errors=True)
        shutil.copytree(parent, untouched)
        make(untouched / "x", NEXT)  # the next one to come is a writer, no reader
        assert found(untouched / "x") == NEXT
        assert [path.name for path in untouched.iterdir()] == ["x"]
        left.append(examine(out, {before, NEW}))
    return left


def killed_reader(parent: Path) -> list[int]:
    left = []
    for out in kills(parent, lambda out: make(out, OLD)):
        if not folder.old_of(out).exists():
            continue
        state = parent.with_name("state")
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(parent, state)
        survived, at = False, 0
        while not survived:
            at += 1
            shutil.rmtree(parent)
            shutil.copytree(state, parent)

            def read(at: int = at, out: Path = out) -> None:
                with Breaking(at, kill=True):
                    open_artifact(out)

            survived = in_child(read)
            left.append(examine(out, {OLD, NEW}))
    return left


def full_disk(parent: Path) -> list[int]:
    left = []
    failed, at = True, 0
    while failed:
        at += 1
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir()
        out = parent / "x"
        make(out, OLD)
        said = ""
        with Breaking(at, kill=False) as breaking:
            try:
                make(out, NEW)
            except RectoolError as problem:
                said = str(problem)
        if said:
            assert said.startswith(f"the disk of {out} is full"), said
        allowed = {OLD, NEW} if said else {NEW}  # or it did not matter: a folder to make that is there
        failed = bool(breaking.broken)
        left.append(examine(out, allowed))
    return left


def stop(out: Path) -> None:
    """Leave a run that can be resumed on its way to `out`."""
    with contextlib.suppress(Stopped):
        train(out, STOPPED)
    record = out.parent / ".x.partial/checkpoints/making.json"
    record.write_text(record.read_text().replace(f'"seed": {STOPPED}', f'"seed": {NEW}'))


def finish(out: Path, before: int, *, resumed: bool) -> int:
    """The version that is left; then the run must come to its end, from its checkpoint if it had one."""
    left = standing(out)
    assert left in (before, NEW), f"version {left} is left, allowed are {before} and {NEW}"
    is_done = left == NEW or is_whole(folder.partial_of(out))
    earlier = unfinished.find(out)
    assert is_done or earlier is not None or not resumed, "what was done is lost"
    if is_done:
        folder.settle(out, is_whole, replace=True)
    else:
        train(out, NEW)
    assert found(out) == NEW
    run = open_artifact(out).manifest.run
    assert run["wall_seconds"] < 60
    if resumed and not is_done:
        assert earlier is not None
        assert run["started"] == earlier.started
    make(out, NEXT)
    assert found(out) == NEXT
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return left


def killed_training(parent: Path, before: int, *, resumed: bool) -> list[int]:
    return [
        finish(out, before, resumed=resumed) for out in kills(parent, lambda out: begin(out, before, resumed), train)
    ]


def full_training(parent: Path, *, resumed: bool) -> list[int]:
    left = []
    failed, at = True, 0
    while failed:
        at += 1
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir()
        begin(parent / "x", OLD, resumed)
        with Breaking(at, kill=False) as breaking, contextlib.suppress(RectoolError):
            train(parent / "x", NEW)
        failed = bool(breaking.broken)
        left.append(finish(parent / "x", OLD, resumed=resumed))
    return left


def begin(out: Path, before: int, resumed: bool) -> None:
    if before:
        make(out, before)
    if resumed:
        stop(out)


def main(scenario: str, parent: Path) -> None:
    def put_old(out: Path) -> None:
        make(out, OLD)

    left = {
        "replace": lambda: killed_writer(parent, put_old, OLD),
        "first": lambda: killed_writer(parent, lambda out: None, 0),
        "empty": lambda: killed_writer(parent, lambda out: out.mkdir(), 0),
        "unwind": lambda: killed_writer(parent, put_old, OLD, unwind=True),
        "reader": lambda: killed_reader(parent),
        "full": lambda: full_disk(parent),
        "trained-replace": lambda: killed_training(parent, OLD, resumed=False),
        "trained-first": lambda: killed_training(parent, 0, resumed=False),
        "trained-full": lambda: full_training(parent, resumed=False),
        "resumed-replace": lambda: killed_training(parent, OLD, resumed=True),
        "resumed-first": lambda: killed_training(parent, 0, resumed=True),
        "resumed-full": lambda: full_training(parent, resumed=True),
    }[scenario]()
    sys.stdout.write(json.dumps({"points": len(left) - 1, "left": left}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
