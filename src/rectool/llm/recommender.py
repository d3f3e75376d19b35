"""The one composite that recommends with a language model: backbone, adapter, prompts, soft tokens and answer head.

Every command that uses a language model loads it here. Shapes: N rows   H hidden size   V vocabulary
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from rectool.artifacts import Artifact
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError, disk_errors
from rectool.llm import adapter, soft_saved
from rectool.llm.backbone import Backbone
from rectool.llm.body import reading
from rectool.llm.encode import hidden_states
from rectool.llm.files import Quantize, hushed
from rectool.llm.head import AnswerHead, AnswerLoss
from rectool.llm.origins import DOCUMENT, adapter_folder, backbone_of, itself, refuse_other_backbone, seen_from
from rectool.llm.references import Resolved, Wanted
from rectool.llm.soft import SoftTokens
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting
from rectool.prompts.tokens import SOFT_IDS, TokenRows

VERSION = 1
"""Of model.json."""
DEFAULT_PROMPT, SMALL_PROMPT = "collm-text", "plain"
"""The templates of yes/no questions, unless another one is asked for; see `usual_prompt`."""
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
        soft: what fills the prompts' places for embeddings, if they have any; on the device.
        adapter: the role of the parent whose adapter the model has, if it is another artifact's.
    """

    name: str
    backbone: Backbone
    model: PreTrainedModel | PeftModel
    prompts: Prompts
    head: AnswerHead
    device: torch.device
    soft: SoftTokens | None = None
    adapter: str | None = None

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
        asked = self.asked(dataset, rows)
        return self.score_tokens(asked.tokens, wanted=asked.wanted, budget=budget, progress=progress)

    def asked(self, dataset: Dataset, rows: NDArray[np.integer[Any]]) -> Resolved:
        """The prompts of rows (N,) of the log, with references in the places for embeddings.

        Raises:
            RectoolError: a prompt cannot be made, or the soft tokens are of another data set.
        """
        tokens = cached_rows(self.prompts, dataset, rows)
        return Resolved.plain(tokens) if self.soft is None else self.soft.resolve(dataset, rows, tokens)

    def score_tokens(
        self,
        tokens: TokenRows,
        *,
        wanted: Wanted | None = None,
        groups: NDArray[np.integer[Any]] | None = None,
        budget: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """The score (N,) of each prompt; what prompts begin with alike is encoded once.

        Args:
            wanted: what references in the prompts mean, see `asked`.
            groups: (N,) prompts of different groups share nothing; None: any may share.
        """
        scores = np.empty(len(tokens), np.float32)
        shared = np.zeros(len(tokens), np.int64) if groups is None else groups
        soft = self.soft
        vectors = None if soft is None or wanted is None else partial(soft.vectors, wanted)
        with nullcontext() if soft is None else reading(soft):
            states = hidden_states(
                self.model, tokens, soft=vectors, device=self.device, budget=budget, groups=shared, progress=progress
            )
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
    soft: SoftTokens | None = None,
    adapter: str | None = None,
) -> Recommender:
    """Put together what has been loaded or made; the model is where it shall be.

    Args:
        prompts: for which `refuse_unfit` has been asked.
        soft: what fills their places for embeddings; it is put on the device.
        adapter: the role of the parent whose adapter the model has, so that it is referred to and not written again.

    Raises:
        RectoolError: the model's head is no plain matrix, or the prompts have other places than are filled.
    """
    kinds = {} if soft is None else soft.kinds
    if dict(prompts.soft) != kinds:
        raise RectoolError(
            f"prompt {prompts.template.name} has places for {_listed(prompts.soft)}, but there are {_listed(kinds)}"
        )
    head = AnswerHead(model, prompts.answers, answer_loss)
    soft = None if soft is None else soft.to(device)
    return Recommender(name or backbone.name, backbone, model, prompts, head, device, soft, adapter)


def usual_prompt(backbone: Backbone, usual: str = DEFAULT_PROMPT) -> str:
    """The template to ask a model with: a small one of `rectool prep backbone` knows no other words than its own."""
    is_small = backbone.artifact is not None and backbone.artifact.manifest.kind == "backbone"
    return SMALL_PROMPT if is_small else usual


def refuse_unfit(prompts: Prompts, backbone: Backbone) -> None:
    """Find out before weights are read whether a language model can be asked with prompts.

    Raises:
        RectoolError: they ask no yes/no question, an answer is not one token, they tell embeddings of a history with
            dislikes in it, or they have tokens that the model does not know.
    """
    if "history" in prompts.soft and "disliked" in prompts.template.slots:
        raise RectoolError(
            f"prompt {prompts.template.name} tells likes and dislikes, but history tokens are of likes alone; leave "
            "history out of --tokens, or {disliked} out of the prompt"
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
    prompts = Prompts.chosen(prompting, backbone.tokenizer(), default=usual_prompt(backbone), context=backbone.context)
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
        adapted, refused = said["adapter"], _refused(said)
    except (KeyError, TypeError, ValueError) as problem:
        raise RectoolError(f"{path} is not of rectool tune-lora ({problem!r}); tune the model again") from problem
    if version > VERSION or refused:
        raise RectoolError(
            f"{path} {refused or f'has version {version}'}, which this rectool does not know: upgrade with: "
            f"pip install -U 'rectool>={artifact.manifest.rectool}'"
        )
    found = itself(artifact) if is_tuned_whole else backbone_of(artifact, known, backbone)
    refuse_other_backbone(artifact, found, needed)
    prompts = Prompts.from_record(record, found.tokenizer())
    refuse_unfit(prompts, found)
    if list(prompts.answers.ids) != ids:
        raise RectoolError(
            f"{artifact.path} was tuned to answer with tokens {ids}, but the tokenizer of {found.name} has "
            f"{list(prompts.answers.ids)} for {' and '.join(map(repr, prompts.answers.words))}; name the backbone that "
            "it was tuned on with --llm"
        )
    soft = soft_saved.load(artifact, said) if said["soft_tokens"] else None
    model: PreTrainedModel | PeftModel = found.model(device=device, dtype=dtype, quantize=quantize)
    if adapted:
        folder_of_it = adapter_folder(artifact, adapted)
        model = adapter.put_on(model, folder_of_it, merge=merge and quantize is None, device=device)
    return assemble(
        found,
        model,
        prompts,
        device=device,
        answer_loss=loss,
        name=str(artifact.path),
        soft=soft,
        adapter=adapted if isinstance(adapted, str) else None,
    )


def save(recommender: Recommender, directory: Path, out: Path) -> None:
    """Write the files of an `llm` artifact: model.json with the adapter alone, or with the whole model.

    A live adapter makes PEFT files; a model without one a Hugging Face folder, its tokenizer with it. With soft tokens
    only what was trained is written, and no whole model.

    Args:
        directory: where to write.
        out: where the artifact will stand, for what is said relative to it.
    """
    soft = recommender.soft
    tuned_whole = not isinstance(recommender.model, PeftModel) and soft is None
    with disk_errors(directory, "choose another --out"):
        if soft is not None:
            soft_saved.save(soft, directory)
        if isinstance(recommender.model, PeftModel) and recommender.adapter is None:
            adapter.save(recommender.model, directory, seen_from(out, recommender.backbone))
        if tuned_whole:
            with hushed():
                recommender.model.save_pretrained(directory, max_shard_size="1000GB")
                recommender.prompts.tokenizer.wrapped.save_pretrained(directory, save_jinja_files=False)
        text = json.dumps(_document(recommender, out, tuned_whole=tuned_whole), indent=1, ensure_ascii=False)
        (directory / DOCUMENT).write_text(text + "\n", encoding="utf-8")


def _document(recommender: Recommender, out: Path, *, tuned_whole: bool) -> dict[str, Any]:
    """What model.json says; docs/artifacts.md explains each field."""
    backbone, answers, soft = recommender.backbone, recommender.head.answers, recommender.soft
    config = backbone.config.get_text_config(decoder=True)
    return {
        "version": VERSION,
        "task": recommender.task,
        "head": "answer",
        "backbone": {
            "name": ITSELF if tuned_whole else seen_from(out, backbone),
            "commit": None if tuned_whole else backbone.commit,
            "architecture": config.model_type,
            "vocabulary": backbone.vocabulary,
            "hidden_size": config.hidden_size,
        },
        "adapter": recommender.adapter or isinstance(recommender.model, PeftModel),
        "prompt": recommender.prompts.record(),
        "answers": {"words": list(answers.words), "ids": list(answers.ids)},
        "answer_loss": recommender.answer_loss,
        "mask": "causal",
        "soft_tokens": [{"kind": kind, "count": count} for kind, count in soft.kinds.items()] if soft else [],
        **({"soft": soft_saved.document(soft)} if soft else {}),
    }


def _refused(said: Mapping[str, Any]) -> str | None:
    """What a model.json asks for that is not there yet."""
    plain = {"task": "ctr", "head": "answer", "mask": "causal"}
    for name, value in plain.items():
        if said[name] != value:
            return f"has {name} {said[name]!r}"
    unknown = {kind for each in said["soft_tokens"] if (kind := each["kind"]) not in SOFT_IDS}
    return f"has soft tokens of kind {min(unknown)!r}" if unknown else None


def _listed(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no embeddings"
