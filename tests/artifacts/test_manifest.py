"""The manifest: read strictly, whatever stands in it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rectool.artifacts import Manifest, Parent, manifest, open_artifact
from rectool.artifacts.manifest import FileRecord
from rectool.errors import RectoolError

FULL = Manifest(
    kind="semantic",
    kind_version=1,
    rectool="0.1.0",
    command=["rectool", "distill", "--out", "ü b"],
    directory="../..",
    settings={"pooling": "mean", "layers": [1, 2], "scale": None},
    seed=3,
    parents=[
        Parent("dataset", "dataset", "../data", {"items": "sha256:1"}),
        Parent("titles", "raw", "../t.csv", {"file": "sha256:2"}, bytes=7, modified=10**18, url="https://x/t.csv"),
    ],
    files={"config.json": FileRecord(2, "sha256:3"), "deep/embeddings.safetensors": FileRecord(9, "sha256:4")},
    digests={"artifact": "sha256:5"},
    counts={"items": 3},
    metrics={"loss": 0.25},
    run={"started": "2024-01-01T00:00:00+00:00", "wall_seconds": 1.5},
)
VALUE = json.loads(FULL.to_json())


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Manifest]:
    """Read a value, or bytes, as the manifest of an artifact."""

    def through_file(value: Any) -> Manifest:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        (tmp_path / "rectool.json").write_bytes(content)
        return manifest.read(tmp_path)

    return through_file


def refused(read: Callable[[Any], Manifest], value: Any) -> str:
    with pytest.raises(RectoolError) as problem:
        read(value)
    text = str(problem.value)
    assert "\n" not in text
    assert "rectool.json" in text
    return text


def test_round_trip(read: Callable[[Any], Manifest]) -> None:
    assert read(FULL.to_json().encode()) == FULL


Place = tuple[str | int, ...]
FIELDS: list[tuple[Place, str, list[Any]]] = [
    # where, how the error names it, values of another type
    (("format",), "format", ["1", True, 1.0, None, []]),
    (("kind",), "kind", [1, None, [], {}]),
    (("kind_version",), "kind_version", ["1", False, 1.0, None]),
    (("rectool",), "rectool", [1, None]),
    (("command",), "command", ["rectool", None, {}]),
    (("command", 1), "command[1]", [1, None, ["x"]]),
    (("directory",), "directory", [1, None]),
    (("settings",), "settings", [[], None, "x"]),
    (("seed",), "seed", ["0", True, 0.5, None]),
    (("parents",), "parents", [{}, None, "x"]),
    (("parents", 1), "parents[1]", ["x", None, []]),
    (("parents", 1, "role"), "parents[1].role", [1, None]),
    (("parents", 1, "kind"), "parents[1].kind", [1, None]),
    (("parents", 1, "path"), "parents[1].path", [1, None]),
    (("parents", 1, "digests"), "parents[1].digests", [[], None, "x"]),
    (("parents", 1, "digests", "file"), "parents[1].digests['file']", [1, None]),
    (("parents", 1, "bytes"), "parents[1].bytes", ["7", True, 7.0]),
    (("parents", 1, "modified"), "parents[1].modified", ["7", True, 7.0]),
    (("parents", 1, "url"), "parents[1].url", [1, []]),
    (("files",), "files", [[], None, "x"]),
    (("files", "config.json"), "files['config.json']", [1, None, []]),
    (("files", "config.json", "bytes"), "files['config.json'].bytes", ["2", True, 2.0, None]),
    (("files", "config.json", "sha256"), "files['config.json'].sha256", [1, None]),
    (("digests",), "digests", [[], None, "x"]),
    (("digests", "artifact"), "digests['artifact']", [1, None]),
    (("counts",), "counts", [[], None]),
    (("counts", "items"), "counts['items']", ["3", True, 3.0, None]),
    (("metrics",), "metrics", [[], None]),
    (("run",), "run", [[], None]),
]
MAY_BE_ABSENT = {"command[1]", "parents[1]", "parents[1].digests['file']", "files['config.json']", "counts['items']"}
MAY_BE_ABSENT |= {"parents[1].bytes", "parents[1].modified", "parents[1].url"}


def test_no_field_is_forgotten_here() -> None:
    assert {place[0] for place, _, _ in FIELDS} == VALUE.keys()
    assert {place[2] for place, _, _ in FIELDS if place[:2] == ("parents", 1) and place[2:]} == VALUE["parents"][
        1
    ].keys()


@pytest.mark.parametrize(("place", "name", "wrong"), FIELDS, ids=[name for _, name, _ in FIELDS])
def test_a_field_of_another_type_is_named(
    place: Place, name: str, wrong: list[Any], read: Callable[[Any], Manifest]
) -> None:
    for bad in wrong:
        value = copy.deepcopy(VALUE)
        holder = value
        for step in place[:-1]:
            holder = holder[step]
        holder[place[-1]] = bad
        assert f"rectool.json is damaged: {name} is not of type" in refused(read, value)


@pytest.mark.parametrize(("place", "name"), [(place, name) for place, name, _ in FIELDS])
def test_a_field_that_is_missing_is_named(place: Place, name: str, read: Callable[[Any], Manifest]) -> None:
    value = copy.deepcopy(VALUE)
    holder = value
    for step in place[:-1]:
        holder = holder[step]
    del holder[place[-1]]
    if name in MAY_BE_ABSENT:
        assert read(value) != FULL
    else:
        assert f"is damaged: it has no field {name}" in refused(read, value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\0" * 100, "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
        (json.dumps(VALUE).replace("0.25", "NaN").encode(), "not JSON"),
        (json.dumps(VALUE).replace("0.25", "1e999").encode(), "not JSON"),
        (json.dumps(VALUE).replace('"mean"', '"\\ud800"').encode(), "not JSON"),
        (b"[]", "the whole is not of type dict"),
        (b"null", "the whole is not of type dict"),
        (b"{}", "no field format"),
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes, said: str, read: Callable[[Any], Manifest]) -> None:
    assert said in refused(read, content)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "..", ".", "", "a\0b", "a\\..\\b", "deep/../../rectool"]
)
def test_a_file_outside_the_artifact_is_refused(name: str, read: Callable[[Any], Manifest]) -> None:
    value = copy.deepcopy(VALUE)
    value["files"][name] = {"bytes": 1, "sha256": "sha256:1"}
    assert f"names a file outside the artifact: {name!r}" in refused(read, value)


def test_two_parents_of_one_role_are_refused(read: Callable[[Any], Manifest]) -> None:
    assert "two parents have the same role" in refused(read, VALUE | {"parents": [VALUE["parents"][0]] * 2})


def test_a_newer_format_names_the_version_that_is_needed(read: Callable[[Any], Manifest]) -> None:
    text = refused(read, {"format": 2, "rectool": "9.1"})  # whatever else a newer format has
    assert "has format 2, written by rectool 9.1; this rectool reads up to 1" in text
    assert "pip install -U 'rectool>=9.1'" in text


def test_a_folder_and_other_things_are_no_manifest(tmp_path: Path) -> None:
    for name, make in {"folder": os.mkdir, "pipe": os.mkfifo}.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name / "rectool.json")
        with pytest.raises(RectoolError, match=r"rectool\.json is not a file"):
            manifest.read(tmp_path / name)
    (tmp_path / "endless").mkdir()
    (tmp_path / "endless/rectool.json").symlink_to("/dev/zero")
    with pytest.raises(RectoolError, match=r"rectool\.json is not a file"):
        manifest.read(tmp_path / "endless")


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "rectool.json").open("wb") as file:
        file.truncate(10 << 40)
    with pytest.raises(RectoolError, match="larger than 64 MiB"):
        manifest.read(tmp_path)


def test_a_folder_without_a_manifest_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(RectoolError, match=f"if another program wrote it: rectool adopt {tmp_path} --kind KIND"):
        manifest.read(tmp_path)


# What open_artifact makes of a manifest that reads well, but is wrong.


@pytest.fixture
def bad(workshop: Any, edit: Callable[..., None]) -> Callable[..., str]:
    """The error that a data set with an edited manifest gives."""
    path = workshop.dataset("x")
    original = (path / "rectool.json").read_text()

    def error(how: Callable[[Any], Any] = lambda _: None) -> str:
        (path / "rectool.json").write_text(original)
        edit(path, how)
        with pytest.raises(RectoolError) as problem:
            open_artifact(path)
        assert "\n" not in str(problem.value)
        assert str(path) in str(problem.value)
        return str(problem.value)

    return error


def test_an_unknown_kind_says_who_wrote_it(bad: Callable[..., str]) -> None:
    assert "is of kind 'graph', written by rectool 7.0; this rectool knows only dataset, cf" in bad(
        lambda value: value.update(kind="graph", rectool="7.0")
    )


def test_a_newer_kind_names_the_version_that_is_needed(bad: Callable[..., str]) -> None:
    text = bad(lambda value: value.update(kind_version=2, rectool="7.0"))
    assert "has version 2 of kind dataset, written by rectool 7.0" in text
    assert "pip install -U 'rectool>=7.0'" in text


def test_counts_must_be_those_of_the_files(bad: Callable[..., str]) -> None:
    assert "should have 4 items, but its files have 3" in bad(lambda value: value["counts"].update(items=4))
    assert "should have an unknown number of users" in bad(lambda value: value["counts"].pop("users"))


def test_every_file_must_be_named(bad: Callable[..., str]) -> None:
    assert "rectool.json is damaged: it has no field files['users.parquet']" in bad(
        lambda value: value["files"].pop("users.parquet")
    )


def test_the_digest_of_the_whole_must_be_that_of_its_files(bad: Callable[..., str]) -> None:
    assert "the digest of artifact was sha256:0, it is sha256:" in bad(
        lambda value: value["digests"].update(artifact="sha256:0")
    )
    assert "the digest of artifact was" in bad(
        lambda value: value["files"]["users.parquet"].update(sha256="sha256:" + "0" * 64)
    )


def test_a_file_of_another_size_is_named(bad: Callable[..., str], workshop: Any) -> None:
    with (workshop.root / "x/items.parquet").open("ab") as file:
        file.write(b"0")
    assert "items.parquet has" in bad()


def test_a_missing_file_is_named(bad: Callable[..., str], workshop: Any) -> None:
    (workshop.root / "x/items.parquet").unlink()
    assert "items.parquet is missing" in bad()


def test_a_file_that_is_a_folder_is_no_file(bad: Callable[..., str], workshop: Any) -> None:
    (workshop.root / "x/items.parquet").unlink()
    (workshop.root / "x/items.parquet").mkdir()
    assert "items.parquet is not a file" in bad()


def test_a_link_out_of_the_artifact_is_refused(bad: Callable[..., str], workshop: Any) -> None:
    (workshop.root / "x/items.parquet").rename(workshop.root / "items.parquet")
    (workshop.root / "x/items.parquet").symlink_to("../items.parquet")
    assert "items.parquet is a link that leads out of the artifact" in bad()


def test_a_link_inside_the_artifact_is_fine(workshop: Any, whole: Callable[..., Any]) -> None:
    path = workshop.dataset("x")
    (path / "items.parquet").rename(path / "real.parquet")
    (path / "items.parquet").symlink_to("real.parquet")
    assert whole(path).manifest.counts["items"] == 3


@pytest.mark.parametrize("name", ["a" * 5000, "items.parquet/deeper", "no\nthing"])
def test_files_that_cannot_be_are_refused(name: str, bad: Callable[..., str]) -> None:
    bad(lambda value: value["files"].update({name: {"bytes": 1, "sha256": "sha256:1"}}))


def test_changed_bytes_of_the_same_size_are_found_by_verify_alone(workshop: Any, rectool: Callable[..., Any]) -> None:
    path = workshop.child("x", "semantic", workshop.dataset("data")) / "embeddings.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    open_artifact(workshop.root / "x")
    with pytest.raises(RectoolError, match=r"embeddings\.safetensors has changed: it was sha256:.* it is sha256:"):
        open_artifact(workshop.root / "x", verify=True)
    assert rectool("inspect", workshop.root / "x").code == 0
    verified = rectool("inspect", workshop.root / "x", "--verify")
    assert verified.code == 2
    assert "embeddings.safetensors has changed" in verified.error


@pytest.mark.parametrize("name", ["items", "users", "interactions", "training"])
def test_wrong_digests_of_a_part_are_found_by_verify(name: str, workshop: Any, edit: Callable[..., None]) -> None:
    path = workshop.dataset("x")
    edit(path, lambda value: value["digests"].update({name: "sha256:0"}))
    with pytest.raises(RectoolError, match=f"the digest of {name} was sha256:0, it is sha256:"):
        open_artifact(path, verify=True)
    edit(path, lambda value: value["digests"].pop(name))
    with pytest.raises(RectoolError, match=f"the digest of {name} was absent, it is sha256:"):
        open_artifact(path, verify=True)


# Fuzzing

quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


def valid_or_refused(read: Callable[[Any], Manifest], value: Any) -> None:
    try:
        found = read(value)
    except RectoolError as problem:
        assert "\n" not in str(problem)  # noqa: PT017
    else:
        assert read(found.to_json().encode()) == found


@quick
@given(value=values)
def test_random_json_is_refused(value: Any, read: Callable[[Any], Manifest]) -> None:
    with pytest.raises(RectoolError):
        read(value)


@quick
@given(place=st.sampled_from([place for place, _, _ in FIELDS]), bad=values)
def test_random_fields_are_valid_or_refused(place: Place, bad: Any, read: Callable[[Any], Manifest]) -> None:
    value = copy.deepcopy(VALUE)
    holder = value
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = bad
    valid_or_refused(read, value)


@quick
@given(flips=st.lists(st.tuples(st.integers(0, len(FULL.to_json()) - 1), st.integers(0, 255)), max_size=3))
def test_random_bytes_are_valid_or_refused(flips: list[tuple[int, int]], read: Callable[[Any], Manifest]) -> None:
    content = bytearray(FULL.to_json().encode())
    for place, byte in flips:
        content[place] = byte
    valid_or_refused(read, bytes(content))


@quick
@given(place=st.integers(0, 3000), byte=st.integers(0, 255))
def test_an_artifact_with_random_bytes_opens_or_is_refused(
    place: int, byte: int, workshop: Any, whole: Callable[..., Any]
) -> None:
    path = workshop.root / "child"
    if not path.exists():
        workshop.child("child", "semantic", workshop.dataset("data"))
    original = (path / "rectool.json").read_bytes()
    content = bytearray(original)
    content[place % len(content)] = byte
    (path / "rectool.json").write_bytes(content)
    try:
        whole(path)
    except RectoolError as problem:
        assert "\n" not in str(problem)  # noqa: PT017
    finally:
        (path / "rectool.json").write_bytes(original)


def test_a_manifest_of_not_a_number_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(FULL, metrics={"loss": float("nan")}).to_json()
