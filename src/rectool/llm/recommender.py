"""The one composite that recommends with a language model: backbone, adapter, prompts and answer head.

Every command that uses a language model loads it here. Shapes: N rows   H hidden size   V vocabulary
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from rectool.artifacts import Artifact, Input, folder
from rectool.artifacts.manifest import HUB
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError, disk_errors
from rectool.llm import adapter
from rectool.llm import backbone as backbones
from rectool.llm.backbone import Backbone
from rectool.llm.encode import hidden_states
from rectool.llm.files import CONFIG, Quantize, hushed
from rectool.llm.head import AnswerHead, AnswerLoss
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting
from rectool.prompts.template import SOFT
from rectool.prompts.tokens import TokenRows

DOCUMENT, VERSION = "model.json", 1
DEFAULT_PROMPT = "collm-text"
"""The template of yes/no questions, unless another one is asked for."""
ITSELF = "."
"""Stands in model.json for a backbone that the folder itself holds."""

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Recommender:
    """A language model that answers whether a user will like an item.

    Attributes:
        name: the folder or the name of the hub that it was loaded from.
        backbone: what the adapter stands on; what the model is, if it has none.
        model: in evaluation mode; with a live adapter, or with one that has been merged.
    """

    name: str
    backbone: Backbone
    model: PreTrainedModel | PeftModel
    prompts: Prompts
    head: AnswerHead
    device: torch.device

    @property
    def task(self) -> Literal["ctr"]:
        """What it can be asked."""
        return "ctr"

    @property
    def answer_loss(self) -> AnswerLoss:
        return self.head.loss

    def score(
        self,
        dataset: Dataset,
        rows: NDArray[np.integer[Any]],
        *,
        budget: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """The score (N,) of each row's user and item; its sigmoid is the probability of label 1.

        Args:
            rows: (N,) rows of the log in any order, repeats allowed.
            budget: tokens encoded together; None for what suits the device.

        Raises:
            RectoolError: a prompt cannot be made, or the device has no memory for one.
        """
        tokens = cached_rows(self.prompts, dataset, rows)
        return self.score_tokens(tokens, budget=budget, progress=progress)

    def score_tokens(
        self,
        tokens: TokenRows,
        *,
        groups: NDArray[np.integer[Any]] | None = None,
        budget: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """The score (N,) of each prompt; what prompts begin with alike is encoded once.

        Args:
            groups: (N,) prompts of different groups share nothing; None: any may share.
        """
        scores = np.empty(len(tokens), np.float32)
        shared = np.zeros(len(tokens), np.int64) if groups is None else groups
        states = hidden_states(self.model, tokens, device=self.device, budget=budget, groups=shared, progress=progress)
        for places, hidden in states:
            with torch.no_grad():
                scores[places] = self.head.scores(hidden).cpu().numpy()
        return scores


def assemble(
    backbone: Backbone,
    model: PreTrainedModel | PeftModel,
    prompts: Prompts,
    *,
    device: torch.device,
    answer_loss: AnswerLoss = "softmax",
    name: str | None = None,
) -> Recommender:
    """Put together what has been loaded or made; the model is where it shall be.

    Args:
        prompts: for which `refuse_unfit` has been asked.

    Raises:
        RectoolError: the model's head is no plain matrix.
    """
    head = AnswerHead(model, prompts.answers, answer_loss)
    return Recommender(name or backbone.name, backbone, model, prompts, head, device)


def refuse_unfit(prompts: Prompts, backbone: Backbone) -> None:
    """Find out before weights are read whether a language model can be asked with prompts.

    Raises:
        RectoolError: they ask no yes/no question, an answer is not one token, they have places for embeddings, or
            tokens that the model does not know.
    """
    soft = sorted(prompts.template.slots & set(SOFT))
    if soft:
        raise RectoolError(
            f"prompt {prompts.template.name} has places for embeddings ({{{soft[0]}}}), which a language model alone "
            f"has none for; choose one of text alone, such as {DEFAULT_PROMPT}"
        )
    _ = prompts.answers
    prompts.fits(backbone.vocabulary, backbone.name)


def untuned(
    backbone: Backbone,
    prompting: Prompting,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize | None = None,
    answer_loss: AnswerLoss = "softmax",
) -> Recommender:
    """A language model as it is, asked with a prompt.

    Raises:
        RectoolError: it cannot be loaded, or the prompt is not fit for it.
    """
    prompts = Prompts.chosen(prompting, backbone.tokenizer(), default=DEFAULT_PROMPT, context=backbone.context)
    refuse_unfit(prompts, backbone)
    model = backbone.model(device=device, dtype=dtype, quantize=quantize)
    return assemble(backbone, model, prompts, device=device, answer_loss=answer_loss)


def load(
    artifact: Artifact,
    *,
    backbone: str | None = None,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize | None = None,
    merge: bool = True,
) -> Recommender:
    """Read an `llm` artifact, which is asked as it was tuned.

    Args:
        backbone: where its backbone is, if not where it was: a folder, or a name of the hub.
        merge: put the adapter into the weights, which computes the same for less; in 4 bits it stays apart.

    Raises:
        RectoolError: its files are damaged, or the backbone is not there, or is another one.
    """
    path = artifact.file(DOCUMENT)
    said = json.loads(path.read_bytes())
    try:
        version, known, ids = int(said["version"]), said["backbone"], list(said["answers"]["ids"])
        is_tuned_whole, loss, record = known["name"] == ITSELF, said["answer_loss"], said["prompt"]
        needed = (known["architecture"], int(known["vocabulary"]), int(known["hidden_size"]))
        adapted, refused = bool(said["adapter"]), _refused(said)
    except (KeyError, TypeError, ValueError) as problem:
        raise RectoolError(f"{path} is not of rectool tune-lora ({problem!r}); tune the model again") from problem
    if version > VERSION or refused:
        raise RectoolError(
            f"{path} {refused or f'has version {version}'}, which this rectool does not know: upgrade with: "
            f"pip install -U 'rectool>={artifact.manifest.rectool}'"
        )
    found = _itself(artifact) if is_tuned_whole else _backbone_of(artifact, known, backbone)
    _refuse_other(artifact, found, needed)
    prompts = Prompts.from_record(record, found.tokenizer())
    refuse_unfit(prompts, found)
    if list(prompts.answers.ids) != ids:
        raise RectoolError(
            f"{artifact.path} was tuned to answer with tokens {ids}, but the tokenizer of {found.name} has "
            f"{list(prompts.answers.ids)} for {' and '.join(map(repr, prompts.answers.words))}; name the backbone that "
            "it was tuned on with --llm"
        )
    model: PreTrainedModel | PeftModel = found.model(device=device, dtype=dtype, quantize=quantize)
    if adapted:
        model = adapter.put_on(model, artifact.path, merge=merge and quantize is None, device=device)
    return assemble(found, model, prompts, device=device, answer_loss=loss, name=str(artifact.path))


def save(recommender: Recommender, directory: Path, out: Path) -> None:
    """Write the files of an `llm` artifact: model.json with the adapter alone, or with the whole model.

    A live adapter makes PEFT files; a model without one a Hugging Face folder, its tokenizer with it.

    Args:
        directory: where to write.
        out: where the artifact will stand, for what is said relative to it.
    """
    tuned_whole = not isinstance(recommender.model, PeftModel)
    with disk_errors(directory, "choose another --out"):
        if isinstance(recommender.model, PeftModel):
            adapter.save(recommender.model, directory, _seen_from(out, recommender.backbone))
        else:
            with hushed():
                recommender.model.save_pretrained(directory, max_shard_size="1000GB")
                recommender.prompts.tokenizer.wrapped.save_pretrained(directory, save_jinja_files=False)
        text = json.dumps(_document(recommender, out, tuned_whole=tuned_whole), indent=1, ensure_ascii=False)
        (directory / DOCUMENT).write_text(text + "\n", encoding="utf-8")


def _document(recommender: Recommender, out: Path, *, tuned_whole: bool) -> dict[str, Any]:
    """What model.json says; docs/artifacts.md explains each field."""
    backbone, answers = recommender.backbone, recommender.head.answers
    config = backbone.config.get_text_config(decoder=True)
    return {
        "version": VERSION,
        "task": recommender.task,
        "head": "answer",
        "backbone": {
            "name": ITSELF if tuned_whole else _seen_from(out, backbone),
            "commit": None if tuned_whole else backbone.commit,
            "architecture": config.model_type,
            "vocabulary": backbone.vocabulary,
            "hidden_size": config.hidden_size,
        },
        "adapter": not tuned_whole,
        "prompt": recommender.prompts.record(),
        "answers": {"words": list(answers.words), "ids": list(answers.ids)},
        "answer_loss": recommender.answer_loss,
        "mask": "causal",
        "soft_tokens": [],
    }


def _seen_from(out: Path, backbone: Backbone) -> str:
    """A name of the hub as it is; a folder relative to the artifact."""
    if backbone.folder is None:
        return backbone.name
    return Path(os.path.relpath(folder.real(backbone.folder), folder.real(out))).as_posix()


def _refused(said: Mapping[str, Any]) -> str | None:
    """What a model.json asks for that is not there yet."""
    plain = {"task": "ctr", "head": "answer", "mask": "causal", "soft_tokens": []}
    for name, value in plain.items():
        if said[name] != value:
            return f"has {name} {said[name]!r}"
    return None


def _backbone_of(artifact: Artifact, known: Mapping[str, Any], named: str | None) -> Backbone:
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


def _refuse_other(artifact: Artifact, found: Backbone, needed: tuple[str, int, int]) -> None:
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


def _itself(artifact: Artifact) -> Backbone:
    if CONFIG not in artifact.manifest.files:
        raise RectoolError(f"{artifact.path} is damaged: its {DOCUMENT} says that it is a whole model, but it has none")
    return backbones.find(str(artifact.path), elsewhere=artifact.elsewhere)
