"""Where caches lie, and what several processes that want the same do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rectool.caches import cache_folder, locked


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"RECTOOL_CACHE": "/r", "XDG_CACHE_HOME": "/x"}, "/r"),
        ({"RECTOOL_CACHE": "~/r"}, "/home/me/r"),
        ({"RECTOOL_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/rectool"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/rectool"),
        ({}, "/home/me/.cache/rectool"),
    ],
)
def test_the_cache_folder(environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RECTOOL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | environment).items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)


def test_one_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with locked(tmp_path / "file", "make it"):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with locked(tmp_path / "file", "make it"):
        inside.set()
        other.join(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert capsys.readouterr().err == "waiting for another process to make it\n"
