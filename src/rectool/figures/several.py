"""Attention of several language models over the same prompts' rows, one model in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.artifacts import Artifact, Input, folder
from rectool.data.dataset import Dataset
from rectool.devices import device_named, precision_named
from rectool.errors import RectoolError
from rectool.evaluation import subjects
from rectool.evaluation.runs import named
from rectool.evaluation.settings import Computing, Language, Measuring, Untuned, given
from rectool.figures import token_pairs, within_across
from rectool.figures.attended import Attended
from rectool.figures.drawing import Drawing
from rectool.figures.settings import Asked, Many, Names
from rectool.llm import document, soft_saved
from rectool.llm import recommender as recommenders
from rectool.llm.backbone import Backbone
from rectool.llm.files import Quantize
from rectool.prompts import template
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting


@dataclass(frozen=True)
class Compared:
    """Models that have been found, whose weights are not read yet.

    Attributes:
        names: what they are called, one each.
        models: an `llm` artifact each, or a model that has not been tuned.
        above: the roles of what they are made from and need.
    """

    names: tuple[str, ...]
    models: tuple[Artifact | Backbone, ...]
    language: Language
    prompting: Prompting
    above: frozenset[str]

    def inputs(self) -> list[Input]:
        """What they are read from, and the prompt's file if one was given."""
        found = []
        for number, model in enumerate(self.models, 1):
            role = f"model-{number}"
            found += model.inputs(role) if isinstance(model, Backbone) else [Input(role, model.path, artifact=model)]
        return [*found, *template.inputs(self.prompting.prompt)]

    def weight_bytes(self) -> int:
        """Of the largest on disk, as far as it lies there."""
        return max(map(_weight_bytes, self.models))

    def load(self, dataset: Dataset, computing: Computing) -> Iterator[Attended]:
        """Each model, which is asked as it was tuned; those that were not, like the first that was.

        Raises:
            RectoolError: one cannot be loaded, or cannot be asked so.
        """
        record = None if given(self.prompting) else next(map(_record, filter(_is_tuned, self.models)), None)
        for name, model in zip(self.names, self.models, strict=True):
            if isinstance(model, Backbone):
                yield self._untuned(name, model, dataset, computing, record)
            else:
                soft_saved.refuse_other_data(model, dataset)
                yield Attended.of(recommenders.load(model, **self._read(computing)), name)

    def _untuned(
        self, name: str, backbone: Backbone, dataset: Dataset, computing: Computing, record: dict[str, Any] | None
    ) -> Attended:
        tokenizer = backbone.tokenizer()
        if record is None:
            has_labels = bool((dataset.label >= 0).any())
            usual = recommenders.usual_prompt(backbone) if has_labels else recommenders.NEXT_ITEM_PROMPT
            prompts = Prompts.chosen(self.prompting, tokenizer, default=usual, context=backbone.context)
        else:
            prompts = Prompts.from_record({**record, "soft": {}}, tokenizer)
        prompts.fits(backbone.vocabulary, backbone.name)
        read = self._read(computing)
        return Attended(name, backbone.model(**read), prompts, read["device"])

    def _read(self, computing: Computing) -> dict[str, Any]:
        device = device_named(computing.device)
        quantize: Quantize | None = None if self.language.quantize == "none" else self.language.quantize
        return {"device": device, "dtype": precision_named(self.language.precision, device), "quantize": quantize}


def find(
    asked: Asked, names: Names, language: Language, prompting: Prompting, elsewhere: Mapping[str, Path]
) -> Compared:
    """The models that are meant: the one of --llm, untuned, before the others.

    Raises:
        RectoolError: there is none, one is no language model, or there is nobody to take a flag.
    """
    paths = [*([Path(language.llm)] if language.llm is not None else []), *asked.model]
    called = named(paths, names.name)
    alone = replace(language, llm=None, revision=None)
    first = [None] if language.llm is not None or not paths else []
    found = [
        subjects.find(
            path, asked.data, Measuring(), language if path is None else alone, Prompting(), Untuned(), elsewhere
        )
        for path in [*first, *asked.model]
    ]
    models: list[Artifact | Backbone] = []
    for name, subject in zip(called, found, strict=True):
        if isinstance(subject, subjects.Collaborative):
            raise RectoolError(f"{name} is no language model, and has no attention over a prompt")
        models.append(subject.backbone if isinstance(subject, subjects.AsItIs) else _artifact(subject))
    if all(map(_is_tuned, models)):
        for flag in given(prompting):
            raise RectoolError(f"{flag}: all of these models are asked as they were tuned; leave it out")
    above = frozenset(role for subject in found for role in subject.above)
    return Compared(tuple(called), tuple(models), language, prompting, above)


def drawings(compared: Compared, dataset: Dataset, many: Many, computing: Computing, seed: int) -> list[Drawing]:
    """Attention inside items and across them, and what the tokens of both have to do with each other.

    Raises:
        RectoolError: the data set has no test or train rows, or a model cannot be asked.
    """
    shown, training = drawn(dataset, "test", many.rows, seed), drawn(dataset, "train", many.pairs, seed)
    found: list[within_across.Summed] = []
    statistics: dict[str, list[dict[str, object]]] = {}
    for attended in compared.load(dataset, computing):
        asked = attended.asked(dataset, shown)
        found.append(within_across.summed(attended, asked))
        prompts = attended.prompts
        key = json.dumps([prompts.record(), prompts.tokenizer.digest])
        if key not in statistics:
            label = f"{prompts.template.name}, tokens of {attended.name}"
            trained = prompts.rows(dataset, training, spans=True)
            statistics[key] = token_pairs.statistics(label, asked.tokens, trained)
    data = folder.real(dataset.artifact.path).name
    lines = [line for each in statistics.values() for line in each]
    return [
        within_across.drawing(f"{data}, {len(shown):,} prompts: attention inside items and across them", found),
        token_pairs.drawing(f"{data}: token pairs of one item, and of different items", lines),
    ]


def drawn(dataset: Dataset, split: str, count: int, seed: int) -> NDArray[np.int64]:
    """Some rows of a split, drawn at random, in their order. Raises RectoolError if it has none."""
    rows = dataset.targets(split)
    if not len(rows):
        raise RectoolError(f"{dataset.artifact.path} has no {split} rows, and so no prompts to look at")
    return np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))


def _artifact(subject: subjects.Subject) -> Artifact:
    assert isinstance(subject, subjects.Tuned)
    return subject.artifact


def _is_tuned(model: Artifact | Backbone) -> bool:
    return isinstance(model, Artifact)


def _record(model: Artifact | Backbone) -> dict[str, Any]:
    """The prompts of a tuned model, as they were recorded."""
    assert isinstance(model, Artifact)
    record: dict[str, Any] = document.read(model)["prompt"]
    return record


def _weight_bytes(model: Artifact | Backbone) -> int:
    if isinstance(model, Artifact):
        return sum(file.bytes for name, file in model.manifest.files.items() if name.endswith(".safetensors"))
    there = (model.home / name for name in model.weights)
    return sum(path.stat().st_size for path in there if path.is_file())
