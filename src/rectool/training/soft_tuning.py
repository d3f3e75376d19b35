"""What a run of `train-proj` trains, and what it stands on: settled before the language model's weights are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.artifacts import Input
from rectool.data.dataset import Dataset
from rectool.devices import device_named, precision_named
from rectool.errors import RectoolError
from rectool.llm.backbone import Backbone
from rectool.llm.files import refuse_four_bits
from rectool.llm.item_head import ItemHead, read, refuse_other_items
from rectool.llm.mask_plan import MaskPlan
from rectool.llm.recommender import refuse_unfit, usual_prompt
from rectool.llm.soft import SoftTokens
from rectool.llm.soft_prefix import prefix_lengths
from rectool.models.table import Task
from rectool.prompts import template
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokens import TokenRows
from rectool.settings import flag_name
from rectool.training.adapting import dissect, outline
from rectool.training.ground import Ground, adapters_of, find
from rectool.training.heads import item_head, settled_task
from rectool.training.lora_settings import Adapters, Answering
from rectool.training.soft_settings import (
    FitSoft,
    Freezing,
    InheritedPrompting,
    Part,
    SoftTokenSettings,
    Sources,
    Standing,
)
from rectool.training.soft_sources import kinds_of, parents_of, refuse_unmeant, tokens_of
from rectool.training.tuning import Tuning, chosen_rows, no_answers, rates_of, refuse_other_task

DEFAULT_PROMPT, WITH_HISTORY, NEXT_ITEM = "collm", "llara-ctr", "llara"
"""The templates with places for tokens, unless another one is asked for; the second where history tokens are."""
UNKNOWN_SHARE = 0.05
"""Of rows that hide their user or item, unless another share is asked for."""


@dataclass(frozen=True)
class SoftTuning(Tuning):
    """A language model with soft tokens, and the rows that parts of it are trained on.

    Attributes:
        soft: on the CPU, with all frozen that is not trained.
        adapter: the folder of the adapter that the model has; None where it has none, or one that starts here.
        adapter_role: of the parent that it is read from.
        parts: what is trained.
    """

    fit: FitSoft
    soft: SoftTokens
    adapter: Path | None
    adapter_role: str | None
    parts: tuple[Part, ...]
    freezing: Freezing

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of the language model is trained."""
        return "lora" not in self.parts

    @cached_property
    def text(self) -> TokenRows | None:
        """The prompts of all rows in text alone, where some of them are mixed in."""
        if not self.freezing.mixes:
            return None
        return cached_rows(_in_text(self.prompts), self.dataset, self.rows, spans=not self.mask.is_causal)

    @property
    def hidden(self) -> tuple[float, float]:
        """The share of rows that hide their user, and the share that hide their item: where some may be unknown."""
        soft, share = self.soft, self.freezing.unknown_share
        if share is None:
            share = UNKNOWN_SHARE if _learns_unknown(soft, self.parts) else 0.0
        users = "user" in soft.kinds and not soft.reads_history and not soft.known_users.all()
        items = "item" in soft.kinds and not soft.known_items.all()
        return share * users, share * items

    @property
    def has_prefix(self) -> bool:
        """Whether what stands before the first soft token is the same in each step, whatever comes after it."""
        return self.is_frozen and self.mask.is_causal

    def computed(self) -> NDArray[np.int64]:
        return self._computed(self.tokens)

    def _sampled(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._computed(self.prompts.rows(self.dataset, self.rows[places]))

    def _computed(self, tokens: TokenRows) -> NDArray[np.int64]:
        return tokens.lengths - prefix_lengths(tokens) if self.has_prefix else tokens.lengths


def prepare(
    dataset: Dataset,
    standing: Standing,
    fresh: Adapters,
    sources: Sources,
    settings: SoftTokenSettings,
    freezing: Freezing,
    prompting: InheritedPrompting,
    fit: FitSoft,
    seed: int,
    elsewhere: Mapping[str, Path] | None = None,
) -> SoftTuning:
    """Check everything against everything else.

    Raises:
        RectoolError: settings do not go together, the data set has no rows for them, or something that is needed is
            not there or not fit for it.
    """
    device = device_named(fit.device)
    dtype = precision_named(fit.precision, device)
    if standing.quantize != "none":
        refuse_four_bits(device)
    trained = freezing.parts()
    ground = find(standing, elsewhere)
    said = ground.said
    task = settled_task(dataset, freezing, said.get("task"))
    if task == "ctr" and "head" in trained:
        raise RectoolError(
            "--train head: yes/no prompts are answered by the language model; --task next-item has a head"
        )
    _refuse_idle(fit, freezing, trained)
    metric = fit.metric_for(task)
    lora = adapters_of(standing, fresh, ground.adapter, trained)
    if task == "next-item" and freezing.answer_loss is not None:
        raise no_answers(freezing.answer_loss)
    answering = Answering(
        answer_loss=freezing.answer_loss or said.get("answer_loss") or "softmax", samples=freezing.samples
    )
    mask = freezing.plan(said.get("mask", "causal"))
    mask.layers(ground.backbone.config.get_text_config(decoder=True).num_hidden_layers)
    _refuse_cache(fit, trained, mask)
    rows = chosen_rows(dataset, task, freezing.samples, seed)
    kinds = kinds_of(settings, ground.before, task)
    refuse_unmeant(sources, kinds, trained, settings, is_first=ground.before is None, start=freezing.item_head)
    prompts = _prompts(prompting, ground.backbone, kinds, said.get("prompt"), task)
    refuse_other_task(prompts, task)
    refuse_unfit(prompts, ground.backbone)
    if freezing.mixes:
        _refuse_no_text(prompts, freezing.mix)
    parents = parents_of(dataset, sources, elsewhere or {})
    soft = tokens_of(dataset, sources, settings, kinds, ground, parents, seed, told="liked" if task == "ctr" else "all")
    soft.train_only([part for part in trained if part not in ("lora", "head")])
    if freezing.unknown_share and not _learns_unknown(soft, trained):
        why = "without projector in --train" if soft.unknown == "trained" else f"with --unknown {soft.unknown}"
        raise RectoolError(
            f"--unknown-share {freezing.unknown_share} means nothing {why}: no vector of the unknown learns"
        )
    head = _head(dataset, freezing, ground, parents, seed) if task == "next-item" else None
    anatomy, trains_lora = dissect(outline(ground.backbone.config), lora), "lora" in trained
    anatomy = (anatomy if trains_lora else anatomy.frozen()).beside(soft, *([head] if head is not None else []))
    return SoftTuning(
        dataset=dataset,
        backbone=ground.backbone,
        prompts=prompts,
        rows=rows,
        anatomy=anatomy,
        lora=lora if trains_lora else replace(lora, dropout=0.0),
        answering=answering,
        fit=fit,
        task=task,
        head=head,
        writes=False,
        mask=mask,
        quantized=standing.quantize != "none",
        device=device,
        dtype=dtype,
        metric=metric,
        rates=rates_of(cf_learning_rate=fit.cf_learning_rate, head_learning_rate=freezing.head_learning_rate),
        soft=soft,
        adapter=ground.adapter,
        adapter_role=ground.adapter_role,
        parts=trained,
        freezing=freezing,
        parents=[*ground.parents, *parents, *template.inputs(prompting.prompt)],
    )


def _refuse_idle(fit: FitSoft, freezing: Freezing, trained: Sequence[Part]) -> None:
    """Raises RectoolError for the learning rate of a part that is not trained."""
    for part, name, rate in (
        ("cf", "cf_learning_rate", fit.cf_learning_rate),
        ("head", "head_learning_rate", freezing.head_learning_rate),
    ):
        if rate is not None and part not in trained:
            raise RectoolError(f"{flag_name(name)} means nothing where --train is {','.join(trained)}, without {part}")


def _learns_unknown(soft: SoftTokens, trained: Sequence[Part]) -> bool:
    """Whether a vector stands for users and items of no train row, and is trained."""
    return soft.unknown == "trained" and "projector" in trained


def _in_text(prompts: Prompts) -> Prompts:
    """The same without embeddings."""
    return Prompts.from_record({**prompts.record(), "soft": {}}, prompts.tokenizer)


def _refuse_no_text(prompts: Prompts, mix: str) -> None:
    """Raises RectoolError where rows are to be of text alone, and the prompt has nothing but embeddings to say."""
    try:
        _in_text(prompts)
    except RectoolError:
        raise RectoolError(
            f"--mix {mix}: without embeddings prompt {prompts.template.name} says nothing of whom it asks about; leave "
            "--mix out, or choose a prompt with titles"
        ) from None


def _refuse_cache(fit: FitSoft, trained: Sequence[Part], mask: MaskPlan) -> None:
    """Raises RectoolError where states before the first soft token cannot be kept, but are to be."""
    if not fit.cache_bytes():
        return
    why = "with --train lora each step changes those states" if "lora" in trained else None
    if not mask.is_causal:
        why = f"with --mask {mask.text} prompts are computed as wholes"
    if why is not None:
        raise RectoolError(f"--cache-prefix {fit.cache_prefix}: {why}; leave it out")


def _head(dataset: Dataset, freezing: Freezing, ground: Ground, parents: Sequence[Input], seed: int) -> ItemHead:
    """The item head that was asked for, else that of what is continued, else one that starts from chance."""
    trains = "head" in freezing.parts()
    told = ground.told
    if freezing.item_head is None and told is not None and ground.said["head"] == ItemHead.kind:
        assert told.artifact is not None
        refuse_other_items(told.artifact, dataset)
        head = read(told.artifact, ground.said)
        head.source = told.role
        return head.requires_grad_(trains)
    if not trains:
        raise RectoolError("an item head starts here that nothing has trained: add head to --train")
    semantic = next((parent.artifact for parent in parents if parent.role in ("semantic", "aligned")), None)
    hidden_size = ground.backbone.config.get_text_config(decoder=True).hidden_size
    head = item_head(dataset, freezing.item_head or "random", semantic, hidden_size, seed)
    head.source = next((parent.role for parent in parents if parent.artifact is semantic), head.source)
    return head


def _prompts(
    prompting: InheritedPrompting,
    found: Backbone,
    kinds: Mapping[str, int],
    record: Mapping[str, Any] | None,
    task: Task,
) -> Prompts:
    usual: str | template.Template = WITH_HISTORY if "history" in kinds else usual_prompt(found, DEFAULT_PROMPT)
    if task == "next-item":
        usual = NEXT_ITEM
    if record:
        before = template.parse(record["template"]["text"], record["template"]["name"])
        if before.task == task and set(kinds) <= set(before.soft):
            usual = before
    return Prompts.chosen(
        prompting.over(record or {}), found.tokenizer(), default=usual, context=found.context, soft=kinds
    )
