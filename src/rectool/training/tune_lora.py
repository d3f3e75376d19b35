"""Tuning a language model on yes/no prompts: from its weights to an adapter, or to a model of its own."""

from __future__ import annotations

import torch

from rectool.artifacts import Draft
from rectool.llm import recommender as recommenders
from rectool.llm.recommender import Recommender
from rectool.training.adapting import adapt
from rectool.training.answers import AnswerObjective
from rectool.training.asking import Live, compute_twice, fit_and_write, is_packed, padding_of, tell
from rectool.training.llm_way import Way
from rectool.training.run import Run
from rectool.training.token_parts import TokenParts
from rectool.training.tuning import Tuning
from rectool.training.validation import Validation


def tune(draft: Draft, tuning: Tuning, run: Run) -> None:
    """Tune a model and write it into the draft of an `llm` artifact, its last state in a folder of its own.

    Raises:
        RectoolError: the model cannot be read, does not fit the device, or its loss is no longer finite.
        Stopped: with a checkpoint.
    """
    way = tuning.way(tuning.tokens.lengths)
    padding = padding_of(tuning, TokenParts(way.tokens), run.seed)
    what = "all of its weights" if tuning.lora.full else f"adapters of rank {tuning.lora.rank} in "
    tell(tuning, what + ", ".join(tuning.anatomy.targets), way, padding)
    recommender = _with_weights(tuning, way, run.seed)
    packed = is_packed(tuning, recommender, padding)
    validation = Validation.of(tuning.dataset, "ctr", run.device, tuning.fit.validate_rows, run.seed)
    objective = AnswerObjective(
        recommender.model,
        recommender.head,
        tuning.tokens,
        tuning.labels,
        TokenParts(way.tokens, packed),
        lambda: validation(Live(recommender, tuning.label)),
        run.device,
    )
    fitted = fit_and_write(draft, tuning, recommender, objective, validation, run)
    draft.metrics.update(
        padding=round(padding, 4),
        packed=packed,
        checkpointing=way.checkpointing,
        batch_tokens=way.tokens // fitted.progress.parts,
    )


def _with_weights(tuning: Tuning, way: Way, seed: int) -> Recommender:
    """The model that is trained, on its device, with its head and prompts."""
    plain = tuning.backbone.model(
        device=tuning.device,
        dtype=torch.float32 if tuning.lora.full else tuning.dtype,
        quantize="4bit" if tuning.quantized else None,
    )
    torch.manual_seed(seed)
    model = adapt(plain, tuning.lora, tuning.anatomy.targets)
    if way.checkpointing:
        compute_twice(plain)
    return recommenders.assemble(
        tuning.backbone, model, tuning.prompts, device=tuning.device, answer_loss=tuning.answering.answer_loss
    )
