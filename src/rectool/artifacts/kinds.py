"""The kinds of artifacts: the files of each, what they must hold, and what they bind to.

A new kind is one entry of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from rectool.artifacts import schemas
from rectool.errors import RectoolError


@dataclass(frozen=True)
class TableFile:
    """A Parquet file: the columns it must have (it may have more), what its rows are, and columns it may have."""

    schema: pa.Schema
    rows: str
    side: tuple[pa.Field, ...] = ()


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file: tensors it must have, each with the names of its axes."""

    tensors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    types: tuple[str, ...] = ("F32", "F16")


@dataclass(frozen=True)
class DocumentFile:
    """A JSON file that holds one object."""


@dataclass(frozen=True)
class Kind:
    """What an artifact of a kind looks like.

    Attributes:
        version: of the files' layout; a newer one than ours is refused.
        files: by name.
        optional: names of files that may be absent.
        binds: the sub-digests of its data set that must not change under it.
        follows: those whose change has `--update` make it again, although it may be used with another data set.
        made_by: the command to name where one is missing.
    """

    name: str
    version: int
    files: Mapping[str, TableFile | TensorFile | DocumentFile]
    made_by: str
    binds: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="dataset",
            version=1,
            files={
                "interactions.parquet": TableFile(schemas.INTERACTIONS, rows="interactions", side=schemas.TRUTH),
                "items.parquet": TableFile(schemas.ITEMS, rows="items"),
                "users.parquet": TableFile(schemas.USERS, rows="users"),
            },
            made_by="rectool prep",
        ),
        Kind(
            name="cf",
            version=1,
            files={
                "weights.safetensors": TensorFile(),
                "embeddings.safetensors": TensorFile(
                    {"user": ("users", "embedding_size"), "item": ("items", "embedding_size")}
                ),
                "config.json": DocumentFile(),
                "curve.parquet": TableFile(schemas.CURVE, rows="curve_points"),
            },
            made_by="rectool train-cf",
            binds=("users", "items", "training"),
            optional=frozenset({"curve.parquet"}),
        ),
        Kind(
            name="backbone",
            version=1,
            files={
                "config.json": DocumentFile(),
                "model.safetensors": TensorFile(),
                "tokenizer.json": DocumentFile(),
                "tokenizer_config.json": DocumentFile(),
                "curve.parquet": TableFile(schemas.CURVE, rows="curve_points"),
            },
            made_by="rectool prep backbone",
            follows=("items", "training"),
            optional=frozenset({"curve.parquet"}),
        ),
        Kind(
            name="llm",
            version=1,
            files={
                "model.json": DocumentFile(),
                "adapter_config.json": DocumentFile(),
                "adapter_model.safetensors": TensorFile(),
                "curve.parquet": TableFile(schemas.CURVE, rows="curve_points"),
            },
            made_by="rectool tune-lora",
            follows=("items", "interactions"),
            optional=frozenset({"adapter_config.json", "adapter_model.safetensors", "curve.parquet"}),
        ),
        Kind(
            name="semantic",
            version=1,
            files={
                "embeddings.safetensors": TensorFile({"item": ("items", "embedding_size")}),
                "config.json": DocumentFile(),
            },
            made_by="rectool distill",
            binds=("items",),
        ),
        Kind(
            name="projector",
            version=1,
            files={"weights.safetensors": TensorFile(), "config.json": DocumentFile()},
            made_by="rectool align",
        ),
        Kind(
            name="aligned",
            version=1,
            files={
                "cf/rectool.json": DocumentFile(),
                "cf/embeddings.safetensors": TensorFile(
                    {"user": ("users", "embedding_size"), "item": ("items", "embedding_size")}
                ),
                "semantic/rectool.json": DocumentFile(),
                "semantic/embeddings.safetensors": TensorFile({"item": ("items", "semantic_size")}),
                "projector/rectool.json": DocumentFile(),
                "projector/weights.safetensors": TensorFile(),
                "curve.parquet": TableFile(schemas.CURVE, rows="curve_points"),
            },
            made_by="rectool align",
            binds=("users", "items", "training"),
        ),
        Kind(
            name="result",
            version=1,
            files={
                "predictions.parquet": TableFile(
                    schemas.PREDICTIONS, rows="predictions", side=(schemas.GROUP, schemas.RANK, *schemas.UNKNOWN)
                ),
                "topk.parquet": TableFile(schemas.TOPK, rows="recommendations"),
                "metrics.json": DocumentFile(),
            },
            made_by="rectool eval",
            binds=("users", "items", "interactions"),
            optional=frozenset({"topk.parquet"}),
        ),
        Kind(
            name="recommendations",
            version=1,
            files={"recommendations.parquet": TableFile(schemas.RECOMMENDATIONS, rows="recommendations")},
            made_by="rectool recommend",
            binds=("users", "items", "interactions"),
        ),
        Kind(
            name="comparison",
            version=1,
            files={"comparison.json": DocumentFile()},
            made_by="rectool compare",
        ),
        Kind(
            name="figure",
            version=1,
            files={},
            made_by="rectool plot",
            binds=("users", "items", "interactions"),
        ),
    )
}


def an(kind: str) -> str:
    """A kind with its article: `a dataset`, `an llm`."""
    return f"{'an' if kind[0] in 'aeiou' or kind == 'llm' else 'a'} {kind}"


def named(name: str) -> Kind:
    """The kind of that name. Raises RectoolError that lists the kinds there are."""
    if name not in KINDS:
        raise RectoolError(f"there is no artifact kind {name!r}; the kinds are {', '.join(KINDS)}")
    return KINDS[name]
