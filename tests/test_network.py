"""Nothing is asked of the network but the downloads that a command line asks for.

Commands run in processes of their own, in which each try to reach another machine, or to find its address, is
written down and refused; without HF_HUB_OFFLINE, as users have it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.reliability.cases import CASES, with_needs, write_raw
from tests.test_cli import ROOT

WATCH = """
import os, sys

FILE, ALLOWED = os.environ["WATCHED"], os.environ["WATCH_ALLOWS"]
EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")

def watch(event, arguments):
    if event not in EVENTS:
        return
    if event == "socket.connect" and isinstance(arguments[1], str):
        return  # a socket of this machine's own, by its path
    where = arguments[0] if event.startswith("socket.get") else arguments[1]
    with open(FILE, "a") as file:
        file.write(f"{event} {where}\\n")
    if ALLOWED not in str(where):
        raise OSError(101, "Network is unreachable")

sys.addaudithook(watch)
"""
RUN_ALL = """
import json, os, sys
import accelerate, peft, transformers
from rectool import cli

for folder, words in json.loads(sys.stdin.read()):
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    sys.argv = ["rectool", *words]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{words}: {end.code}")
"""
FROM_HERE = """
import sys
from rectool import cli
from rectool.data.sources import movielens

movielens.URL = sys.argv.pop(1)
cli.main()
"""

LEFT_OUT = "adopt", "plot attention", "plot sensitivity"
"""They need models of their own, and read them as `inspect`, `eval` and the other figures do."""

Outcome = tuple[subprocess.CompletedProcess[str], list[str]]
Watched = Callable[..., Outcome]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """Run Python with these arguments; what it ended as, and whom it tried to reach."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(WATCH)
    tried = tmp_path / "tried"
    kept = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGINGFACE", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")
    }  # fmt: skip
    kept |= {"HF_HOME": str(tmp_path / "hub"), "RECTOOL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    kept |= {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT / 'src'}", "WATCHED": str(tried)}

    def run(*arguments: object, allow: str = "nowhere", stdin: str = "") -> Outcome:
        tried.write_text("")
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**kept, "WATCH_ALLOWS": allow},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=580,
        )
        return done, tried.read_text().splitlines()

    return run


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a web server on this machine, and the folder that it shows."""
    folder = tmp_path / "shown"
    folder.mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()


def test_no_command_asks_the_network(watched: Watched, tmp_path: Path) -> None:
    work = tmp_path / "work"
    write_raw(work / "raw")
    one_of_each = {case.name: name for name, case in reversed(CASES.items()) if case.name not in LEFT_OUT}
    lines = [(name, [*CASES[name].words, "--out", "x"]) for name in with_needs(list(one_of_each.values()))]
    lines.append(("eval", ["inspect", "x", "--verify"]))
    done, tried = watched("-c", RUN_ALL, stdin=json.dumps([(str(work / name), words) for name, words in lines]))
    assert done.returncode == 0, done.stderr
    assert tried == []


def test_the_watch_sees_a_model_that_is_asked_for_by_name(watched: Watched, tmp_path: Path) -> None:
    making = ["prep", "synthetic", "--users", "25", "--items", "40", "--out", "data", "--quiet"]
    asking = ["distill", "data", "--llm", "ann/tiny", "--out", "out", "--quiet"]
    done, tried = watched("-c", RUN_ALL, stdin=json.dumps([(str(tmp_path), making), (str(tmp_path), asking)]))
    assert {line.split()[0] for line in tried} == {"socket.getaddrinfo"}
    assert {line.split()[1] for line in tried} == {"huggingface.co"}
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "there is no folder ann/tiny, and the hub cannot be asked for a model of that name" in error
    assert not (tmp_path / "out").exists()


def archive(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("ratings.csv", "movies.csv"):
            file.write(path.parent.parent / "raw/movielens" / name, f"ml-latest-small/{name}")
    return path.read_bytes()


def test_a_download_that_is_asked_for_is_the_only_one_and_checked(
    watched: Watched, site: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = site
    write_raw(tmp_path / "raw")
    content = archive(folder / "ml-latest-small.zip")
    words = (url, "prep", "movielens", "--variant", "latest-small", "--out", tmp_path / "out")
    for md5, code in ((hashlib.md5(b"other").hexdigest(), 2), (hashlib.md5(content).hexdigest(), 0)):
        (folder / "ml-latest-small.zip.md5").write_text(f"MD5 (ml-latest-small.zip) = {md5}\n")
        done, tried = watched("-c", FROM_HERE, *words, allow="127.0.0.1")
        assert done.returncode == code, done.stderr
        assert (tmp_path / "out").exists() == (code == 0)
        assert all("127.0.0.1" in line for line in tried)
        assert len(tried) >= 2
    (raw,) = json.loads((tmp_path / "out/rectool.json").read_text())["parents"]
    assert raw["url"] == url + "ml-latest-small.zip"
    assert raw["digests"] == {"file": "sha256:" + hashlib.sha256(content).hexdigest()}
