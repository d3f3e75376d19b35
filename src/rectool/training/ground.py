"""What soft tokens are put into: a language model, its adapter, and the hybrid that is continued."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectool.artifacts import Artifact, Input, open_artifact
from rectool.errors import RectoolError
from rectool.llm import adapter as adapters
from rectool.llm import backbone as backbones
from rectool.llm import document
from rectool.llm.backbone import Backbone
from rectool.llm.origins import adapter_folder, backbone_of, refuse_other_backbone
from rectool.training.lora_settings import Adapters, Lora
from rectool.training.soft_settings import NEW, Part, Standing

ADAPTER, BEFORE = "adapter", "init-from"
"""Roles of parents."""


@dataclass(frozen=True)
class Ground:
    """What soft tokens are put into.

    Attributes:
        adapter: the folder of the adapter that the model has; None where it has none, or one that starts here.
        adapter_role: of the parent that it is read from.
        before: the hybrid that is continued.
        told: that hybrid, else the artifact of the adapter: what is not asked for is as it was there.
        said: its model.json; empty for a model as it is.
    """

    backbone: Backbone
    adapter: Path | None
    adapter_role: str | None
    before: Artifact | None
    told: Input | None
    said: Mapping[str, Any]
    parents: Sequence[Input]


def find(standing: Standing, elsewhere: Mapping[str, Path] | None) -> Ground:
    """The language model, adapter and hybrid that flags name.

    Raises:
        RectoolError: one is not there, is of another kind, or they are of different language models.
    """
    before = named = None
    parents = []
    if standing.init_from is not None:
        before = open_artifact(standing.init_from, "llm", elsewhere=elsewhere)
        if not document.read(before)["soft_tokens"]:
            raise RectoolError(
                f"--init-from {before.path} has no soft tokens; name it with --adapter, and vectors with --cf or "
                "--aligned"
            )
        parents.append(Input(BEFORE, before.path, artifact=before))
    if standing.adapter not in (None, NEW):
        named = open_artifact(Path(str(standing.adapter)), "llm", elsewhere=elsewhere)
        if not document.read(named)["adapter"]:
            raise RectoolError(f"--adapter {named.path} has no adapter; name a whole model with --llm")
        parents.append(Input(ADAPTER, named.path, artifact=named))
    told = parents[0] if parents else None
    said = document.read(told.artifact) if told is not None and told.artifact is not None else {}
    if standing.llm is not None:
        found = backbones.find(standing.llm, revision=standing.revision, elsewhere=elsewhere)
    else:
        assert told is not None  # Standing has seen to it
        assert told.artifact is not None
        found = backbone_of(told.artifact, said["backbone"], None)
    adapter = role = None
    for owner, of in ((before, BEFORE), (named, ADAPTER)):
        if owner is None:
            continue
        theirs = document.read(owner)
        known = theirs["backbone"]
        refuse_other_backbone(
            owner, found, (known["architecture"], int(known["vocabulary"]), int(known["hidden_size"]))
        )
        if theirs["adapter"] and standing.adapter != NEW:
            adapter, role = adapter_folder(owner, theirs["adapter"]), of
    return Ground(found, adapter, role, before, told, said, [*found.inputs(), *parents])


def adapters_of(standing: Standing, fresh: Adapters, adapter: Path | None, trained: Sequence[Part]) -> Lora:
    """What adapters are like: those that start here, or those that are there."""
    if standing.adapter == NEW:
        if "lora" not in trained:
            raise RectoolError(f"--adapter {NEW} makes adapters that nothing has trained: add lora to --train")
        return Lora(**vars(fresh))
    if "lora" in trained and adapter is None:
        raise RectoolError(f"--train lora: there is no adapter; name one with --adapter, or --adapter {NEW}")
    fresh.refuse_given(f"without --adapter {NEW}")
    return _settings_of(adapter) if adapter is not None else Lora()


def _settings_of(adapter: Path) -> Lora:
    path = adapter / adapters.CONFIG
    try:
        said = json.loads(path.read_bytes())
        names = said["target_modules"]
        return Lora(
            rank=int(said["r"]),
            alpha=float(said["lora_alpha"]),
            dropout=float(said["lora_dropout"]),
            target_modules=names if isinstance(names, str) else ",".join(sorted(names)),
        )
    except (LookupError, TypeError, ValueError, OverflowError) as problem:
        raise RectoolError(
            f"{path} is not of LoRA ({problem!r}); tune the adapter again with: rectool tune-lora"
        ) from None
