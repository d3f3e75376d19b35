"""Training on prompts, as far as it is the same whatever is trained: how it is computed, fitted and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from rectool import console, processes
from rectool.artifacts import Draft
from rectool.data.batches import shuffled_batches
from rectool.data.dataset import Dataset
from rectool.devices import autocast
from rectool.errors import RectoolError, disk_errors
from rectool.evaluation import language_ranking
from rectool.evaluation.rank import Exclude, Ranking
from rectool.evaluation.score import Progress, Rows, refuse_not_finite
from rectool.llm import recommender as recommenders
from rectool.llm.body import can_pack, reading
from rectool.llm.recommender import Recommender
from rectool.models.table import Task
from rectool.training import loop
from rectool.training.answers import AnswerCriterion
from rectool.training.counting import prior
from rectool.training.item_targets import ItemCriterion
from rectool.training.llm_way import Way, in_gigabytes
from rectool.training.lora_settings import TITLE_METRIC
from rectool.training.prompted import Criterion
from rectool.training.report import report
from rectool.training.run import Fitted, Objective, Run
from rectool.training.token_parts import LINE_TOKENS, TokenParts, padding_share
from rectool.training.tuning import Tuning
from rectool.training.validation import Validation

PACKED_FROM = 0.25
"""Share of padding from which packing pays: less costs less than the mask that keeps packed rows apart."""
LOOKED_AT = 500
"""Batches of the first epoch of which padding is measured."""
PRIORS: Mapping[Task, Mapping[str, Mapping[str, bool]]] = {
    "ctr": {"item mean": {"users": False}, "user + item mean": {"users": True}},
    "next-item": {"popularity": {}},
}
"""What needs no training, by task, and its settings."""
LAST = "last"
MEMORY_ADVICE = "choose --checkpointing on, --quantize 4bit or a smaller --llm, or shorten prompts with --max-tokens"


@dataclass(frozen=True)
class Live:
    """A model that is being trained, as validation sees it."""

    recommender: Recommender
    name: str
    stochastic: bool = False

    @property
    def task(self) -> Task:
        return self.recommender.task

    @property
    def probability(self) -> Literal["sigmoid"] | None:
        return "sigmoid" if self.task == "ctr" else None

    def score(self, dataset: Dataset, rows: Rows, progress: Progress | None = None) -> NDArray[np.float32]:
        scores = self.recommender.score(dataset, rows, progress=progress)
        refuse_not_finite(scores, rows, dataset)
        return scores

    def rank(
        self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude = "none", progress: Progress | None = None
    ) -> Ranking:
        return language_ranking.rank(self.recommender, dataset, rows, k=k, exclude=exclude, progress=progress)


def criterion_of(tuning: Tuning, recommender: Recommender) -> Criterion:
    """What is minimised where prompts are read at their last token: of answers, or of items."""
    if tuning.head is not None:
        return ItemCriterion(tuning.head, tuning.items, recommender.device)
    return AnswerCriterion(recommender.answering, tuning.labels, recommender.device)


def fit_and_write(
    draft: Draft, tuning: Tuning, recommender: Recommender, objective: Objective, validation: Validation, run: Run
) -> Fitted:
    """Fit a model and write it into the draft of an `llm` artifact, its last state in a folder of its own.

    Args:
        objective: its module is what is trained of the recommender.
        validation: what priors are measured on.

    Raises:
        RectoolError: the loss is no longer finite, or the disk refuses.
        Stopped: with a checkpoint.
    """
    run = replace(run, metric=tuning.metric, memory_advice=MEMORY_ADVICE)
    fitted = loop.fit(objective, replace(tuning.fit, accumulate=1), run)  # the parts see to that
    for weights, folder in ((fitted.last, draft.path / LAST), (fitted.best, draft.path)):
        objective.module.load_state_dict(weights, strict=False)
        with disk_errors(draft.path, "choose another --out"):
            folder.mkdir(exist_ok=True)
        recommenders.save(recommender, folder, folder)
    with reading(objective.module), autocast(run.device, tuning.dtype):
        valid = dict(objective.validate())
    lengths, task = tuning.lengths, tuning.task
    priors = {} if tuning.metric == TITLE_METRIC else PRIORS[task]
    draft.metrics.update(
        model=tuning.backbone.label,
        task=task,
        head=recommender.head.kind,
        mask=tuning.mask.text,
        metric=tuning.metric,
        valid=valid,
        priors=[
            prior(tuning.dataset, task, task == "ctr", validation, tuning.metric, called=called, **settings)
            for called, settings in priors.items()
        ],
        parameters=tuning.anatomy.parameters,
        trained_parameters=tuning.anatomy.trained,
        rows=len(tuning.rows),
        tokens=int(lengths.sum()),
        longest=int(lengths.max()),
        shortened=tuning.tokens.shortened,
    )
    if task == "ctr":
        draft.metrics.update(liked=int((tuning.labels == 1).sum()), answers=vars(recommender.answering.answers))
    report(draft, run, fitted)
    targets = objective.targets(np.arange(len(lengths)))  # of a pass; where titles are written, more than rows
    draft.metrics["tokens_per_second"] = round(fitted.targets_per_second * int(lengths.sum()) / targets, 1)
    return fitted


def compute_twice(model: PreTrainedModel) -> None:
    """Have activations computed twice instead of kept. Raises RectoolError for an architecture that cannot."""
    if not model.supports_gradient_checkpointing:
        raise RectoolError(f"{model.config.model_type} models know no checkpointing; set --checkpointing off")
    named_today = getattr(model, "activation_checkpointing_enable", None)
    (named_today or model.gradient_checkpointing_enable)({"use_reentrant": False})


def padding_of(tuning: Tuning, computed: NDArray[np.int64], parts: TokenParts, seed: int) -> float:
    """The share of padding in what one process computes of the first epoch; `computed` (N,) tokens of each row."""
    lengths, processes_in_all = tuning.lengths, processes.world_size()
    batches = shuffled_batches(lengths, np.ones_like(lengths), tuning.fit.batch_size * processes_in_all, (seed, 0))
    return padding_share(computed, (batch[::processes_in_all] for batch in batches[:LOOKED_AT]), parts)


def is_packed(tuning: Tuning, recommender: Recommender, padding: float) -> bool:
    """Raises RectoolError where packing is asked for and the model cannot tell packed rows apart."""
    if tuning.fit.packing == "off" or (tuning.fit.packing == "auto" and padding < PACKED_FROM):
        return False
    if can_pack(recommender.model):
        console.say(f"prompts are packed into lines of {LINE_TOKENS} tokens, without padding")
        return True
    if tuning.fit.packing == "on":
        raise RectoolError(f"--packing on: {tuning.backbone.name} cannot tell packed prompts apart; leave it out")
    return False


def tell(tuning: Tuning, what: str, way: Way, padding: float, room: int) -> None:
    """What is trained, on what, and what it takes of the `room` there was: before the wait."""
    anatomy, lengths = tuning.anatomy, tuning.lengths
    console.say(
        f"{anatomy.trained:,} of {anatomy.parameters:,} parameters are trained "
        f"({anatomy.trained / anatomy.parameters:.2%}): {what}"
    )
    console.say(f"{len(tuning.rows):,} train rows, {_what_they_say(tuning)}")
    console.say(
        f"prompt {tuning.prompts.template.name}: {lengths.sum():,} tokens, {lengths.max():,} in the longest; "
        f"{tuning.tokens.shortened:,} rows are shortened; mask {tuning.mask.text}"
    )
    if idle := tuning.idle:
        console.say(
            f"--mask {tuning.mask.text}: {idle} in the top layer alone changes nothing: what items' tokens become "
            f"there is read by nobody; {idle} needs two layers there to have one that works"
        )
    twice = ", activations computed twice" if way.checkpointing else ""
    console.say(
        f"{way.tokens:,} tokens at a time{twice}, {padding:.1%} of them padding; about {in_gigabytes(way.bytes)} of "
        f"memory, of the {in_gigabytes(room)} that are free on {tuning.device}"
    )


def _what_they_say(tuning: Tuning) -> str:
    """What is learned from the train rows."""
    if tuning.task == "ctr":
        answers = tuning.prompts.answers
        words = " and ".join(f"{word!r} ({id_})" for word, id_ in zip(answers.words, answers.ids, strict=True))
        return f"{(tuning.labels == 1).mean():.1%} of them liked; answers {words}"
    different = f"{len(np.unique(tuning.items)):,} of {tuning.dataset.items:,} items"
    if tuning.titles is None:
        return f"whose next items are {different}"
    tokens = tuning.titles.lengths[tuning.items].mean()
    return f"after which the titles of {different} are written, {tokens:.1f} tokens each"
