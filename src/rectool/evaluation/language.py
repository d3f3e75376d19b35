"""Language models as scorers: rows of a user share what their prompts begin with.

Shapes: N rows asked for
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
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
from rectool.evaluation.rank import Exclude, Ranking
from rectool.evaluation.score import Progress, Rows, refuse_not_finite
from rectool.evaluation.scorer import Computation
from rectool.evaluation.settings import Computing, Language, Task, Untuned
from rectool.llm import recommender as recommenders
from rectool.llm import soft_saved
from rectool.llm.backbone import Backbone
from rectool.llm.files import Quantize
from rectool.llm.pieces import pieces
from rectool.llm.recommender import Recommender, usual_prompt
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
    """

    name: str
    load: Callable[[], Recommender]
    device: torch.device
    budget: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    task: Task = "ctr"
    probability: Literal["sigmoid"] | None = "sigmoid"
    stochastic: bool = False

    @cached_property
    def recommender(self) -> Recommender:
        loaded = self.load()
        console.say(f"{loaded.name}, {'as it was' if self.about.get('tuned') else 'not'} tuned: {_said(loaded)}")
        return loaded

    def score(self, dataset: Dataset, rows: Rows, progress: Progress | None = None) -> NDArray[np.float32]:
        scores = self.recommender.score(dataset, rows, budget=self.budget, progress=progress)
        refuse_not_finite(scores, rows, dataset)
        return scores

    def rank(
        self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude = "none", progress: Progress | None = None
    ) -> Ranking:
        raise ranks_not(self.name)

    def scoring(self, dataset: Dataset, rows: Rows) -> Computation:
        asked = self.recommender.asked(dataset, rows)
        tokens = asked.tokens

        def compute(start: int, stop: int, progress: Progress) -> Arrays:
            part = tokens.take(np.arange(start, stop))
            scores = self.recommender.score_tokens(part, wanted=asked.wanted, budget=self.budget, progress=progress)
            refuse_not_finite(scores, rows[start:stop], dataset)
            return {"score": scores}

        about = {**_asked(self.recommender), **self.about, "shortened": tokens.shortened}
        columns = {}
        if self.recommender.soft is not None:
            columns = {"unknown_user": asked.unknown_users, "unknown_item": asked.unknown_items}
            about["unknown_rows"] = {name: int(column.sum()) for name, column in columns.items()}
        cuts = pieces(tokens.lengths, self.recommender.model, self.device)
        return Computation(cuts, compute, {"language_model": about}, columns)

    def ranking(self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude) -> Computation:
        raise ranks_not(self.name)


def ranks_not(name: str) -> RectoolError:
    """What a language model that is asked to rank the catalogue answers."""
    return RectoolError(f"{name} rates rows; it does not rank the catalogue")


def tuned(artifact: Artifact, language: Language, dataset: Dataset, computing: Computing) -> LanguageScorer:
    """The scorer of an `llm` artifact, which is asked as it was tuned.

    Raises:
        RectoolError: its soft tokens are of another data set.
    """
    soft_saved.refuse_other_data(artifact, dataset)
    device = device_named(computing.device)
    load = partial(
        recommenders.load,
        artifact,
        backbone=language.llm,
        device=device,
        dtype=precision_named(language.precision, device),
        quantize=_quantize(language),
    )
    about = {"tuned": True, "shots": 0, "trained_on": _trained_on(artifact, dataset)}
    return LanguageScorer(folder.real(artifact.path).name, load, device, computing.batch_tokens, about)


def as_it_is(
    backbone: Backbone,
    language: Language,
    prompting: Prompting,
    untuned: Untuned,
    dataset: Dataset,
    computing: Computing,
    *,
    seed: int,
) -> LanguageScorer:
    """The scorer of a language model that has not been tuned.

    Args:
        seed: of which train rows are the examples.

    Raises:
        RectoolError: the prompt is wrong, or is not of the model.
    """
    device = device_named(computing.device)
    dtype = precision_named(language.precision, device)
    prompts = Prompts.chosen(prompting, backbone.tokenizer(), default=usual_prompt(backbone), context=backbone.context)
    if untuned.shots:
        prompts = prompts.with_shots(dataset, untuned.shots, seed)

    def load() -> Recommender:
        model = backbone.model(device=device, dtype=dtype, quantize=_quantize(language))
        return recommenders.assemble(backbone, model, prompts, device=device, answer_loss=untuned.answer_loss)

    shots = f"{untuned.shots}-shot" if untuned.shots else "zero-shot"
    about = {"tuned": False, "shots": untuned.shots, "trained_on": None}
    return LanguageScorer(f"{backbone.label} {shots}", load, device, computing.batch_tokens, about)


def _quantize(language: Language) -> Quantize | None:
    return None if language.quantize == "none" else language.quantize


def _asked(recommender: Recommender) -> dict[str, Any]:
    """What the scores of a recommender depend on beside its weights."""
    prompts, soft = recommender.prompts, recommender.soft
    about: dict[str, Any] = {
        "backbone": recommender.backbone.label,
        "prompt": prompts.template.name,
        "history": prompts.history,
        "max_tokens": prompts.max_tokens,
        "noun": prompts.noun,
        "chat": prompts.frame is not None,
        "answers": list(recommender.head.answers.words),
        "answer_loss": recommender.answer_loss,
        "precision": str(recommender.model.dtype).removeprefix("torch."),
    }
    if soft is not None:
        collaborative = None if soft.collaborative is None else soft.collaborative.name
        about |= {"soft_tokens": soft.kinds, "collaborative": collaborative, "unknown": soft.unknown}
    return about


def _said(recommender: Recommender) -> str:
    asked = _asked(recommender)
    parts = [f"prompt {asked['prompt']}", f"{asked['history']} titles of history", f"noun {asked['noun']}"]
    parts += [f"at most {asked['max_tokens']:,} tokens", "as a chat message" if asked["chat"] else "as plain text"]
    if "soft_tokens" in asked:
        parts.append("soft tokens " + ", ".join(f"{count} {kind}" for kind, count in asked["soft_tokens"].items()))
    parts += [f"answers {' / '.join(asked['answers'])}", f"{asked['answer_loss']} scores", f"in {asked['precision']}"]
    return ", ".join(parts)


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
