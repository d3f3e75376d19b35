"""What a data set arrives in: zip archives and plain or gzipped text, read as a stranger's files.

Nothing here trusts a size, a name or a line written by someone else, and nothing is held wholly in memory.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from zipfile import ZipInfo

from rectool.errors import RectoolError, disk_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 20
GZIP = b"\x1f\x8b"
LINE_BYTES = 64_000_000
SAMPLE_BYTES, SAMPLED_BYTES = 1 << 16, 30_000_000
BOMB_BYTES = 100_000_000
BOMB_RATIO = 1000

# What zipfile raises on damaged input: it checks signatures and sums, but not every offset and text.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, IndexError, NotImplementedError)


def extract(archive: Path, names: Collection[str], into: Path) -> dict[str, Path]:
    """Extract files of a zip archive, found by base name in whatever folder, flat into one folder.

    Args:
        archive: the zip file.
        names: base names wanted; each may stand in the archive with ".gz" behind, and stays gzipped.
        into: the folder for the files, made where missing; a file there of the same name is replaced.

    Returns:
        The file of each wanted name; a name that the archive lacks is absent.

    Raises:
        RectoolError: the archive is damaged, holds a member that no honest archive holds (a way out of
            the folder, a link, a password, a bomb) or a wanted name twice, or a file cannot be written.
    """
    wanted = {name + ".gz": name for name in names} | {name: name for name in names}
    _refuse_endless(archive)
    with disk_errors(archive):
        try:
            with zipfile.ZipFile(archive) as opened:
                members = _choose(archive, opened.infolist(), wanted)
                into.mkdir(parents=True, exist_ok=True)
                return {name: _copy(opened, member, into) for name, member in members.items()}
        except _DAMAGED as error:
            found = f"{archive} is not a whole zip file: {error}"
            raise RectoolError(f"{found}; download or copy it again") from error


@contextmanager
def open_text(path: Path, encoding: str = "utf-8") -> Iterator[TextIO]:
    r"""Open plain or gzipped text, told apart by the first bytes and not by the name.

    Lines end in \n, \r\n or \r and read as \n; a byte-order mark at the start is dropped. A line may
    be of any length: only `lines` bounds it.

    Raises:
        RectoolError: the file cannot be opened, or, out of the `with` block, its gzip data are cut
            short or its bytes are not of this encoding; names the file and line.
    """
    _check_encoding(encoding)
    marked = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    with _open_bytes(path) as stream, io.TextIOWrapper(stream, encoding=marked) as text:
        try:
            yield text
        except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile):
            # Names the line, or shows that a file opened beside this one is to blame.
            for _ in lines(path, encoding):
                pass
            raise


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    r"""Stream the lines of plain or gzipped text: (line number from 1, line without its \n or \r\n).

    Raises:
        RectoolError: the file cannot be read, is cut short, holds bytes not of this encoding or a line
            over 64 MB; names the file and line.
    """
    _check_encoding(encoding)
    number = 0
    with _open_bytes(path) as stream:
        try:
            for number, line in enumerate(iter(partial(stream.readline, LINE_BYTES + 1), b""), 1):
                if len(line) > LINE_BYTES:
                    limit = f"{LINE_BYTES / 1e6:g} MB"
                    raise RectoolError(f"{path} has over {limit} in line {number}; is it the right file?")
                text = line.rstrip(b"\r\n").decode(encoding)
                yield number, text.removeprefix("\ufeff") if number == 1 else text
        except UnicodeDecodeError as error:
            found = f"{path} is not {encoding.upper()} at line {number}"
            raise RectoolError(
                f"{found}; pass --encoding latin-1 where there is that flag, or write the file anew in UTF-8"
            ) from error
        except (EOFError, zlib.error, OSError) as error:
            raise RectoolError(
                f"cannot read {path} at line {number + 1}: {error}; download or copy it again"
            ) from error


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, by its first bytes. Raises RectoolError where it cannot be read."""
    _refuse_endless(path)
    with disk_errors(path), path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def check_text(path: Path, longest: int) -> None:
    """See to what a fast reader leaves unseen: the checksum of gzipped data, and lines without an end.

    Of text that is not gzipped only samples are read, near enough to each other to meet a line of SAMPLED_BYTES.

    Args:
        longest: bytes that a line may have.

    Raises:
        RectoolError: gzipped data are cut short or damaged, or a line is far too long.
    """
    unbroken = 0
    try:
        with _open_bytes(path) as stream:
            skip = 0 if isinstance(stream.raw, _Gzip) else SAMPLED_BYTES // 2
            while sample := stream.read(SAMPLE_BYTES):
                unbroken = 0 if b"\n" in sample or b"\r" in sample else unbroken + len(sample)
                if unbroken > longest:
                    limit = f"{longest / 1e6:g} MB"
                    raise RectoolError(f"{path} has a line longer than {limit}; is a quotation mark left open?")
                if unbroken == 0 and skip:
                    stream.seek(skip, io.SEEK_CUR)
    except (EOFError, zlib.error, OSError) as error:
        raise RectoolError(f"{path} is damaged or cut short: {error}; download or copy it again") from error


def odd_line_end(path: Path) -> int | None:
    """The first line, from 1, that ends otherwise than those before; what stands in quotation marks does not count."""
    first, quoted = None, False
    with _open_bytes(path) as stream:
        for number, line in enumerate(iter(partial(stream.readline, LINE_BYTES + 1), b""), 1):
            text = b'"' + line if quoted else line
            quoted = text.count(b'"') % 2 == 1
            for end in re.findall(rb"\r\n|\n|\r", re.sub(rb'"[^"]*("|\Z)', b"", text)):
                first = first or end
                if end != first:
                    return number
    return None


def _choose(archive: Path, members: list[ZipInfo], wanted: Mapping[str, str]) -> dict[str, ZipInfo]:
    """The member of each wanted name, once every member of the archive is found to be harmless."""
    chosen: dict[str, ZipInfo] = {}
    for member in members:
        wanted_as = wanted.get(_base(member))
        fault = _fault(member)
        if fault is None and wanted_as is not None:
            fault = "is there twice" if wanted_as in chosen else _packing_fault(member)
            chosen[wanted_as] = member
        if fault:
            raise RectoolError(f"{archive} is refused: its member {member.orig_filename!r} {fault}")
    return chosen


def _fault(member: ZipInfo) -> str | None:
    """What makes an archive suspect, whether the member is wanted or not."""
    name = member.orig_filename
    if not name or "\0" in name or "\\" in name or name.startswith("/") or re.match("[A-Za-z]:", name):
        return "has an unsafe name"
    if ".." in name.split("/"):
        return "leads out of the folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    return "is encrypted" if member.flag_bits & 0x1 else None


def _packing_fault(member: ZipInfo) -> str | None:
    # The standard library unpacks bzip2 and LZMA members without a bound on memory.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is not packed by deflate; unpack it and pass the folder"
    if member.file_size > max(BOMB_BYTES, BOMB_RATIO * member.compress_size):
        return f"swells more than {BOMB_RATIO} times, as a zip bomb does"
    return None


def _base(member: ZipInfo) -> str:
    return member.filename.rpartition("/")[2]


def _copy(opened: zipfile.ZipFile, member: ZipInfo, into: Path) -> Path:
    """Stream one member into the folder, where it appears only when whole; its sum is checked on the way."""
    target = into / _base(member)
    part = target.with_name(target.name + ".part")
    size = 0
    with disk_errors(target):
        try:
            with opened.open(member) as source, part.open("wb") as sink:
                while chunk := source.read(CHUNK_BYTES):
                    size += len(chunk)
                    sink.write(chunk)
            if size != member.file_size:
                raise zipfile.BadZipFile(f"{member.filename!r} has not the size it declares")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return target


def _check_encoding(encoding: str) -> None:
    r"""Refuse unknown encodings, and those such as UTF-16 in which the byte \n does not end a line."""
    try:
        known = b"\n".decode(encoding) == "\n"
    except (LookupError, UnicodeError):
        known = False
    if not known:
        raise RectoolError(f"--encoding {encoding} is not one that can be read by line; use utf-8 or latin-1")


@contextmanager
def _open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    _refuse_endless(path)
    with disk_errors(path):
        raw = path.open("rb")
    with raw:
        zipped = raw.peek(len(GZIP))[: len(GZIP)] == GZIP
        yield io.BufferedReader(_Gzip(fileobj=raw), CHUNK_BYTES) if zipped else raw


def _refuse_endless(path: Path) -> None:
    """Raises RectoolError for a pipe or a device, which has no end, or that nobody writes to."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise RectoolError(f"{path} is not a file; write what it gives into one")


class _Gzip(gzip.GzipFile):
    """Under a BufferedReader, whose lines come out twice as fast; gives all there is before it fails."""

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self.readinto1(buffer)
