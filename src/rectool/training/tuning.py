"""What a run of `tune-lora` trains, and how: settled before any weights are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rectool.artifacts import Input
from rectool.data.dataset import Dataset
from rectool.data.estimate import Plan
from rectool.devices import device_named, free_memory, precision_named
from rectool.errors import RectoolError
from rectool.llm import backbone
from rectool.llm.backbone import Backbone
from rectool.llm.files import refuse_four_bits
from rectool.llm.item_head import ItemHead
from rectool.llm.mask_plan import MaskKind, MaskPlan
from rectool.llm.recommender import NEXT_ITEM_PROMPT, refuse_unfit, usual_prompt
from rectool.models.table import Task
from rectool.prompts import template
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting
from rectool.prompts.tokens import TokenRows
from rectool.training.adapting import Anatomy, dissect, outline
from rectool.training.ctr import labelled_rows
from rectool.training.heads import item_head, parent_of_items, settled_task
from rectool.training.llm_estimate import Setup
from rectool.training.llm_way import Wanted, Way, choose_way
from rectool.training.lora_settings import Answering, FitLanguage, Language, Lora, Predicting
from rectool.training.losses import BUFFER_BYTES
from rectool.training.next_item import training_targets
from rectool.training.token_parts import LINE_TOKENS

SAMPLED = 512
"""Prompts that tell how long prompts are, before all of them are made."""


@dataclass(frozen=True)
class Tuning:
    """A model and the rows that it is tuned on.

    Attributes:
        rows: (N,) train rows, those that were chosen.
        anatomy: what the model is made of, its item head included.
        head: the item head; None for a model that answers with words, or writes titles.
        writes: whether it writes titles.
        mask: which tokens of a prompt see which.
        dtype: what is computed in.
        metric: that early stopping follows.
        rates: highest learning rates of what has its own, see `Run`.
        parents: what is read, the data set aside.
    """

    dataset: Dataset
    backbone: Backbone
    prompts: Prompts
    rows: NDArray[np.int64]
    anatomy: Anatomy
    lora: Lora
    answering: Answering
    fit: FitLanguage
    task: Task
    head: ItemHead | None
    writes: bool
    mask: MaskPlan
    quantized: bool
    device: torch.device
    dtype: torch.dtype
    metric: str
    rates: Mapping[str, float]
    parents: Sequence[Input]

    @cached_property
    def tokens(self) -> TokenRows:
        """The prompts of all rows; with item spans, where a mask goes by them."""
        return cached_rows(self.prompts, self.dataset, self.rows, spans=not self.mask.is_causal)

    @cached_property
    def titles(self) -> TokenRows | None:
        """(I,) what a model that writes shall write for each item."""
        return self.prompts.outputs(self.dataset, np.arange(self.dataset.items)) if self.writes else None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each row."""
        return self._with_titles(self.tokens.lengths, self.items)

    @property
    def depth(self) -> int:
        """How many layers the model has."""
        layers: int = self.backbone.config.get_text_config(decoder=True).num_hidden_layers
        return layers

    @property
    def layers(self) -> tuple[MaskKind, ...]:
        """The mask of each layer, from the bottom up; none where all are causal."""
        return () if self.mask.is_causal else self.mask.layers(self.depth)

    @property
    def idle(self) -> MaskKind | None:
        """A kind of mask that has only the top layer, in which it changes nothing; None where there is none."""
        return self.mask.idle_on_top(self.depth)

    @property
    def labels(self) -> NDArray[np.int8]:
        """(N,)"""
        return self.dataset.label[self.rows]

    @property
    def items(self) -> NDArray[np.int32]:
        """(N,) the item of each row."""
        return self.dataset.item[self.rows]

    def room(self) -> int:
        """Bytes that the device has for weights and steps, as long as no weights are on it."""
        return free_memory(self.device)

    def way(self, lengths: NDArray[np.int64], room: int) -> Way:
        """How steps of rows of these lengths are computed on this device.

        Raises:
            RectoolError: they do not fit; names the flags that would make them fit.
        """
        longest = int(lengths.max(initial=1))
        step = math.ceil(longest * min(self.fit.batch_size, len(self.rows)) / self.fit.accumulate)
        wanted = Wanted(self.fit.batch_tokens, self.fit.checkpointing, longest, step)
        return choose_way(self._setup(longest), wanted, room)

    def computed(self) -> NDArray[np.int64]:
        """(N,) how many tokens of each row take memory in a step."""
        return self.lengths

    def plan(self, reads: Sequence[str]) -> Plan:
        """What would be done, after checking that it can be; lengths are those of a sample of the prompts."""
        places = np.unique(np.linspace(0, len(self.rows) - 1, SAMPLED).astype(np.int64))
        way = self.way(self._sampled(places), self.room())
        weights = 4 * self.anatomy.trained
        return Plan(reads, disk_bytes=2 * weights, scratch_bytes=(3 + 2) * weights, memory_bytes=way.bytes)

    def _sampled(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What `computed` says of some rows, whose prompts are made for it."""
        lengths = self.prompts.rows(self.dataset, self.rows[places]).lengths
        return self._with_titles(lengths, self.items[places])

    def _with_titles(self, lengths: NDArray[np.int64], items: NDArray[np.int32]) -> NDArray[np.int64]:
        return lengths if self.titles is None else lengths + self.titles.lengths[items]

    def _setup(self, longest: int) -> Setup:
        config = self.backbone.config.get_text_config(decoder=True)
        lora, kinds = self.lora, set(self.layers) - {"or"}
        width = 0 if not kinds else longest if self.fit.packing == "off" else max(longest, LINE_TOKENS)
        return Setup(
            config,
            self.anatomy,
            self.device,
            self.dtype,
            lora.full,
            lora.dropout > 0,
            self.quantized,
            masks=len(kinds),
            masked_layers=len(self.layers) - self.layers.count("or"),
            mask_width=width,
            beside=self._beside(),
        )

    def _beside(self) -> int:
        """Bytes of a head's keys and their gradient while a loss over all of them is computed, and of some logits."""
        if self.head is not None:
            keys, table = self.head.items, self.head.semantic
        elif self.writes:
            keys, table = self.backbone.vocabulary, None
        else:
            return 0
        width: int = self.backbone.config.get_text_config(decoder=True).hidden_size
        return BUFFER_BYTES[self.device.type] + 2 * 4 * keys * width + (0 if table is None else table.nbytes)


def prepare(
    dataset: Dataset,
    language: Language,
    lora: Lora,
    prompting: Prompting,
    predicting: Predicting,
    answering: Answering,
    fit: FitLanguage,
    seed: int,
    elsewhere: Mapping[str, Path] | None = None,
) -> Tuning:
    """Check everything against everything else.

    Raises:
        RectoolError: settings do not go together, the data set has no rows for them, or the language model or its
            tokenizer is not there or not fit for it.
    """
    quantized = language.quantize != "none"
    device = device_named(fit.device)
    dtype = precision_named(fit.precision, device)
    if quantized and lora.full:
        raise RectoolError(f"--quantize {language.quantize} keeps weights as they are, --full trains them; give one")
    if quantized:
        refuse_four_bits(device)
    task = settled_task(dataset, predicting)
    writes = task == "next-item" and predicting.head == "title"
    if task == "next-item" and answering.answer_loss != Answering.answer_loss:
        raise no_answers(answering.answer_loss)
    rows = chosen_rows(dataset, task, answering.samples, seed)
    metric = fit.metric_of(task, writes=writes)
    found = backbone.find(language.llm, revision=language.revision, elsewhere=elsewhere)
    default = usual_prompt(found) if task == "ctr" else NEXT_ITEM_PROMPT
    prompts = Prompts.chosen(prompting, found.tokenizer(), default=default, context=found.context)
    refuse_other_task(prompts, task)
    refuse_unfit(prompts, found)
    config, mask = found.config.get_text_config(decoder=True), predicting.plan()
    mask.layers(config.num_hidden_layers)
    parents, head = [*found.inputs(), *template.inputs(prompting.prompt)], None
    if task == "next-item" and not writes:
        semantic = None
        if predicting.semantic is not None:
            parents.append(parent_of_items(dataset, "semantic", predicting.semantic, elsewhere or {}))
            semantic = parents[-1].artifact
        head = item_head(dataset, predicting.item_head or "random", semantic, config.hidden_size, seed)
    anatomy = dissect(outline(found.config), lora)
    return Tuning(
        dataset=dataset,
        backbone=found,
        prompts=prompts,
        rows=rows,
        anatomy=anatomy if head is None else anatomy.beside(head),
        lora=lora,
        answering=answering,
        fit=fit,
        task=task,
        head=head,
        writes=writes,
        mask=mask,
        quantized=quantized,
        device=device,
        dtype=dtype,
        metric=metric,
        rates=rates_of(head_learning_rate=predicting.head_learning_rate),
        parents=parents,
    )


def chosen_rows(dataset: Dataset, task: Task, samples: int | None, seed: int) -> NDArray[np.int64]:
    """The train rows of a task, or as many of them as `--samples` says, chosen at random, in the log's order.

    Raises:
        RectoolError: there are not as many.
    """
    rows = labelled_rows(dataset) if task == "ctr" else training_targets(dataset, autoregressive=False)
    if samples is None:
        return rows
    if samples > len(rows):
        labelled = "labelled " if task == "ctr" else ""
        raise RectoolError(f"--samples {samples}: {dataset.artifact.path} has {len(rows):,} {labelled}train rows")
    return np.sort(np.random.default_rng(seed).choice(rows, samples, replace=False))


def rates_of(**given: float | None) -> dict[str, float]:
    """Learning rates of parts of a `Trainable`, by what the names of their parameters begin with."""
    starts = {"head_learning_rate": "head.", "cf_learning_rate": "soft.cf."}
    return {starts[name]: rate for name, rate in given.items() if rate is not None}


def no_answers(answer_loss: str) -> RectoolError:
    """What is said to `--answer-loss` where nothing is answered."""
    return RectoolError(f"--answer-loss {answer_loss} is for --task ctr: the next item is no yes or no")


def refuse_other_task(prompts: Prompts, task: Task) -> None:
    """Raises RectoolError where a prompt asks something else."""
    if prompts.template.task != task:
        raise RectoolError(
            f"prompt {prompts.template.name} is of task {prompts.template.task}, but --task is {task}; choose another "
            "--prompt"
        )
