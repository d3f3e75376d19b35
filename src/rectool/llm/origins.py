"""Where the parts of an `llm` artifact are that it does not hold itself: its backbone, and an adapter of before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectool.artifacts import Artifact, Input, folder
from rectool.artifacts.manifest import HUB
from rectool.errors import RectoolError
from rectool.llm import backbone as backbones
from rectool.llm import document
from rectool.llm.backbone import Backbone
from rectool.llm.files import CONFIG

if TYPE_CHECKING:
    from rectool.llm.model_json import Said

DOCUMENT = document.NAME
"""What an `llm` artifact says of itself."""


def seen_from(out: Path, backbone: Backbone) -> str:
    """A name of the hub as it is; a folder relative to the artifact."""
    if backbone.folder is None:
        return backbone.name
    return Path(os.path.relpath(folder.real(backbone.folder), folder.real(out))).as_posix()


def adapter_folder(artifact: Artifact, adapted: bool | str) -> Path:
    """Where the files of an artifact's adapter are: beside its model.json, or with the parent of a role."""
    if not isinstance(adapted, str):
        return artifact.path
    parent = artifact.parent(adapted)
    theirs = document.read(parent)["adapter"] if parent.manifest.kind == "llm" else False
    if not theirs:
        raise RectoolError(f"{artifact.path} needs the adapter of its {adapted} {parent.path}, which has none")
    return adapter_folder(parent, theirs)


def backbone_of(artifact: Artifact, known: Mapping[str, Any], named: str | None) -> Backbone:
    """The backbone of an adapter: as named by hand, as `--parent` says, or where it was."""
    role, elsewhere = backbones.ROLE, artifact.elsewhere
    if named is not None:
        return backbones.find(named, elsewhere=elsewhere)
    for parent in artifact.manifest.parents:
        if parent.role == role and parent.is_artifact:
            return backbones.find(str(artifact.parent(role).path), elsewhere=elsewhere)
        if parent.role == role and parent.kind == HUB and role not in elsewhere:
            return backbones.find(parent.path, revision=parent.digests["commit"])
    if role in elsewhere:
        return backbones.find(str(elsewhere[role]))
    files = [parent for parent in artifact.manifest.parents if parent.role.startswith(f"{role}:")]
    if not files:
        return backbones.find(known["name"], revision=known["commit"])
    paths = [artifact.parent_path(parent) for parent in files]
    for path, parent in zip(paths, files, strict=True):
        if not path.is_file() or not Input(parent.role, path).unchanged(parent, artifact.manifest.kind):
            is_ = "is not what it was" if path.is_file() else "is not there"
            raise RectoolError(
                f"{artifact.path} was tuned on the model of {path.parent}, of which {path.name} {is_}; say where that "
                f"model is with --parent {role}=PATH"
            )
    return backbones.find(str(paths[0].parent))


def backbone_under(artifact: Artifact, said: Said, named: str | None) -> Backbone:
    """What an `llm` artifact stands on: itself if it is a whole model, else its backbone; see `backbone_of`.

    Raises:
        RectoolError: it is not there, or is another one.
    """
    found = itself(artifact) if said.is_whole else backbone_of(artifact, said.backbone, named)
    refuse_other_backbone(artifact, found, said.needed)
    return found


def tuned_from(artifact: Artifact) -> str:
    """What the model is called that an `llm` artifact was tuned from: its name on the hub, or that of its folder."""
    for parent in artifact.manifest.parents:
        if parent.role == backbones.ROLE:
            return parent.path if parent.kind == HUB else folder.real(artifact.parent_path(parent)).name
        if parent.role.startswith(f"{backbones.ROLE}:"):
            return folder.real(artifact.parent_path(parent)).parent.name
    return folder.real(artifact.path).name


def refuse_other_backbone(artifact: Artifact, found: Backbone, needed: tuple[str, int, int]) -> None:
    config = found.config.get_text_config(decoder=True)
    there = (config.model_type, found.vocabulary, config.hidden_size)
    if there != needed:
        names = ("architecture", "vocabulary", "hidden size")
        was = ", ".join(f"{name} {before}" for name, before in zip(names, needed, strict=True))
        is_ = ", ".join(f"{name} {now}" for name, now in zip(names, there, strict=True))
        raise RectoolError(
            f"{artifact.path} was tuned on a model of {was}, but {found.name} is of {is_}; name the right one with "
            f"--parent {backbones.ROLE}=PATH"
        )


def itself(artifact: Artifact) -> Backbone:
    if CONFIG not in artifact.manifest.files:
        raise RectoolError(f"{artifact.path} is damaged: its {DOCUMENT} says that it is a whole model, but it has none")
    return backbones.find(str(artifact.path), elsewhere=artifact.elsewhere)
