"""What an `llm` artifact says of itself, in model.json; docs/artifacts.md explains each field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from rectool.artifacts import Artifact
from rectool.errors import RectoolError
from rectool.llm import document, soft_saved
from rectool.llm.heads import KINDS
from rectool.llm.mask_plan import MaskPlan
from rectool.llm.origins import DOCUMENT, seen_from
from rectool.llm.title_head import TitleHead
from rectool.models.table import Task
from rectool.prompts.tokens import SOFT_IDS

if TYPE_CHECKING:
    from rectool.llm.recommender import Recommender

ITSELF = "."
"""Stands for a backbone that the folder itself holds."""


@dataclass(frozen=True)
class Said:
    """What model.json says, as far as all models say it.

    Attributes:
        backbone: its name and commit.
        needed: architecture, vocabulary and hidden size of the backbone.
        is_whole: whether the folder is a model by itself.
        adapter: whether PEFT files stand in the folder; or the role of the parent that has them.
        prompt: for `Prompts.from_record`.
        head: its kind.
        mask: which tokens see which.
        whole: all of it.
    """

    backbone: Mapping[str, Any]
    needed: tuple[str, int, int]
    is_whole: bool
    adapter: bool | str
    prompt: dict[str, Any]
    head: str
    mask: MaskPlan
    whole: Mapping[str, Any]

    @property
    def task(self) -> Task:
        return KINDS[self.head]


def read(artifact: Artifact) -> Said:
    """What an `llm` artifact says of itself.

    Raises:
        RectoolError: it is damaged, or of a later version.
    """
    said = document.read(artifact)
    known = said["backbone"]
    needed = (known["architecture"], known["vocabulary"], known["hidden_size"])
    if refused := _refused(said):
        raise document.later(artifact, refused)
    return Said(
        backbone=known,
        needed=needed,
        is_whole=known["name"] == ITSELF,
        adapter=said["adapter"],
        prompt=said["prompt"],
        head=said["head"],
        mask=MaskPlan.parse(said["mask"]),
        whole=said,
    )


def write(recommender: Recommender, directory: Path, out: Path, *, is_whole: bool) -> None:
    """Write it.

    Args:
        directory: where to write.
        out: where the artifact will stand, for what is said relative to it.
        is_whole: the folder is a model by itself.

    Raises:
        OSError: the disk is full or refuses.
    """
    backbone, head, soft = recommender.backbone, recommender.head, recommender.soft
    config = backbone.config.get_text_config(decoder=True)
    said = {
        "version": document.VERSION,
        "task": recommender.task,
        "head": head.kind,
        "backbone": {
            "name": ITSELF if is_whole else seen_from(out, backbone),
            "commit": None if is_whole else backbone.commit,
            "architecture": config.model_type,
            "vocabulary": backbone.vocabulary,
            "hidden_size": config.hidden_size,
        },
        "adapter": recommender.adapter or isinstance(recommender.model, PeftModel),
        "prompt": recommender.prompts.record(),
        **({} if isinstance(head, TitleHead) else head.document()),
        "mask": recommender.mask.text,
        "soft_tokens": [{"kind": kind, "count": count} for kind, count in soft.kinds.items()] if soft else [],
        **({"soft": soft_saved.document(soft)} if soft else {}),
    }
    text = json.dumps(said, indent=1, ensure_ascii=False)
    (directory / DOCUMENT).write_text(text + "\n", encoding="utf-8")


def _refused(said: Mapping[str, Any]) -> str | None:
    """What a model.json asks for that this version does not have."""
    if KINDS.get(said["head"]) != said["task"]:
        return f"has head {said['head']!r} for task {said['task']!r}"
    try:
        MaskPlan.parse(said["mask"])
    except RectoolError:
        return f"has mask {said['mask']!r}"
    unknown = {kind for each in said["soft_tokens"] if (kind := each["kind"]) not in SOFT_IDS}
    return f"has soft tokens of kind {min(unknown)!r}" if unknown else None
