"""A web server of files on 127.0.0.1, and a look at what a command has made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest


@dataclass
class Site:
    """Files by path, and the paths that were asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            content = site.files.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Made:
    """What `rectool prep` made."""

    path: Path
    outcome: Any

    def table(self, name: str) -> list[dict[str, Any]]:
        return pq.read_table(self.path / f"{name}.parquet").to_pylist()

    @property
    def items(self) -> dict[str, dict[str, Any]]:
        """The items by their raw id, without it."""
        return {item.pop("item_id"): item for item in self.table("items")}

    @property
    def users(self) -> dict[str, dict[str, Any]]:
        return {user.pop("user_id"): user for user in self.table("users")}

    @property
    def events(self) -> list[tuple[str, str, Any, int]]:
        """(raw user, raw item, rating, time), in the order of time."""
        users, items = list(self.users), list(self.items)
        rows = [
            (users[row["user"]], items[row["item"]], row["rating"], row["timestamp"])
            for row in self.table("interactions")
        ]
        return sorted(rows, key=lambda row: row[3])

    @property
    def notes(self) -> list[str]:
        return list(self.outcome.json["metrics"]["notes"])


@pytest.fixture
def prep(rectool: Any, tmp_path: Path) -> Callable[..., Made]:
    """Run `rectool prep` into a new folder."""

    def run(*arguments: object) -> Made:
        out = tmp_path / f"made-{len(list(tmp_path.glob('made-*')))}"
        outcome = rectool("prep", *arguments, "--out", out, "--json")
        assert outcome.code == 0, outcome.stderr
        return Made(out, outcome)

    return run


@pytest.fixture
def refused(rectool: Any, tmp_path: Path) -> Callable[..., str]:
    """The error line of a `rectool prep` that is refused."""

    def run(*arguments: object) -> str:
        outcome = rectool("prep", *arguments, "--out", tmp_path / "refused")
        assert outcome.code == 2, outcome.stderr
        assert not (tmp_path / "refused").exists()
        return str(outcome.error)

    return run
