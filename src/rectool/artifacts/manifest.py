"""The manifest `rectool.json`: what an artifact is, what it was made of, and how.

Read strictly: a field that is missing or of another type is an error that names it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from rectool.artifacts import documents
from rectool.errors import RectoolError

NAME = "rectool.json"
FORMAT = 1
LIMIT_BYTES = 64 << 20
T = TypeVar("T")
RAW = "raw"
"""Kind of a parent that is a file from outside rather than an artifact."""
HUB = "hub"
"""Kind of a parent that is a model of a hub: it is known by its name and commit, and not hashed."""


@dataclass(frozen=True)
class FileRecord:
    """One file of an artifact."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Parent:
    """What an artifact was made of: another artifact, a raw file, or a model of a hub."""

    role: str
    kind: str
    path: str
    """Relative to the artifact's folder, with forward slashes; of a model of a hub its name there."""
    digests: dict[str, str]
    """What binds: an artifact's sub-digests by name, `file` for a raw file, `commit` for a model of a hub."""
    bytes: int | None = None
    modified: int | None = None
    """Of a raw file: nanoseconds since 1970. With `bytes`, saves hashing it again."""
    url: str | None = None

    @property
    def is_artifact(self) -> bool:
        return self.kind not in (RAW, HUB)


@dataclass(frozen=True)
class Manifest:
    """The whole of `rectool.json`."""

    kind: str
    kind_version: int
    rectool: str
    command: list[str]
    """The command line with every setting that is not a default, settings files included."""
    directory: str
    """Where the command ran, relative to the artifact's folder."""
    settings: dict[str, Any]
    seed: int
    parents: list[Parent]
    files: dict[str, FileRecord]
    digests: dict[str, str]
    """`artifact`, which stands for all its files, and the sub-digests of its kind."""
    counts: dict[str, int]
    metrics: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    """When and on what: started, wall_seconds, peak_memory_bytes, device, world_size, libraries."""
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(directory: Path) -> Manifest:
    """Read and check the manifest of an artifact.

    Raises:
        RectoolError: none is there, it is of a newer format, or it is damaged.
    """
    path = directory / NAME
    try:
        value = documents.read(path, LIMIT_BYTES)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # NaN and half characters are no JSON
    except FileNotFoundError:
        if directory.name.startswith(".") and directory.name.endswith(".partial"):
            raise RectoolError(
                f"{directory} is not finished; the command that makes it goes on with --resume or --update"
            ) from None
        raise RectoolError(
            f"{directory} is not a rectool artifact: it has no {NAME}; "
            f"if another program wrote it: rectool adopt {directory} --kind KIND --data DATA"
        ) from None
    except ValueError as problem:
        raise RectoolError(f"{path} is damaged: not JSON ({problem}); make the artifact again") from None
    return _parse(path, value)


def _parse(path: Path, value: Any) -> Manifest:
    fields = _Fields(path, "", value)
    version = fields.get("format", int)
    if version > FORMAT:
        written_by = fields.get("rectool", str)
        raise RectoolError(
            f"{path} has format {version}, written by rectool {written_by}; this rectool reads up to "
            f"{FORMAT}: upgrade with: pip install -U 'rectool>={written_by}'"
        )
    made = Manifest(
        format=version,
        kind=fields.get("kind", str),
        kind_version=fields.get("kind_version", int),
        rectool=fields.get("rectool", str),
        command=fields.items("command", str),
        directory=fields.get("directory", str),
        settings=fields.get("settings", dict),
        seed=fields.get("seed", int),
        parents=[_parent(path, index, item) for index, item in enumerate(fields.items("parents", dict))],
        files={_inner_name(path, name): _file(path, name, item) for name, item in fields.values("files", dict)},
        digests=dict(fields.values("digests", str)),
        counts=dict(fields.values("counts", int)),
        metrics=fields.get("metrics", dict),
        run=fields.get("run", dict),
    )
    if "artifact" not in made.digests:
        raise RectoolError(f"{path} is damaged: it has no field digests['artifact']")
    roles = [parent.role for parent in made.parents]
    if len(set(roles)) < len(roles):
        raise RectoolError(f"{path} is damaged: two parents have the same role")
    return made


def _parent(path: Path, index: int, value: Any) -> Parent:
    fields = _Fields(path, f"parents[{index}].", value)
    if "\0" in fields.get("path", str):
        raise RectoolError(f"{path} is damaged: parents[{index}].path has a NUL character")
    return Parent(
        role=fields.get("role", str),
        kind=fields.get("kind", str),
        path=fields.get("path", str),
        digests=dict(fields.values("digests", str)),
        bytes=fields.optional("bytes", int),
        modified=fields.optional("modified", int),
        url=fields.optional("url", str),
    )


def _file(path: Path, name: str, value: Any) -> FileRecord:
    fields = _Fields(path, f"files[{name!r}].", value)
    return FileRecord(bytes=fields.get("bytes", int), sha256=fields.get("sha256", str))


def _inner_name(path: Path, name: str) -> str:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or not pure.parts:
        raise RectoolError(f"{path} names a file outside the artifact: {name!r}")
    return name


class _Fields:
    """Typed access to the fields of a JSON object, with errors that name the field."""

    def __init__(self, path: Path, prefix: str, value: Any) -> None:
        self.path, self.prefix = path, prefix
        self.object: dict[str, Any] = self._check("", value, dict)

    def get(self, name: str, kind: type[T]) -> T:
        if name not in self.object:
            raise RectoolError(f"{self.path} is damaged: it has no field {self.prefix}{name}")
        return self._check(name, self.object[name], kind)

    def optional(self, name: str, kind: type[T]) -> T | None:
        return None if self.object.get(name) is None else self.get(name, kind)

    def items(self, name: str, kind: type[T]) -> list[T]:
        return [self._check(f"{name}[{i}]", item, kind) for i, item in enumerate(self.get(name, list))]

    def values(self, name: str, kind: type[T]) -> list[tuple[str, T]]:
        return [(key, self._check(f"{name}[{key!r}]", item, kind)) for key, item in self.get(name, dict).items()]

    def _check(self, name: str, value: Any, kind: type[T]) -> T:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            where = self.prefix + name or "the whole"
            raise RectoolError(f"{self.path} is damaged: {where} is not of type {kind.__name__}")
        return value
