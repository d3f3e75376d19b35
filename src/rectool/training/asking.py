"""Training on yes/no prompts, as far as it is the same whatever is trained: how it is computed, fitted and measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from rectool import console, processes
from rectool.artifacts import Draft
from rectool.data.batches import shuffled_batches
from rectool.data.dataset import Dataset
from rectool.devices import autocast, free_memory
from rectool.errors import RectoolError, disk_errors
from rectool.evaluation.language import ranks_not
from rectool.evaluation.rank import Exclude, Ranking
from rectool.evaluation.score import Progress, Rows, refuse_not_finite
from rectool.llm import recommender as recommenders
from rectool.llm.body import can_pack
from rectool.llm.recommender import Recommender
from rectool.training import loop
from rectool.training.answers import AnswerObjective
from rectool.training.counting import prior
from rectool.training.llm_way import Way, in_gigabytes
from rectool.training.report import report
from rectool.training.run import Fitted, Run
from rectool.training.token_parts import LINE_TOKENS, TokenParts, padding_share
from rectool.training.tuning import Tuning
from rectool.training.validation import Validation

PACKED_FROM = 0.25
"""Share of padding from which packing pays: less costs less than the mask that keeps packed rows apart."""
LOOKED_AT = 500
"""Batches of the first epoch of which padding is measured."""
PRIORS = {"item mean": False, "user + item mean": True}
"""What needs no training, and whether users have a part in it."""
LAST = "last"
MEMORY_ADVICE = "choose --checkpointing on, --quantize 4bit or a smaller --llm, or shorten prompts with --max-tokens"


@dataclass(frozen=True)
class Live:
    """A model that is being trained, as validation sees it."""

    recommender: Recommender
    name: str
    task: Literal["ctr"] = "ctr"
    probability: Literal["sigmoid"] = "sigmoid"
    stochastic: bool = False

    def score(self, dataset: Dataset, rows: Rows, progress: Progress | None = None) -> NDArray[np.float32]:
        scores = self.recommender.score(dataset, rows, progress=progress)
        refuse_not_finite(scores, rows, dataset)
        return scores

    def rank(
        self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude = "none", progress: Progress | None = None
    ) -> Ranking:
        raise ranks_not(self.name)


def fit_and_write(
    draft: Draft, tuning: Tuning, recommender: Recommender, objective: AnswerObjective, validation: Validation, run: Run
) -> Fitted:
    """Fit a model and write it into the draft of an `llm` artifact, its last state in a folder of its own.

    Args:
        objective: its module is what is trained of the recommender.

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
    scorer = Live(recommender, tuning.label)
    with autocast(run.device, tuning.dtype):
        valid = validation(scorer)
    lengths = tuning.tokens.lengths
    draft.metrics.update(
        model=scorer.name,
        task="ctr",
        metric=tuning.metric,
        valid=valid,
        priors=[
            prior(tuning.dataset, "ctr", True, validation, tuning.metric, called=called, users=users)
            for called, users in PRIORS.items()
        ],
        parameters=tuning.anatomy.parameters,
        trained_parameters=tuning.anatomy.trained,
        rows=len(tuning.rows),
        liked=int((tuning.labels == 1).sum()),
        tokens=int(lengths.sum()),
        longest=int(lengths.max()),
        shortened=tuning.tokens.shortened,
        answers=vars(recommender.head.answers),
    )
    report(draft, run, fitted)
    draft.metrics["tokens_per_second"] = round(fitted.targets_per_second * float(lengths.mean()), 1)
    return fitted


def compute_twice(model: PreTrainedModel) -> None:
    """Have activations computed twice instead of kept. Raises RectoolError for an architecture that cannot."""
    if not model.supports_gradient_checkpointing:
        raise RectoolError(f"{model.config.model_type} models know no checkpointing; set --checkpointing off")
    named_today = getattr(model, "activation_checkpointing_enable", None)
    (named_today or model.gradient_checkpointing_enable)({"use_reentrant": False})


def padding_of(tuning: Tuning, parts: TokenParts, seed: int) -> float:
    """The share of padding in what one process computes of the first epoch."""
    lengths, processes_in_all = tuning.tokens.lengths, processes.world_size()
    batches = shuffled_batches(lengths, np.ones_like(lengths), tuning.fit.batch_size * processes_in_all, (seed, 0))
    return padding_share(
        tuning.computed(tuning.tokens), (batch[::processes_in_all] for batch in batches[:LOOKED_AT]), parts
    )


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


def tell(tuning: Tuning, what: str, way: Way, padding: float) -> None:
    """What is trained, on what, and what it takes: before the wait."""
    anatomy, lengths, prompts = tuning.anatomy, tuning.tokens.lengths, tuning.prompts
    console.say(
        f"{anatomy.trained:,} of {anatomy.parameters:,} parameters are trained "
        f"({anatomy.trained / anatomy.parameters:.2%}): {what}"
    )
    console.say(f"{len(tuning.rows):,} train rows, {(tuning.labels == 1).mean():.1%} of them liked")
    words, ids = prompts.answers.words, prompts.answers.ids
    console.say(
        f"prompt {prompts.template.name}: {lengths.sum():,} tokens, {lengths.max():,} in the longest; answers "
        f"{words[0]!r} ({ids[0]}) and {words[1]!r} ({ids[1]}); {tuning.tokens.shortened:,} rows are shortened"
    )
    twice = ", activations computed twice" if way.checkpointing else ""
    console.say(
        f"{way.tokens:,} tokens at a time{twice}, {padding:.1%} of them padding; about {in_gigabytes(way.bytes)} of "
        f"memory, of the {in_gigabytes(free_memory(tuning.device))} that are free on {tuning.device}"
    )
