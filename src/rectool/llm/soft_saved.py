"""Soft tokens on disk: what was trained in files of their own, the rest in parents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rectool.artifacts import Artifact, open_artifact
from rectool.artifacts.documents import understood
from rectool.artifacts.kinds import an
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm import document as document_of
from rectool.llm.origins import DOCUMENT
from rectool.llm.soft import SoftTokens, Told, Unknown, refuse_other
from rectool.llm.soft_parts import Parts, with_vectors
from rectool.models import projector as projectors
from rectool.models import saved, semantic
from rectool.models.projector import Projector
from rectool.models.saved import Trained, config_of, tensors_of

FILES = {part: f"{part}.safetensors" for part in ("cf", "semantic", "projector", "warm", "unknown")}
TRAINED_WITH = {"cf": "cf", "semantic": "semantic", "projector": "projector", "warm": "projector"}
"""What `SoftTokens.train_only` calls each part that may be read from a parent."""
PROJECTOR_CONFIG = ("inputs", "hidden", "outputs", "activation")
MADE_BY = "rectool train-proj"

Module = TypeVar("Module", bound=nn.Module)


def save(soft: SoftTokens, directory: Path) -> None:
    """Write the parts that were trained, or that no parent has."""
    modules = {"cf": soft.cf, "semantic": soft.semantic, "projector": soft.projector, "warm": soft.warm}
    for part, module in modules.items():
        if module is not None and _is_own(soft, part):
            tensors = tensors_of(module)
            save_file({"item": tensors["weight"]} if part == "semantic" else tensors, directory / FILES[part])
    known = {"known_users": soft.known_users, "known_items": soft.known_items}
    save_file(
        {
            **tensors_of(soft.unknown_vectors),
            **{name: torch.from_numpy(which.astype(np.uint8)) for name, which in known.items()},
        },
        directory / FILES["unknown"],
    )


def document(soft: SoftTokens) -> dict[str, Any]:
    """What model.json says of them: all that `load` needs beside the files."""

    about: dict[str, dict[str, Any] | None] = dict.fromkeys(TRAINED_WITH)
    if soft.collaborative is not None:
        about["cf"] = {"config": config_of(soft.collaborative)}
    if soft.semantic is not None:
        about["semantic"] = {}
    if soft.projector is not None:
        about["projector"] = {name: getattr(soft.projector, name) for name in PROJECTOR_CONFIG}
    if soft.warm is not None:
        about["warm"] = {"inputs": soft.warm.in_features, "outputs": soft.warm.out_features}
    parts = {
        part: {"from": None if _is_own(soft, part) else soft.sources[part], **said} if said is not None else None
        for part, said in about.items()
    }
    whole = ("hidden_size", "unknown", "told", "biases", "data")
    return {**{name: getattr(soft, name) for name in whole}, **parts}


def load(artifact: Artifact, said: Mapping[str, Any]) -> SoftTokens:
    """The soft tokens of an `llm` artifact, on the CPU, frozen.

    Args:
        said: the whole of its model.json.

    Raises:
        RectoolError: a file is damaged, or a parent is not there, or is another one.
    """
    path = artifact.file(DOCUMENT)
    with understood(path, MADE_BY):
        kinds = {str(each["kind"]): int(each["count"]) for each in said["soft_tokens"]}
        about = said["soft"]
        hidden_size, unknown, data = int(about["hidden_size"]), about["unknown"], dict(about["data"])
        biases = bool(about.get("biases", False))
        told = about.get("told", "liked")
        if unknown not in get_args(Unknown) or told not in get_args(Told):
            raise ValueError(f"unknown {unknown!r}, told {told!r}")
        parts = _parts(artifact, about)
        vectors = _tensors(artifact.file(FILES["unknown"]))
        known = {name: vectors.pop(name).numpy().astype(np.bool_) for name in ("known_users", "known_items")}
        soft = SoftTokens(
            kinds,
            hidden_size=hidden_size,
            collaborative=parts.collaborative,
            semantic=parts.semantic,
            projector=parts.projector,
            warm=parts.warm,
            data=data,
            unknown=unknown,
            told=told,
            biases=biases,
            sources=parts.sources,
            **known,
        )
        return with_vectors(soft, vectors)


def refuse_other_data(artifact: Artifact, dataset: Dataset) -> None:
    """Raises RectoolError if an `llm` artifact has soft tokens, and they are of another data set."""
    soft = document_of.read(artifact).get("soft") or {}
    refuse_other(soft.get("data", {}), dataset)


def parts_of(artifact: Artifact, role: str) -> Parts:
    """What an artifact has for soft tokens: a `cf`, `semantic`, `projector`, `aligned`, or an `llm` that has some.

    Args:
        role: what it will be to an artifact that refers to it.

    Raises:
        RectoolError: it has nothing for soft tokens, is damaged, or has embeddings that are not finite or all the same.
    """
    kind = artifact.manifest.kind
    if kind == "cf":
        return Parts(collaborative=saved.load(artifact), sources={"cf": role})
    if kind == "semantic":
        return Parts(semantic=semantic.stored(artifact), sources={"semantic": role})
    if kind == "projector":
        return Parts(projector=projectors.load(artifact), sources={"projector": role})
    if kind == "aligned":
        inside = {name: _inside(artifact, name) for name in ("cf", "semantic", "projector")}
        return Parts(
            collaborative=saved.load(inside["cf"]),
            semantic=semantic.stored(inside["semantic"]),
            projector=projectors.load(inside["projector"]),
            known_items=np.ones(artifact.manifest.counts["items"], np.bool_),
            sources=dict.fromkeys(inside, role),
        )
    said = document_of.read(artifact) if kind == "llm" else {}
    if not said.get("soft_tokens"):
        raise RectoolError(f"{artifact.path} is {an(kind)} artifact that has nothing for soft tokens")
    soft = load(artifact, said)
    there = {"cf": soft.cf, "semantic": soft.semantic, "projector": soft.projector, "warm": soft.warm}
    return Parts(
        collaborative=soft.collaborative,
        semantic=None if soft.semantic is None else soft.semantic.weight.detach(),
        projector=soft.projector,
        warm=soft.warm,
        unknown=dict(soft.unknown_vectors.items()),
        known_items=soft.known_items,
        sources={part: role for part, module in there.items() if module is not None},
    )


def _parts(artifact: Artifact, about: Mapping[str, Any]) -> Parts:
    """The parts that model.json names: from the artifact's own files, or from its parents."""
    roles = {said["from"] for said in (about[part] for part in TRAINED_WITH) if said is not None} - {None}
    parents = {role: parts_of(artifact.parent(role), role) for role in sorted(roles)}

    def found(part: str, name: str, own: Callable[[Mapping[str, Any], Path], Any]) -> Any:
        said = about[part]
        if said is None:
            return None
        if said["from"] is None:
            return own(said, artifact.file(FILES[part]))
        there = getattr(parents[said["from"]], name)
        if there is None:
            raise RectoolError(f"{artifact.path} needs the {part} of its {said['from']}, which has none")
        return there

    return Parts(
        collaborative=found("cf", "collaborative", lambda said, path: _cf(artifact, said, path)),
        semantic=found("semantic", "semantic", lambda _, path: _tensors(path)["item"]),
        projector=found("projector", "projector", _projector),
        warm=found("warm", "warm", _linear),
        sources={part: said["from"] for part in TRAINED_WITH if (said := about[part]) and said["from"] is not None},
    )


def _cf(artifact: Artifact, said: Mapping[str, Any], path: Path) -> Trained:
    return saved.restored(said["config"], artifact.file(DOCUMENT), path)


def _projector(said: Mapping[str, Any], path: Path) -> Projector:
    return _filled(lambda: Projector(*(said[name] for name in PROJECTOR_CONFIG)), path)


def _linear(said: Mapping[str, Any], path: Path) -> nn.Linear:
    return _filled(lambda: nn.Linear(int(said["inputs"]), int(said["outputs"])), path)


def _filled(make: Callable[[], Module], path: Path) -> Module:
    """A module with the weights of a file; no room is made for others than these."""
    try:
        with torch.device("meta"):
            module = make()
        module.load_state_dict(_tensors(path), assign=True)
    except RuntimeError as problem:
        said = " ".join(str(problem).split())
        raise RectoolError(f"{path} does not fit {DOCUMENT}: {said}") from None
    return module


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as problem:
        raise RectoolError(f"{path} cannot be read ({problem}); train the soft tokens again") from None


def _inside(artifact: Artifact, name: str) -> Artifact:
    """A part of an `aligned` artifact, which is an artifact itself."""
    return open_artifact(artifact.path / name, name, elsewhere=artifact.elsewhere)


def _is_own(soft: SoftTokens, part: str) -> bool:
    """Whether a part stands in the artifact itself."""
    return part not in soft.sources or TRAINED_WITH[part] in soft.trained
