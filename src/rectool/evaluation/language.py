"""Language models as scorers: rows of a user share what their prompts begin with.

Shapes: N rows asked for
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rectool import console
from rectool.artifacts import Artifact, folder
from rectool.artifacts.artifact import ancestors
from rectool.artifacts.shards import Arrays
from rectool.data.dataset import Dataset
from rectool.devices import device_named, precision_named
from rectool.errors import RectoolError
from rectool.evaluation.language_ranking import Grounded, LanguageRanker, rank
from rectool.evaluation.rank import Exclude, Ranking
from rectool.evaluation.score import Progress, Rows, refuse_not_finite
from rectool.evaluation.scorer import Computation
from rectool.evaluation.settings import Computing, Grounding, Language, Masking, Untuned
from rectool.llm import isolate, item_head, soft_saved
from rectool.llm import recommender as recommenders
from rectool.llm.backbone import Backbone
from rectool.llm.files import Quantize, refuse_four_bits
from rectool.llm.head import AnswerHead
from rectool.llm.mask_plan import MaskPlan
from rectool.llm.pieces import pieces
from rectool.llm.recommender import NEXT_ITEM_PROMPT, Recommender, Stored, refuse_unfit, usual_prompt
from rectool.llm.references import Resolved
from rectool.llm.title_head import TitleHead
from rectool.models.table import Task
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting


@dataclass(frozen=True)
class LanguageScorer:
    """A recommender that is a language model, whose weights are read when they are first needed.

    Attributes:
        name: what it is called in reports.
        load: reads it.
        device: where it will be.
        budget: tokens encoded together; None for what suits the device.
        about: what reports say of it beside what is read with it.
        grounded: how titles that it writes become items, if it writes any.
    """

    name: str
    load: Callable[[], Recommender]
    device: torch.device
    budget: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    task: Task = "ctr"
    probability: Literal["sigmoid"] | None = "sigmoid"
    stochastic: bool = False
    grounded: Grounded | None = None

    @cached_property
    def recommender(self) -> Recommender:
        loaded = self.load()
        console.say(
            f"{loaded.name}, {'as it was' if self.about.get('tuned') else 'not'} tuned: {_said(loaded, self.grounded)}"
        )
        return loaded

    def score(self, dataset: Dataset, rows: Rows, progress: Progress | None = None) -> NDArray[np.float32]:
        scores = self.recommender.score(dataset, rows, budget=self.budget, progress=progress)
        refuse_not_finite(scores, rows, dataset)
        return scores

    def rank(
        self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude = "none", progress: Progress | None = None
    ) -> Ranking:
        return rank(
            self.recommender,
            dataset,
            rows,
            k=k,
            exclude=exclude,
            grounded=self.grounded,
            budget=self.budget,
            progress=progress,
        )

    def scoring(self, dataset: Dataset, rows: Rows) -> Computation:
        recommender = self.recommender
        asked = recommender.asked(dataset, rows)
        items = dataset.item[rows]

        def compute(start: int, stop: int, progress: Progress) -> Arrays:
            scores = recommender.score_tokens(
                asked.tokens.take(np.arange(start, stop)),
                items[start:stop],
                wanted=asked.wanted,
                budget=self.budget,
                progress=progress,
            )
            refuse_not_finite(scores, rows[start:stop], dataset)
            return {"score": scores}

        return self._cut(asked, asked.tokens.lengths, compute)

    def ranking(self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude) -> Computation:
        ranker = LanguageRanker(self.recommender, dataset, rows, grounded=self.grounded, budget=self.budget)

        def compute(start: int, stop: int, progress: Progress) -> Arrays:
            return {**vars(ranker.rank(start, stop, k=k, exclude=exclude, progress=progress))}

        return self._cut(ranker.asked, ranker.costs, compute)

    def _cut(self, asked: Resolved, costs: NDArray[np.int64], compute: Callable[..., Arrays]) -> Computation:
        """Work on prompts of which each costs so many tokens (N,)."""
        about = {**_asked(self.recommender, self.grounded), **self.about, "shortened": asked.tokens.shortened}
        columns = {}
        if self.recommender.soft is not None:
            columns = {"unknown_user": asked.unknown_users, "unknown_item": asked.unknown_items}
            about["unknown_rows"] = {name: int(column.sum()) for name, column in columns.items()}
        cuts = pieces(costs, self.recommender.model, self.device)
        return Computation(cuts, compute, {"language_model": about}, columns)


def tuned(
    artifact: Artifact,
    language: Language,
    dataset: Dataset,
    computing: Computing,
    *,
    grounding: Grounding,
    masking: Masking,
) -> LanguageScorer:
    """The scorer of an `llm` artifact, which is asked as it was tuned.

    Raises:
        RectoolError: its soft tokens or its items are of another data set, or its mask has nothing to make stricter.
    """
    soft_saved.refuse_other_data(artifact, dataset)
    item_head.refuse_other_items(artifact, dataset)
    device = device_named(computing.device)
    dtype, quantize = precision_named(language.precision, device), _quantize(language, device)
    stored = Stored.find(artifact, language.llm)
    said = stored.said
    mask = _stricter(said.mask, masking)

    def load() -> Recommender:
        loaded = stored.load(device=device, dtype=dtype, quantize=quantize)
        if masking.isolate_items:
            isolate.refuse_absolute(loaded.model)
        return replace(loaded, mask=mask)

    return LanguageScorer(
        folder.real(artifact.path).name,
        load,
        device,
        computing.batch_tokens,
        {"tuned": True, "shots": 0, "trained_on": _trained_on(artifact, dataset)},
        task=said.task,
        probability="sigmoid" if said.head == AnswerHead.kind else None,
        grounded=_grounded(grounding) if said.head == TitleHead.kind else None,
    )


def as_it_is(
    backbone: Backbone,
    language: Language,
    prompting: Prompting,
    untuned: Untuned,
    dataset: Dataset,
    computing: Computing,
    *,
    seed: int,
    task: Task = "ctr",
    grounding: Grounding,
) -> LanguageScorer:
    """The scorer of a language model that has not been tuned.

    Args:
        seed: of which train rows are the examples.
        task: answer a question, or write the next title.

    Raises:
        RectoolError: the prompt is wrong, or is not of the model.
    """
    device = device_named(computing.device)
    dtype, quantize = precision_named(language.precision, device), _quantize(language, device)
    usual = NEXT_ITEM_PROMPT if task == "next-item" else usual_prompt(backbone)
    prompts = Prompts.chosen(prompting, backbone.tokenizer(), default=usual, context=backbone.context)
    if prompts.template.task != task:
        raise RectoolError(f"prompt {prompts.template.name} is of task {prompts.template.task}, but {task} is needed")
    refuse_unfit(prompts, backbone)
    if untuned.shots:
        prompts = prompts.with_shots(dataset, untuned.shots, seed)

    def load() -> Recommender:
        model = backbone.model(device=device, dtype=dtype, quantize=quantize)
        head = TitleHead(model) if task == "next-item" else None
        return recommenders.assemble(
            backbone, model, prompts, device=device, head=head, answer_loss=untuned.answer_loss
        )

    shots = f"{untuned.shots}-shot" if untuned.shots else "zero-shot"
    about = {"tuned": False, "shots": untuned.shots, "trained_on": None}
    scorer = LanguageScorer(f"{backbone.label} {shots}", load, device, computing.batch_tokens, about)
    if task == "ctr":
        return scorer
    return replace(scorer, task=task, probability=None, grounded=_grounded(grounding))


def _stricter(mask: MaskPlan, masking: Masking) -> MaskPlan:
    """The mask that flags make of a tuned one."""
    mask = mask.compressed() if masking.compress_deep else mask
    return mask.isolated() if masking.isolate_items else mask


def _grounded(grounding: Grounding) -> Grounded:
    plain = Grounded()
    return Grounded(grounding.ground or plain.by, grounding.beams or plain.beams)


def _quantize(language: Language, device: torch.device) -> Quantize | None:
    if language.quantize == "none":
        return None
    refuse_four_bits(device)
    return language.quantize


def _asked(recommender: Recommender, grounded: Grounded | None) -> dict[str, Any]:
    """What the scores of a recommender depend on beside its weights."""
    prompts, soft, head = recommender.prompts, recommender.soft, recommender.head
    about: dict[str, Any] = {
        "backbone": recommender.backbone.label,
        "prompt": prompts.template.name,
        "history": prompts.history,
        "max_tokens": prompts.max_tokens,
        "noun": prompts.noun,
        "chat": prompts.frame is not None,
        "head": head.kind,
        "mask": recommender.mask.text,
        "precision": str(recommender.model.dtype).removeprefix("torch."),
    }
    if isinstance(head, AnswerHead):
        about |= {"answers": list(head.answers.words), "answer_loss": head.loss}
    if grounded is not None:
        about |= {"ground": grounded.by, "beams": grounded.beams}
    if soft is not None:
        collaborative = None if soft.collaborative is None else soft.collaborative.name
        about |= {"soft_tokens": soft.kinds, "collaborative": collaborative, "unknown": soft.unknown}
    return about


def _said(recommender: Recommender, grounded: Grounded | None) -> str:
    asked = _asked(recommender, grounded)
    parts = [f"prompt {asked['prompt']}", f"{asked['history']} titles of history", f"noun {asked['noun']}"]
    parts += [f"at most {asked['max_tokens']:,} tokens", "as a chat message" if asked["chat"] else "as plain text"]
    if "soft_tokens" in asked:
        parts.append("soft tokens " + ", ".join(f"{count} {kind}" for kind, count in asked["soft_tokens"].items()))
    if not recommender.mask.is_causal:
        parts.append(f"mask {asked['mask']}")
    if "answers" in asked:
        parts += [f"answers {' / '.join(asked['answers'])}", f"{asked['answer_loss']} scores"]
    elif "ground" in asked:
        parts.append(f"titles of {asked['beams']} beams grounded by {asked['ground']}")
    else:
        parts.append("scores of an item head")
    return ", ".join([*parts, f"in {asked['precision']}"])


def _trained_on(artifact: Artifact, dataset: Dataset) -> dict[str, Any] | None:
    """The folder of the data set that a model was tuned on, and whether its train rows are those of `dataset`.

    The latter is None where that data set is not there any more.
    """
    for parent, opened in ancestors(artifact):
        if parent.role == "dataset":
            same = None
            if opened is not None:
                same = opened.manifest.digests["training"] == dataset.artifact.manifest.digests["training"]
            return {"data": folder.real(artifact.parent_path(parent)).name, "same": same}
    return None
