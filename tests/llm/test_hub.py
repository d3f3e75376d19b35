"""Models of the hub, from one on this machine: in a process of its own, as huggingface_hub reads its settings once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from threading import Thread
from typing import Any

import pytest
from safetensors.torch import load_file

from rectool.errors import RectoolError
from rectool.llm import hub as hubs

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """A hub on this machine, as far as huggingface_hub asks it: models in memory, some of which cannot be had.

    Attributes:
        models: by name, the files of each.
        gated: names of models whose files are refused.
        breaking: models and files that break off, until ann/adapter, the last but one, is asked for.
        asked: the models and files that were asked for.
    """

    daemon_threads = True

    def __init__(self, models: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models = models
        self.gated = {"ann/gated"}
        self.breaking = {("ann/broken", "model.safetensors")}
        self.asked: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            name, _, rest = path.removeprefix("api/models/").partition("/revision/")
            self._model(name, rest)
        else:
            name, _, rest = path.partition("/resolve/")
            revision, _, file = rest.partition("/")
            self._file(name, revision, file, body=body)

    def _model(self, name: str, revision: str) -> None:
        if name not in self.server.models:
            return self._refuse(404, "RepoNotFound")
        if revision not in ("", "main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if name == "ann/adapter":
            self.server.breaking.clear()
        files = [{"rfilename": file, "size": len(content)} for file, content in self.server.models[name].items()]
        return self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode(), {})

    def _file(self, name: str, revision: str, file: str, *, body: bool) -> None:
        if name not in self.server.models:
            return self._refuse(404, "RepoNotFound")
        if name in self.server.gated:
            return self._refuse(403, "GatedRepo")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if file not in self.server.models[name]:
            return self._refuse(404, "EntryNotFound")
        content = self.server.models[name][file]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if not body:
            return self._send(b"", headers, length=len(content))
        self.server.asked.append((name, file))
        if (name, file) not in self.server.breaking:
            return self._send(content, headers)
        if "Range" not in self.headers:
            self._send(content[: len(content) // 2], headers, length=len(content))
        self.close_connection = True
        return self.connection.shutdown(SHUT_RDWR)

    def _send(self, content: bytes, headers: Mapping[str, str], length: int | None = None) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(models: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    with Hub(models) as hub:
        thread = Thread(target=hub.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


PROGRAM = """
import json, sys, time
time.sleep = lambda seconds: None  # between attempts
import torch
from pathlib import Path
from safetensors.torch import load_file

from rectool.errors import RectoolError
from rectool.llm.backbone import find

def ask(name, revision):
    try:
        found = find(name, revision=revision)
        model = found.model(device=torch.device("cpu"), dtype=torch.float32)
        parent = found.inputs()[0].parent(Path("out"), "llm")
    except RectoolError as problem:
        return {"error": str(problem)}
    return {
        "commit": found.commit, "folder": found.folder, "name": found.name, "start": list(found.tokenizer().start),
        "parents": len(found.inputs()), "parent": [parent.role, parent.kind, parent.path, dict(parent.digests)],
        "sum": model.lm_head.weight.double().sum().item(),
    }

print(json.dumps([ask(name, revision) for name, revision in json.loads(sys.argv[1])]))
"""
Answers = dict[tuple[str, str | None], dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """A hub, and what a process that asked it for models found, by name and revision, and showed."""

    hub: Hub
    home: Path
    found: Answers
    shown: str


def ask(wanted: list[tuple[str, str | None]], home: Path, endpoint: str, **settings: str) -> tuple[Answers, str]:
    own = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(wanted)],
        env={**os.environ, "HF_HUB_OFFLINE": "0", **own, **settings},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(wanted, json.loads(done.stdout), strict=True)), done.stderr


@pytest.fixture(scope="module")
def asked(tiny_llm: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    contents = {path.name: path.read_bytes() for path in tiny_llm("llama").iterdir()}
    pickled = {"config.json": contents["config.json"], "pytorch_model.bin": b""}
    models = {"ann/tiny": {**contents, "README.md": b"#", "pytorch_model.bin": b"0" * 9}, "small": contents}
    models |= {"ann/gated": contents, "ann/broken": contents, "ann/old": pickled}
    models |= {"ann/adapter": {"adapter_config.json": b"{}"}}
    wanted = [("ann/tiny", None), ("ann/tiny", "main"), ("ann/tiny", COMMIT), ("ann/tiny", "v9"), ("ann/broken", None)]
    wanted += [(name, None) for name in ("small", "ann/tine", "ann/ti ny", "ann/gated", "ann/old", "ann/adapter")]
    wanted += [("ann/broken", "main")]
    home = tmp_path_factory.mktemp("hf")
    with serving(models) as hub:
        yield Asked(hub, home, *ask(wanted, home, hub.address))


def test_a_model_is_downloaded_once_and_its_commit_recorded(asked: Asked, tiny_llm: Callable[..., Path]) -> None:
    found = asked.found["ann/tiny", None]
    weights = load_file(tiny_llm("llama") / "model.safetensors")["lm_head.weight"]
    assert found == {
        "commit": COMMIT,
        "folder": None,
        "name": "ann/tiny",
        "start": [0],
        "parents": 1,
        "parent": ["backbone", "hub", "ann/tiny", {"commit": COMMIT}],
        "sum": weights.double().sum().item(),
    }
    assert asked.found["ann/tiny", "main"] == asked.found["ann/tiny", COMMIT] == found
    files = [file for name, file in asked.hub.asked if name == "ann/tiny"]
    assert sorted(files) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_a_name_without_an_owner(asked: Asked) -> None:
    assert asked.found["small", None]["name"] == "small"


def test_nothing_is_shown_but_downloads(asked: Asked) -> None:
    assert "downloading ann/tiny: 0.3 MB" in asked.shown
    assert all(line.startswith("downloading ") for line in asked.shown.splitlines()), asked.shown


@pytest.mark.parametrize(
    ("name", "revision", "line"),
    [
        ("ann/tine", None, "there is no folder ann/tine, and no model of that name at http://127.0.0.1:"),
        ("ann/ti ny", None, "there is no folder ann/ti ny, and no model of that name at http://127.0.0.1:"),
        ("ann/gated", None, "ann/gated is gated: accept its conditions at http://127.0.0.1:"),
        ("ann/tiny", "v9", "ann/tiny has no revision v9; "),
        ("ann/old", None, "ann/old has only pickled weights (pytorch_model.bin)"),
        ("ann/adapter", None, "ann/adapter is an adapter, not a whole language model"),
        ("ann/broken", None, "the download of ann/broken broke off ("),
    ],
)
def test_a_model_that_cannot_be_had(asked: Asked, name: str, revision: str | None, line: str) -> None:
    assert asked.found[name, revision]["error"].startswith(line)


def test_a_download_that_broke_off_goes_on(asked: Asked) -> None:
    said = asked.found["ann/broken", None]["error"]
    assert said.endswith("run the same command again: the files that came whole are kept")
    assert asked.found["ann/broken", "main"]["commit"] == COMMIT
    files = [file for name, file in asked.hub.asked if name == "ann/broken"]
    assert files.count("config.json") == files.count("tokenizer.json") == 1


@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_without_an_answer_the_cache_is_asked(asked: Asked, how: str) -> None:
    wanted = [("ann/tiny", None), ("ann/none", None), ("ann/tiny", "v9")]
    if how == "offline":
        found, shown = ask(wanted, asked.home, asked.hub.address, HF_HUB_OFFLINE="1")
        assert not shown
        reason = "HF_HUB_OFFLINE is set"
    else:
        found, shown = ask(wanted, asked.home, "http://127.0.0.1:1")
        assert shown == f"ann/tiny: the hub does not answer; taking commit {COMMIT[:12]} from the cache\n"
        reason = "[Errno 111] Connection refused"
    assert found["ann/tiny", None] == asked.found["ann/tiny", None]
    for name, revision in (("ann/none", None), ("ann/tiny", "v9")):
        line = (
            f"there is no folder {name}, and the hub cannot be asked for a model of that name ({reason}); none is in "
        )
        assert found[name, revision]["error"].startswith(line)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> hubs.HubModel:
    monkeypatch.setattr(hubs.constants, "HF_HUB_CACHE", "/hf/cache")
    return hubs.HubModel("ann/tiny", COMMIT, {"model.safetensors": 10**18, "config.json": 2})


def test_a_model_that_is_larger_than_the_disk(model: hubs.HubModel) -> None:
    with pytest.raises(
        RectoolError, match=r"disk of /hf/cache is too full for ann/tiny; .*HF_HOME.* 1,000,000,000.0 GB"
    ):
        model.fetch(["model.safetensors"])


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "the disk of /hf/cache is too full for ann/tiny; free some space, or let HF_HOME name a folder"),
        (errno.EACCES, "/hf/cache cannot be written .*; let HF_HOME name a folder that can"),
    ],
)
def test_a_disk_that_refuses(model: hubs.HubModel, monkeypatch: pytest.MonkeyPatch, number: int, line: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), "/hf/cache/blob")

    monkeypatch.setattr(hubs, "hf_hub_download", refuse)
    with pytest.raises(RectoolError, match=line):
        model.fetch(["config.json"])
