"""Raw files, and what they were before a command that must not touch them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

RATINGS = """user_id,item_id,timestamp,rating
ann,a,10,5
ann,b,20,2
bob,a,30,4
bob,c,40,1
cat,b,50,3
cat,c,60,5
ann,c,70,4
bob,b,80,5
"""
ITEMS = "item_id,title\na,Alien\nb,Heat\nc,Up\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with ratings.csv and items.csv."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "ratings.csv").write_text(RATINGS)
    (folder / "items.csv").write_text(ITEMS)
    return folder


@pytest.fixture
def state() -> Callable[[Path], dict[str, tuple[int, int, bytes]]]:
    """All that is under a folder: inode, time and bytes of each file, by its path."""

    def look(folder: Path) -> dict[str, tuple[int, int, bytes]]:
        found = {}
        for parent, folders, names in os.walk(folder):
            for name in (*folders, *names):
                path = Path(parent, name)
                status = path.lstat()
                content = path.read_bytes() if path.is_file() else b""
                found[str(path)] = (status.st_ino, status.st_mtime_ns, content)
        return found

    return look


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let work with a language model stop after so many tokens."""
    from rectool.llm import pieces

    def cut(tokens: int) -> None:
        monkeypatch.setitem(pieces.OPERATIONS, "cpu", 0)
        monkeypatch.setattr(pieces, "LEAST_TOKENS", tokens)

    return cut


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of a file keep what they make once."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def shelved(rectool: Callable[..., Any], shelf: Path) -> Callable[[Mapping[str, Sequence[object]]], dict[str, Path]]:
    """What command lines make, each once for the tests of a file: `shelved({"mf": ("train-cf", data)})["mf"]`."""

    def make(lines: Mapping[str, Sequence[object]]) -> dict[str, Path]:
        for name, words in lines.items():
            if not (shelf / name).exists():
                done = rectool(*words, "--quiet", "--out", shelf / name)
                assert done.code == 0, done.stderr
        return {name: shelf / name for name in lines}

    return make


@pytest.fixture
def weights_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test fails if a language model's weights are read."""
    from rectool.llm.backbone import Backbone

    monkeypatch.setattr(Backbone, "model", lambda *_, **__: pytest.fail("weights are read"))


@pytest.fixture
def data(rectool: Callable[..., Any], shelf: Path) -> Path:
    """A data set with 89 labelled test rows, made once for the tests of a file."""
    out = shelf / "data"
    if not out.exists():
        assert rectool("prep", "synthetic", "--users", 60, "--items", 60, "--quiet", "--out", out).code == 0
    return out


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Signals to come in the middle of steps, by step."""
    from rectool.training.loop import _Loop

    planned: dict[int, int] = {}
    real = _Loop._backward

    def backward(loop: _Loop, *arguments: Any) -> Any:
        if loop.at.step + 1 in planned:
            signal.raise_signal(planned[loop.at.step + 1])
        return real(loop, *arguments)

    monkeypatch.setattr(_Loop, "_backward", backward)
    return planned


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The same bits everywhere, and no waiting for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
