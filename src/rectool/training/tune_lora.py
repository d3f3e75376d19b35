"""Tuning a language model on prompts: from its weights to an adapter, or to a model of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from rectool import processes
from rectool.artifacts import Draft
from rectool.evaluation.score import Rows
from rectool.llm import recommender as recommenders
from rectool.llm.heads import Head
from rectool.llm.recommender import Recommender
from rectool.llm.title_head import TitleHead
from rectool.prompts.cached import cached_rows
from rectool.prompts.tokens import TokenRows
from rectool.training.adapting import adapt
from rectool.training.asking import Live, compute_twice, criterion_of, fit_and_write, is_packed, padding_of, tell
from rectool.training.llm_way import Way
from rectool.training.lora_settings import TITLE_METRIC
from rectool.training.prompted import PromptObjective, Trainable
from rectool.training.run import Objective, Run
from rectool.training.titles import TitleCriterion, TitleObjective
from rectool.training.token_parts import TokenParts
from rectool.training.tuning import Tuning
from rectool.training.validation import Validation


def tune(draft: Draft, tuning: Tuning, run: Run) -> None:
    """Tune a model and write it into the draft of an `llm` artifact, its last state in a folder of its own.

    Raises:
        RectoolError: the model cannot be read, does not fit the device, or its loss is no longer finite.
        Stopped: with a checkpoint.
    """
    room = tuning.room()
    way = tuning.way(tuning.lengths, room)
    padding = padding_of(tuning, tuning.lengths, TokenParts(way.tokens), run.seed)
    what = "all of its weights" if tuning.lora.full else f"adapters of rank {tuning.lora.rank} in "
    what += ", ".join(tuning.anatomy.targets)
    tell(tuning, what if tuning.head is None else f"{what}, and an item head", way, padding, room)
    recommender = _with_weights(tuning, way, run.seed)
    packed = is_packed(tuning, recommender, padding)
    validation = Validation.of(tuning.dataset, tuning.task, run.device, tuning.fit.validate_rows, run.seed)
    objective = _objective(tuning, recommender, TokenParts(way.tokens, packed), validation)
    fitted = fit_and_write(draft, tuning, recommender, objective, validation, replace(run, rates=tuning.rates))
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
    head: Head | None = TitleHead(model) if tuning.writes else tuning.head
    return recommenders.assemble(
        tuning.backbone,
        model,
        tuning.prompts,
        device=tuning.device,
        head=head,
        mask=tuning.mask,
        answer_loss=tuning.answering.answer_loss,
    )


def _objective(tuning: Tuning, recommender: Recommender, parts: TokenParts, validation: Validation) -> Objective:
    """What is minimised: of titles the loss of their tokens, of all else that of the state that a prompt ends in."""
    model, head, device, layers = recommender.model, recommender.head, recommender.device, tuning.layers

    def measure() -> Mapping[str, float]:
        return validation(Live(recommender, tuning.backbone.label))

    if not isinstance(head, TitleHead):
        trained = Trainable(model, head=tuning.head)
        criterion = criterion_of(tuning, recommender)
        return PromptObjective(trained, model, tuning.tokens, criterion, parts, measure, device, layers)
    assert tuning.titles is not None
    if tuning.metric == TITLE_METRIC:
        measure = _title_loss(tuning, tuning.titles, recommender, head, parts, validation.rows)
    writing = TitleCriterion(head, tuning.titles, tuning.items, device)
    return TitleObjective(Trainable(model), model, tuning.tokens, writing, parts, measure, device, layers)


def _title_loss(
    tuning: Tuning, titles: TokenRows, recommender: Recommender, head: TitleHead, parts: TokenParts, rows: Rows
) -> Callable[[], Mapping[str, float]]:
    """The mean loss of all tokens of the titles of validation rows (N,), which processes share."""
    model, device = recommender.model, recommender.device
    tokens = cached_rows(tuning.prompts, tuning.dataset, rows, spans=not tuning.mask.is_causal)
    criterion = TitleCriterion(head, titles, tuning.dataset.item[rows], device)
    held_out = TitleObjective(model, model, tokens, criterion, parts, dict, device, tuning.layers)
    places = np.arange(len(rows))

    def measure() -> Mapping[str, float]:
        if len(rows) == 0:
            return {}
        total = torch.zeros(1, device=device)
        for part in held_out.parts(places[processes.rank() :: processes.world_size()], 1):
            total += held_out.loss(part).detach()
        return {TITLE_METRIC: float(processes.all_reduce_sum(total)) / held_out.targets(places)}

    return measure
