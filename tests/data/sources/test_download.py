"""`fetch` against a real server on 127.0.0.1 that misbehaves in the ways servers do."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import pytest

from rectool.data.sources import download
from rectool.data.sources.download import fetch, fetch_text
from rectool.errors import RectoolError

FIRST = bytes(range(256)) * 2000
SECOND = FIRST[::-1]
HALF = len(FIRST) // 2


def md5(content: bytes) -> str:
    return "md5:" + hashlib.md5(content).hexdigest()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class Site:
    """One file on a server.

    `plan` says how each request in turn is answered; what comes after is served well. "cut" sends half of
    what it promises, "swap" as well, and then the file changes; "chunked" cuts a body of unsaid length,
    "whole" knows no Range, "careless" no If-Range, "astray" redirects to the disk; a number is a status.
    """

    url: str = ""
    content: bytes = FIRST
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"first"'})
    plan: list[str] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)

    @property
    def ranges(self) -> list[str | None]:
        return [request.get("Range") for request in self.asked]


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.asked.append(dict(self.headers.items()))
            how = site.plan.pop(0) if site.plan else "well"
            if how.isdecimal():
                self.send_error(int(how))
            elif how == "astray":
                self.answer(302, {"Location": "file:///etc/hostname"}, b"")
            elif how == "chunked":
                chunk = f"{HALF:x}\r\n".encode() + site.content[:HALF] + b"\r\n"
                self.answer(200, {"Transfer-Encoding": "chunked"}, chunk)
            else:
                self.serve(how)

        def serve(self, how: str) -> None:
            content, headers = site.content, dict(site.headers)
            same = how == "careless" or self.headers.get("If-Range") in headers.values()
            start = 0
            if "Range" in self.headers and same and how != "whole":
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            body = content[start:]
            headers["Content-Length"] = str(len(body))
            if how == "swap":
                site.content, site.headers = SECOND, {"ETag": '"second"'}
            sent = len(body) // 2 if how in ("cut", "swap") else len(body)
            self.answer(206 if start else 200, headers, body[:sent])

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 10.0)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(site)) as server:
        site.url = f"http://127.0.0.1:{server.server_port}/data.zip"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data.zip"


def leftovers(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {target.name, target.name + ".lock"}


@pytest.mark.parametrize("checksum", [None, md5(FIRST), sha256(FIRST).upper().replace("SHA", "sha")])
def test_a_file_arrives_and_leaves_nothing_beside_it(site: Site, target: Path, checksum: str | None) -> None:
    assert fetch(site.url, target, checksum=checksum) == target
    assert target.read_bytes() == FIRST
    assert leftovers(target) == set()
    assert site.asked[0]["User-Agent"].startswith("rectool/")


@pytest.mark.parametrize("checksum", [None, md5(SECOND)])
def test_a_file_that_is_there_is_used(
    site: Site, target: Path, checksum: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    target.parent.mkdir()
    target.write_bytes(SECOND)
    fetch(site.url, target, checksum=checksum)
    assert target.read_bytes() == SECOND
    assert site.asked == []
    assert capsys.readouterr().err == f"using {target}\n"


def test_a_file_of_another_checksum_is_replaced(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(SECOND)
    fetch(site.url, target, checksum=md5(FIRST))
    assert target.read_bytes() == FIRST


@pytest.mark.parametrize("headers", [{"ETag": '"a"'}, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
def test_cut_bodies_are_gone_on_from(site: Site, target: Path, headers: dict[str, str]) -> None:
    site.headers, site.plan = headers, ["cut", "cut"]
    fetch(site.url, target, checksum=md5(FIRST))
    assert site.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]
    assert [request.get("If-Range") for request in site.asked[1:]] == [*headers.values()] * 2


def test_a_later_call_goes_on_from_an_earlier_one(site: Site, target: Path) -> None:
    site.plan = ["cut"]
    with pytest.raises(RectoolError, match=r"ended 256,000 bytes early \(attempt 1 of 1\)"):
        fetch(site.url, target, attempts=1)
    assert not target.exists()
    fetch(site.url, target)
    assert site.ranges == [None, f"bytes={HALF}-"]
    assert target.read_bytes() == FIRST
    assert leftovers(target) == set()


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_sure_version_it_starts_again(site: Site, target: Path, headers: dict[str, str]) -> None:
    site.headers, site.plan = headers, ["cut"]
    fetch(site.url, target)
    assert site.ranges == [None, None]
    assert target.read_bytes() == FIRST


def test_what_another_url_gave_is_not_gone_on_from(site: Site, target: Path) -> None:
    site.plan = ["cut"]
    with pytest.raises(RectoolError):
        fetch(site.url, target, attempts=1)
    fetch(site.url + "?mirror", target)
    assert site.ranges == [None, None]
    assert target.read_bytes() == FIRST


@pytest.mark.parametrize(("refusal", "after"), [("whole", []), ("416", [None])])
def test_a_refused_range_starts_again(site: Site, target: Path, refusal: str, after: list[None]) -> None:
    site.plan = ["cut", refusal]
    fetch(site.url, target)
    assert target.read_bytes() == FIRST
    assert site.ranges == [None, f"bytes={HALF}-", *after]


@pytest.mark.parametrize("plan", [["swap"], ["swap", "careless"]])
def test_two_versions_are_never_mixed(site: Site, target: Path, plan: list[str]) -> None:
    site.plan = plan
    fetch(site.url, target)
    assert target.read_bytes() == SECOND
    assert site.ranges[1] == f"bytes={HALF}-"


def test_a_whole_part_is_not_asked_again(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*paths: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(site.url, target)
    fetch(site.url, target)
    assert len(site.asked) == 1
    assert target.read_bytes() == FIRST


@pytest.mark.parametrize("plan", [["503", "503"], ["429"], ["500", "cut", "408"], ["chunked"]])
def test_what_may_pass_is_tried_again(
    site: Site, target: Path, plan: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    site.plan = list(plan)
    fetch(site.url, target)
    assert target.read_bytes() == FIRST
    assert len(site.asked) == len(plan) + 1
    assert capsys.readouterr().err.count("trying again") == len(plan)


def test_waits_double(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 1.0)
    monkeypatch.setattr("time.sleep", waits.append)
    site.plan = ["503"] * 4
    fetch(site.url, target)
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_it_gives_up_after_the_attempts(site: Site, target: Path) -> None:
    site.plan = ["503"] * 9
    with pytest.raises(RectoolError, match=r"data\.zip: HTTP 503 .*attempt 3 of 3.*pass --source"):
        fetch(site.url, target, attempts=3)
    assert len(site.asked) == 3


@pytest.mark.parametrize("status", ["404", "403"])
def test_what_will_not_pass_fails_at_once(site: Site, target: Path, status: str) -> None:
    site.plan = [status]
    with pytest.raises(RectoolError, match=rf"{site.url} answers HTTP {status} .*pass --source"):
        fetch(site.url, target)
    assert len(site.asked) == 1


def test_a_wrong_checksum_leaves_no_file(site: Site, target: Path) -> None:
    with pytest.raises(RectoolError) as raised:
        fetch(site.url, target, checksum=md5(SECOND))
    for part in (site.url, str(target), md5(FIRST), md5(SECOND), "--source"):
        assert part in str(raised.value)
    assert not target.exists()
    assert leftovers(target) == set()


def test_a_checksum_of_an_unknown_kind_is_refused(site: Site, target: Path) -> None:
    with pytest.raises(RectoolError, match="neither md5 nor sha256"):
        fetch(site.url, target, checksum="<html>")
    assert site.asked == []


def test_a_full_disk_is_one_line(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = Path.open

    def open_full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> IO[Any]:
        return really_open(Path("/dev/full") if mode == "ab" else path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(RectoolError, match=rf"the disk of {target} is full"):
        fetch(site.url, target)
    assert len(site.asked) == 1


def test_a_folder_that_cannot_be_made_is_one_line(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RectoolError, match=r"file.*: (Not a directory|File exists)"):
        fetch(site.url, tmp_path / "file" / "data.zip")


def test_offline_names_the_url_and_the_way_out(target: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/data.zip"
        with pytest.raises(RectoolError, match=rf"cannot download {url}: Connection refused .*pass --source"):
            fetch(url, target, attempts=2)
    with pytest.raises(RectoolError, match=r"cannot download http://nowhere\.invalid/x: \w.*pass --source"):
        fetch("http://nowhere.invalid/x", target, attempts=1)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://host/x", "data:,x", "host/x", "http://[x", "http://a b/"]
)
def test_only_the_web_is_asked(target: Path, url: str) -> None:
    with pytest.raises(RectoolError, match=r"is not (an http or https|a web) address"):
        fetch(url, target)
    assert not target.exists()


def test_redirects_do_not_lead_to_the_disk(site: Site, target: Path) -> None:
    site.plan = ["astray"]
    with pytest.raises(RectoolError, match="HTTP 302"):
        fetch(site.url, target)
    assert not target.exists()


def test_of_several_at_once_one_downloads(site: Site, target: Path) -> None:
    site.plan = ["cut"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(site.url, target, checksum=md5(FIRST)), range(4)))
    assert found == [target] * 4
    assert site.ranges == [None, f"bytes={HALF}-"]
    assert target.read_bytes() == FIRST


def test_text_is_fetched_and_bounded(site: Site) -> None:
    site.content, site.plan = "MD5 (ä.zip) = 0a\n".encode(), ["503", "cut"]
    assert fetch_text(site.url) == "MD5 (ä.zip) = 0a\n"
    assert fetch_text(site.url, limit=len(site.content)) == "MD5 (ä.zip) = 0a\n"
    with pytest.raises(RectoolError, match="more than 17 bytes"):
        fetch_text(site.url, limit=len(site.content) - 1)


def test_text_fails_as_files_do(site: Site) -> None:
    site.content, site.plan = b"\xff\xfe", ["404"]
    with pytest.raises(RectoolError, match="HTTP 404"):
        fetch_text(site.url)
    with pytest.raises(RectoolError, match="other than text"):
        fetch_text(site.url)
    with pytest.raises(RectoolError, match="is not an http or https address"):
        fetch_text("file:///etc/hostname")
