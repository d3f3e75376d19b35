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
from rectool.llm.recommender import refuse_unfit, usual_prompt
from rectool.prompts import template
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting
from rectool.prompts.tokens import TokenRows
from rectool.training.adapting import Anatomy, dissect, outline
from rectool.training.ctr import labelled_rows
from rectool.training.llm_estimate import Setup
from rectool.training.llm_way import Wanted, Way, choose_way
from rectool.training.lora_settings import Answering, FitLanguage, Language, Lora

SAMPLED = 512
"""Prompts that tell how long prompts are, before all of them are made."""


@dataclass(frozen=True)
class Tuning:
    """A model and the rows that it is tuned on.

    Attributes:
        rows: (N,) labelled train rows, those that were chosen.
        anatomy: what the model is made of.
        dtype: what is computed in.
        metric: that early stopping follows.
    """

    dataset: Dataset
    backbone: Backbone
    prompts: Prompts
    rows: NDArray[np.int64]
    anatomy: Anatomy
    lora: Lora
    answering: Answering
    fit: FitLanguage
    quantized: bool
    device: torch.device
    dtype: torch.dtype
    metric: str

    @cached_property
    def tokens(self) -> TokenRows:
        """The prompts of all rows."""
        return cached_rows(self.prompts, self.dataset, self.rows)

    @property
    def label(self) -> str:
        """What reports call the model: its name on the hub, or that of its folder."""
        return self.backbone.folder.name if self.backbone.folder is not None else self.backbone.name

    @property
    def labels(self) -> NDArray[np.int8]:
        """(N,)"""
        return self.dataset.label[self.rows]

    def way(self, lengths: NDArray[np.int64]) -> Way:
        """How steps of prompts of these lengths are computed on this device.

        Raises:
            RectoolError: they do not fit; names the flags that would make them fit.
        """
        longest = int(lengths.max(initial=1))
        step = math.ceil(longest * min(self.fit.batch_size, len(self.rows)) / self.fit.accumulate)
        wanted = Wanted(self.fit.batch_tokens, self.fit.checkpointing, longest, step)
        return choose_way(self._setup(), wanted, free_memory(self.device))

    def computed(self, tokens: TokenRows) -> NDArray[np.int64]:
        """(N,) how many tokens of some prompts take memory in a step."""
        return tokens.lengths

    def plan(self, reads: Sequence[str]) -> Plan:
        """What would be done, after checking that it can be; lengths are those of a sample of the prompts."""
        places = np.unique(np.linspace(0, len(self.rows) - 1, SAMPLED).astype(np.int64))
        way = self.way(self.computed(self.prompts.rows(self.dataset, self.rows[places])))
        weights = 4 * self.anatomy.trained
        return Plan(reads, disk_bytes=2 * weights, scratch_bytes=(3 + 2) * weights, memory_bytes=way.bytes)

    def _setup(self) -> Setup:
        config = self.backbone.config.get_text_config(decoder=True)
        lora = self.lora
        return Setup(config, self.anatomy, self.device, self.dtype, lora.full, lora.dropout > 0, self.quantized)


def prepare(
    dataset: Dataset,
    language: Language,
    lora: Lora,
    prompting: Prompting,
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
    if quantized and device.type != "cuda":
        raise RectoolError(f"--quantize {language.quantize} needs a GPU, but --device is {device}")
    rows = chosen_rows(dataset, answering, seed)
    metric = fit.metric_for("ctr")
    found = backbone.find(language.llm, revision=language.revision, elsewhere=elsewhere)
    if language.revision is not None and found.hub is None:
        raise RectoolError(f"--revision {language.revision} is of a model of the hub, but {language.llm} is a folder")
    prompts = Prompts.chosen(prompting, found.tokenizer(), default=usual_prompt(found), context=found.context)
    refuse_unfit(prompts, found)
    return Tuning(
        dataset=dataset,
        backbone=found,
        prompts=prompts,
        rows=rows,
        anatomy=dissect(outline(found.config), lora),
        lora=lora,
        answering=answering,
        fit=fit,
        quantized=quantized,
        device=device,
        dtype=dtype,
        metric=metric,
    )


def chosen_rows(dataset: Dataset, answering: Answering, seed: int) -> NDArray[np.int64]:
    """The labelled train rows, or as many of them as `--samples` says, chosen at random, in the log's order.

    Raises:
        RectoolError: there are none, or not as many.
    """
    rows = labelled_rows(dataset)
    if len(rows) == 0:
        raise RectoolError(f"{dataset.artifact.path} has no labelled train rows, which yes/no prompts need")
    if answering.samples is None:
        return rows
    if answering.samples > len(rows):
        raise RectoolError(
            f"--samples {answering.samples}: {dataset.artifact.path} has {len(rows):,} labelled train rows"
        )
    return np.sort(np.random.default_rng(seed).choice(rows, answering.samples, replace=False))


def inputs_of(tuning: Tuning, prompting: Prompting) -> list[Input]:
    """What is read, the data set aside."""
    return [*tuning.backbone.inputs(), *template.inputs(prompting.prompt)]
