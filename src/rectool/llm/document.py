"""The form of model.json: what all who read one may rely on, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rectool.artifacts import Artifact, documents
from rectool.errors import RectoolError

NAME = "model.json"
VERSION = 1
MADE_BY = "rectool tune-lora"
MOST = 1 << 20
"""Of titles, tokens and embeddings in a prompt, and more than any has."""


def read(artifact: Artifact) -> dict[str, Any]:
    """What an `llm` artifact says of itself.

    Raises:
        RectoolError: a field is missing, or is not what it must be.
    """
    path = artifact.file(NAME)
    with documents.understood(path, MADE_BY):
        said: dict[str, Any] = documents.read(path)
        version = _number(said, "version")
        if version > VERSION:
            raise later(artifact, f"has version {version}")
        _backbone(said["backbone"])
        _typed(said, "task", str)
        _typed(said, "head", str)
        _typed(said, "mask", str)
        _typed(said, "adapter", bool, str)
        _prompt(said["prompt"])
        for each in _typed(said, "soft_tokens", list):
            _typed(each, "kind", str)
            _number(each, "count", 1)
        if said.get("item_head") is not None:
            _typed(said["item_head"], "from", str, type(None))
            _typed(said["item_head"]["data"], "items", str)
    with documents.understood(path, "rectool train-proj"):
        if said.get("soft") is not None:
            _typed(said["soft"], "data", dict)
    return said


def later(artifact: Artifact, what: str) -> RectoolError:
    """What is said of a model.json that asks for something which this version does not have."""
    return RectoolError(
        f"{artifact.file(NAME)} {what}, which this rectool does not know: upgrade with: "
        f"pip install -U 'rectool>={artifact.manifest.rectool}'"
    )


def _backbone(known: Mapping[str, Any]) -> None:
    _typed(known, "name", str)
    _typed(known, "architecture", str)
    _number(known, "vocabulary", 1)
    _number(known, "hidden_size", 1)
    _typed(known, "commit", str, type(None))


def _prompt(record: Mapping[str, Any]) -> None:
    _typed(record["template"], "name", str)
    _typed(record["template"], "text", str)
    _number(record, "history")
    _number(record, "max_tokens", 1)
    _typed(record, "noun", str)
    _typed(record, "ends", bool)
    frame = _typed(record, "frame", list, type(None))
    if frame is not None and not (len(frame) == 2 and all(isinstance(text, str) for text in frame)):
        raise ValueError(f"frame is {frame!r}")
    for kind in record.get("soft") or {}:
        _number(record["soft"], kind, 1)


def _typed(owner: Mapping[str, Any], name: str, *kinds: type) -> Any:
    value = owner[name]
    if not isinstance(value, kinds):
        raise TypeError(f"{name} is {value!r}")
    return value


def _number(owner: Mapping[str, Any], name: str, least: int = 0) -> int:
    value: int = _typed(owner, name, int)
    if isinstance(value, bool) or not least <= value <= MOST:
        raise ValueError(f"{name} is {value!r}")
    return value
