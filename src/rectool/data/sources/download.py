"""Download a file once, whole: resumed where it stopped, checked, and put in place in one move."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from rectool import __version__, console
from rectool.caches import locked
from rectool.errors import RectoolError, disk_errors

CHUNK_BYTES = 1 << 17
TIMEOUT_SECONDS = 60.0
BACKOFF_SECONDS = 1.0
ATTEMPTS = 5

_ELSEWHERE = "download it elsewhere and pass --source"
_Answer = TypeVar("_Answer")


def fetch(url: str, destination: Path, *, checksum: str | None = None, attempts: int = ATTEMPTS) -> Path:
    """Download `url` to `destination`, unless it lies there already.

    What arrived before a failure stays in `destination.part`; the next call goes on from there if the
    server still has that version. Of several processes one downloads while the others wait for it.

    Args:
        url: http or https.
        destination: the file; its folder is made where missing. An old file of another checksum is replaced.
        checksum: "md5:HEX" or "sha256:HEX"; without one, any file that is there is used as it is.
        attempts: how often to ask the server; the waits between double, from one second.

    Raises:
        RectoolError: the url cannot be had, the checksum is wrong (what arrived is then removed), or the
            disk refuses.
    """
    if checksum and not re.fullmatch("(?i)md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum):
        raise RectoolError(f"the checksum known for {url} is neither md5 nor sha256: {checksum!r}")
    part = destination.with_name(destination.name + ".part")
    with disk_errors(destination):
        if _is_ready(destination, checksum):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        with locked(destination, f"download {destination}"):
            if _is_ready(destination, checksum):
                return destination
            if destination.exists():
                console.say(f"{destination} is not of {checksum}: downloading it again")
            _with_retries(url, attempts, lambda: _download(url, part, destination.name))
            found = _checksum(part, like=checksum) if checksum else None
            if checksum and found != checksum.lower():
                _discard(part)
                raise RectoolError(
                    f"{url} gave {destination} the checksum {found}, not {checksum}; it is removed: "
                    "run again, or give the right file with --source"
                )
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(destination)
            _discard(part)
    return destination


def fetch_text(url: str, limit: int = 4096) -> str:
    """The UTF-8 text at an http or https `url`, of at most `limit` bytes.

    Raises:
        RectoolError: the url cannot be had, or the answer is longer or not text.
    """

    def read() -> bytes:
        content = bytearray()
        with _opened(url, {}) as response:
            for chunk in _chunks(response, response.length):
                content += chunk
                if len(content) > limit:
                    raise RectoolError(f"{url} answers with more than {limit} bytes; {_ELSEWHERE}")
        return bytes(content)

    try:
        return _with_retries(url, ATTEMPTS, read).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RectoolError(f"{url} answers with something other than text; {_ELSEWHERE}") from error


class _InterruptedError(Exception):
    """A failure that another attempt may mend."""


class _StaleError(_InterruptedError):
    """The server does not go on from what is held: the next attempt starts again."""


def _with_retries(url: str, attempts: int, once: Callable[[], _Answer]) -> _Answer:
    attempt = 1
    while True:
        try:
            return once()
        except _InterruptedError as error:
            if attempt >= attempts:
                tried = f"attempt {attempt} of {attempts}"
                raise RectoolError(f"cannot download {url}: {error} ({tried}); {_ELSEWHERE}") from error
            wait = BACKOFF_SECONDS * 2 ** (attempt - 1)
            console.say(f"{url}: {error}; trying again in {wait:g} s")
            time.sleep(wait)
            attempt += 1


@dataclass(frozen=True)
class _Held:
    """What a .part is the beginning of; kept beside it in .part.meta."""

    url: str
    validator: str  # strong ETag or Last-Modified: tells versions of the file apart
    total: int | None  # bytes

    @classmethod
    def read(cls, part: Path, url: str) -> _Held | None:
        """None where nothing is held that this url could go on from."""
        try:
            held = cls(**json.loads(_meta(part).read_text(encoding="utf-8")))
            size = part.stat().st_size
            return held if held.url == url and size <= (held.total or size) else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def continued_by(self, response: http.client.HTTPResponse, start: int) -> bool:
        """Whether a partial answer is the rest of this version: some servers do not know If-Range."""
        expected = f"bytes {start}-[0-9]+/([*]|{self.total or '[0-9]+'})"
        fits = re.fullmatch(expected, response.headers.get("Content-Range", "")) is not None
        validators = {response.headers.get("ETag"), response.headers.get("Last-Modified")} - {None}
        return fits and (not validators or self.validator in validators)


def _download(url: str, part: Path, name: str) -> None:
    """One attempt to make `part` whole, going on from what it holds only if that is of the same version."""
    held = _Held.read(part, url)
    start = part.stat().st_size if held else 0
    if held and start == held.total:
        return
    resume = {"Range": f"bytes={start}-", "If-Range": held.validator} if held else {}
    try:
        with _opened(url, resume) as response:
            if response.status == 206:
                if not held or not held.continued_by(response, start):
                    raise _StaleError("the file changed on the server")
                total = held.total
            else:
                start, total = 0, response.length
                _begin(part, url, response)
            expected = response.length if total is None else total - start
            with part.open("ab") as file, console.transfer(name, total, start) as advance:
                for chunk in _chunks(response, expected):
                    file.write(chunk)
                    advance(len(chunk))
    except _StaleError:
        _discard(part)
        raise


def _begin(part: Path, url: str, response: http.client.HTTPResponse) -> None:
    """Make `part` empty and note its version, if the server gives one."""
    _discard(part)
    part.touch()
    tag = response.headers.get("ETag", "W/")
    validator = response.headers.get("Last-Modified") if tag.startswith("W/") else tag
    if validator:
        held = _Held(url, validator, response.length)
        _meta(part).write_text(json.dumps(asdict(held)), encoding="utf-8")


def _opened(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    with _network_errors(url):
        if urlsplit(url).scheme not in ("http", "https"):
            raise RectoolError(f"{url} is not an http or https address")
        opener = urllib.request.build_opener()
        opener.addheaders = [("User-Agent", f"rectool/{__version__}"), *headers.items()]
        response: http.client.HTTPResponse = opener.open(url, timeout=TIMEOUT_SECONDS)
    # Also where a redirect led to ftp, whose answer has no status.
    if response.status not in (200, 206):
        response.close()
        raise RectoolError(f"{url} answers HTTP {response.status}; {_ELSEWHERE}")
    return response


def _chunks(response: http.client.HTTPResponse, expected: int | None) -> Iterator[bytes]:
    """The body as it arrives; interrupted where it ends before the `expected` bytes."""
    missing = expected
    while missing != 0:
        with _network_errors(response.url):
            chunk = response.read1(CHUNK_BYTES if missing is None else min(CHUNK_BYTES, missing))
        if missing is not None:
            if not chunk:
                raise _InterruptedError(f"the answer ended {missing:,} bytes early")
            missing -= len(chunk)
        elif not chunk:
            return
        yield chunk


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Tell what another attempt may mend from what it cannot."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        answer = f"HTTP {error.code} {error.reason}"
        if error.code == 416:
            raise _StaleError(answer) from error
        if error.code in (408, 429) or error.code >= 500:
            raise _InterruptedError(answer) from error
        raise RectoolError(f"{url} answers {answer}; {_ELSEWHERE}") from error
    except (http.client.InvalidURL, ValueError) as error:
        raise RectoolError(f"{url!r} is not a web address: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise RectoolError(f"cannot trust {url}: {reason.verify_message}; {_ELSEWHERE}") from error
        raise _InterruptedError(getattr(reason, "strerror", None) or str(reason)) from error


def _is_ready(destination: Path, checksum: str | None) -> bool:
    if not destination.is_file():
        return False
    if checksum and _checksum(destination, like=checksum) != checksum.lower():
        return False
    console.say(f"using {destination}")
    return True


def _checksum(path: Path, *, like: str) -> str:
    algorithm = like.partition(":")[0].lower()
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _meta(part: Path) -> Path:
    return part.with_name(part.name + ".meta")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _meta(part).unlink(missing_ok=True)
