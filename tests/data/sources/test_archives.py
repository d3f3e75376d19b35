"""Archives and texts as strangers send them: whole, damaged and hostile."""

from __future__ import annotations

import csv
import gzip
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import IO, Any

import pytest

from rectool.data.sources import archives
from rectool.data.sources.archives import extract, lines, open_text
from rectool.errors import RectoolError

RATINGS = b"userId,movieId,rating\n" + b"1,2,3.5\n" * 5000


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "data.zip"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def pack(archive: Path, *members: tuple[str | zipfile.ZipInfo, bytes], compression: int = 8) -> None:
    with zipfile.ZipFile(archive, "w", compression) as opened:
        for name, content in members:
            opened.writestr(name, content, compression)


def patch_central(archive: Path, offset: int, value: bytes) -> None:
    """Change bytes of the first member's record in the central directory, which is what zipfile believes."""
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02") + offset
    content[at : at + len(value)] = value
    archive.write_bytes(content)


def test_wanted_members_come_out_flat(archive: Path, into: Path) -> None:
    packed = gzip.compress(b"title")
    pack(
        archive,
        ("ml/", b""),
        ("ml/ratings.csv", RATINGS),
        ("ml/deep/movies.csv.gz", packed),
        ("ml/README", b"1"),
        ("README", b"2"),
    )
    found = extract(archive, {"ratings.csv", "movies.csv", "users.csv"}, into)
    assert found == {"ratings.csv": into / "ratings.csv", "movies.csv": into / "movies.csv.gz"}
    assert found["ratings.csv"].read_bytes() == RATINGS
    assert found["movies.csv"].read_bytes() == packed
    assert {path.name for path in into.iterdir()} == {"ratings.csv", "movies.csv.gz"}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("/etc/passwd", "unsafe name"),
        ("C:/x", "unsafe name"),
        ("c:x", "unsafe name"),
        ("a\\b.csv", "unsafe name"),
        ("..", "leads out"),
        ("../ratings.csv", "leads out"),
        ("a/../../x", "leads out"),
    ],
)
def test_unsafe_names_are_refused(archive: Path, into: Path, name: str, fault: str) -> None:
    pack(archive, ("ratings.csv", RATINGS), (name, b"x"))
    with pytest.raises(RectoolError, match=fault) as raised:
        extract(archive, ["ratings.csv"], into)
    assert str(archive) in str(raised.value)
    assert repr(name) in str(raised.value)
    assert not into.exists()


def test_names_with_two_dots_inside_are_harmless(archive: Path, into: Path) -> None:
    pack(archive, ("v1..2/ratings.csv", RATINGS))
    assert "ratings.csv" in extract(archive, ["ratings.csv"], into)


def test_links_are_refused(archive: Path, into: Path) -> None:
    link = zipfile.ZipInfo("ratings.csv")
    link.external_attr = 0o120777 << 16
    pack(archive, (link, b"/etc/passwd"))
    with pytest.raises(RectoolError, match=r"'ratings\.csv' is a link"):
        extract(archive, ["ratings.csv"], into)


def test_encrypted_members_are_refused(archive: Path, into: Path) -> None:
    pack(archive, ("ratings.csv", RATINGS))
    patch_central(archive, 8, b"\x01")
    with pytest.raises(RectoolError, match=r"'ratings\.csv' is encrypted"):
        extract(archive, ["ratings.csv"], into)


@pytest.mark.parametrize("second", ["b/ratings.csv", "b/ratings.csv.gz"])
def test_a_wanted_name_found_twice_is_refused(archive: Path, into: Path, second: str) -> None:
    pack(archive, ("a/ratings.csv", RATINGS), (second, b"x"))
    with pytest.raises(RectoolError, match=rf"'{second}' is there twice"):
        extract(archive, ["ratings.csv"], into)


def test_unbounded_compressions_are_refused(archive: Path, into: Path) -> None:
    pack(archive, ("ratings.csv", RATINGS), compression=zipfile.ZIP_BZIP2)
    with pytest.raises(RectoolError, match="not packed by deflate; unpack it"):
        extract(archive, ["ratings.csv"], into)


def test_a_bomb_is_refused_by_what_it_declares(archive: Path, into: Path) -> None:
    pack(archive, ("ratings.csv", bytes(100_000)))
    patch_central(archive, 24, struct.pack("<I", 4_000_000_000))
    with pytest.raises(RectoolError, match="zip bomb"):
        extract(archive, ["ratings.csv"], into)


@pytest.mark.parametrize("declared", [10, len(RATINGS) - 1, len(RATINGS) + 1])
def test_a_member_of_another_size_than_declared_is_refused(archive: Path, into: Path, declared: int) -> None:
    pack(archive, ("ratings.csv", RATINGS))
    patch_central(archive, 24, struct.pack("<I", declared))
    with pytest.raises(RectoolError, match="is not a whole zip file"):
        extract(archive, ["ratings.csv"], into)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 10, 60, -1, -30])
def test_a_cut_zip_is_one_line(archive: Path, into: Path, keep: int) -> None:
    pack(archive, ("ratings.csv", RATINGS))
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(RectoolError, match=rf"{archive} is not a whole zip file"):
        extract(archive, ["ratings.csv"], into)


@pytest.mark.parametrize("at", [0, 26, 45, 80])
def test_a_damaged_member_is_one_line(archive: Path, into: Path, at: int) -> None:
    pack(archive, ("ratings.csv", RATINGS))
    content = bytearray(archive.read_bytes())
    content[at] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(RectoolError, match=rf"{archive} is not a whole zip file"):
        extract(archive, ["ratings.csv"], into)
    assert not into.exists() or list(into.iterdir()) == []


def test_an_archive_that_is_not_there_is_one_line(archive: Path, into: Path) -> None:
    with pytest.raises(RectoolError, match=rf"{archive}: No such file"):
        extract(archive, ["ratings.csv"], into)


def test_a_full_disk_is_one_line(archive: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = Path.open

    def open_full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> IO[Any]:
        return really_open(Path("/dev/full") if "w" in mode else path, mode, *arguments, **options)

    pack(archive, ("ratings.csv", RATINGS))
    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(RectoolError, match=rf"the disk of {into / 'ratings.csv'} is full"):
        extract(archive, ["ratings.csv"], into)


def test_members_are_streamed(archive: Path, into: Path) -> None:
    size = 60_000_000
    pack(archive, ("ratings.csv", bytes(size)))
    tracemalloc.start()
    try:
        extract(archive, ["ratings.csv"], into)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (into / "ratings.csv").stat().st_size == size
    assert peak < size / 4


def write(folder: Path, content: bytes, *, gzipped: bool) -> Path:
    """A file whose name says the opposite of what is in it."""
    path = folder / ("text.csv" if gzipped else "text.csv.gz")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    return path


@pytest.mark.parametrize("gzipped", [False, True])
def test_lines_are_numbered_and_bare(tmp_path: Path, gzipped: bool) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfa\r\nb\rc\n\n\xc3\xa9", gzipped=gzipped)
    assert list(lines(path)) == [(1, "a"), (2, "b\rc"), (3, ""), (4, "é")]
    assert list(lines(path, "latin-1"))[3] == (4, "Ã©")


@pytest.mark.parametrize("gzipped", [False, True])
def test_open_text_reads_what_csv_needs(tmp_path: Path, gzipped: bool) -> None:
    path = write(tmp_path, b'\xef\xbb\xbfid,title\r\n1,"two\nlines"\r\n', gzipped=gzipped)
    with open_text(path) as text:
        assert list(csv.reader(text)) == [["id", "title"], ["1", "two\nlines"]]


@pytest.mark.parametrize("gzipped", [False, True])
def test_an_empty_file_has_no_lines(tmp_path: Path, gzipped: bool) -> None:
    assert list(lines(write(tmp_path, b"", gzipped=gzipped))) == []


@pytest.mark.parametrize("gzipped", [False, True])
def test_bytes_of_another_encoding_are_named_by_line(tmp_path: Path, gzipped: bool) -> None:
    path = write(tmp_path, b"good\n" * 7000 + b"caf\xe9\n" + b"good\n", gzipped=gzipped)
    expected = rf"{path} is not UTF-8 at line 7001; pass --encoding latin-1"
    with pytest.raises(RectoolError, match=expected):
        list(lines(path))
    with pytest.raises(RectoolError, match=expected), open_text(path) as text:
        text.read()
    assert list(lines(path, "latin-1"))[7000] == (7001, "café")


@pytest.mark.parametrize("damage", ["cut", "sum", "tail"])
def test_damaged_gzip_is_named_with_its_line(tmp_path: Path, damage: str) -> None:
    content = bytearray(gzip.compress(b"".join(b"%d\n" % number for number in range(100_000))))
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "sum":
        content[-8] ^= 0xFF
    else:
        content += b"more"
    path = tmp_path / "numbers.gz"
    path.write_bytes(content)
    with pytest.raises(RectoolError) as raised:
        list(lines(path))
    with pytest.raises(RectoolError) as raised_by_text, open_text(path) as text:
        text.read()
    assert str(raised.value) == str(raised_by_text.value)
    assert f"cannot read {path} at line" in str(raised.value)


def test_lines_before_the_damage_are_given(tmp_path: Path) -> None:
    content = gzip.compress(b"".join(b"%d\n" % number for number in range(100_000)))
    path = tmp_path / "numbers.gz"
    path.write_bytes(content[:-8])
    read: list[str] = []
    with pytest.raises(RectoolError, match="at line 100001: "):
        read.extend(line for _, line in lines(path))
    assert read == [str(number) for number in range(100_000)]


def test_the_error_of_a_file_opened_beside_another_is_its_own(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.csv", tmp_path / "good.csv"
    bad.write_bytes(b"caf\xe9\n")
    good.write_bytes(b"fine\n")
    with pytest.raises(RectoolError, match=rf"{bad} is not UTF-8"), open_text(bad) as first, open_text(good):
        first.read()


@pytest.mark.parametrize("gzipped", [False, True])
def test_an_endless_line_is_refused(tmp_path: Path, gzipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LINE_BYTES", 2_000_000)
    path = write(tmp_path, b"a" * 1_999_999 + b"\n" + b"a" * 30_000_000, gzipped=gzipped)
    read = lines(path)
    assert len(next(read)[1]) == 1_999_999
    tracemalloc.start()
    try:
        with pytest.raises(RectoolError, match=rf"{path} has over 2 MB in line 2; is it the right file\?"):
            next(read)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("encoding", ["utf-16", "nonsense", "rot13", "cp037"])
def test_encodings_that_hide_line_ends_are_refused(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, b"a\n", gzipped=False)
    with pytest.raises(RectoolError, match=rf"--encoding {encoding} is not one"):
        list(lines(path, encoding))
    with pytest.raises(RectoolError, match=rf"--encoding {encoding} is not one"), open_text(path, encoding):
        pass


def test_a_text_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RectoolError, match=r"none\.csv: No such file"):
        list(lines(tmp_path / "none.csv"))
    with pytest.raises(RectoolError, match=rf"{tmp_path}: Is a directory"), open_text(tmp_path):
        pass
