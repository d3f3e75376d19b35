"""What a run of `train-proj` trains, and what it stands on: settled before the language model's weights are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rectool.artifacts import Artifact, Input
from rectool.data.dataset import Dataset
from rectool.devices import device_named, precision_named
from rectool.errors import RectoolError
from rectool.llm import document
from rectool.llm.backbone import Backbone
from rectool.llm.files import refuse_four_bits
from rectool.llm.item_head import ItemHead, read, refuse_other_items
from rectool.llm.mask_plan import MaskPlan
from rectool.llm.recommender import refuse_unfit, usual_prompt
from rectool.llm.soft import SoftTokens, Told, refuse_other
from rectool.llm.soft_parts import Parts, build
from rectool.llm.soft_prefix import prefix_lengths
from rectool.llm.soft_saved import parts_of
from rectool.models.mf import MatrixFactorization
from rectool.models.model import Size
from rectool.models.saved import Trained
from rectool.models.table import Task
from rectool.prompts import template
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokens import TokenRows
from rectool.settings import flag_name
from rectool.training.adapting import dissect, outline
from rectool.training.ground import BEFORE, Ground, adapters_of, find
from rectool.training.heads import item_head, parent_of_items, settled_task
from rectool.training.lora_settings import Adapters, Answering, ItemHeadStart
from rectool.training.soft_settings import (
    COLLABORATIVE,
    FitSoft,
    Freezing,
    InheritedPrompting,
    Part,
    SoftTokenSettings,
    Sources,
    Standing,
    Token,
)
from rectool.training.tuning import Tuning, chosen_rows, no_answers, rates_of, refuse_other_task

DEFAULT_PROMPT, WITH_HISTORY, NEXT_ITEM = "collm", "llara-ctr", "llara"
"""The templates with places for tokens, unless another one is asked for; the second where history tokens are."""
USUAL_TOKENS: Mapping[Task, tuple[Token, ...]] = {"ctr": ("user", "item"), "next-item": ("history",)}


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
        soft, learns = self.soft, "projector" in self.parts and self.soft.unknown == "trained"
        share = self.freezing.unknown_share if learns else 0.0
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
    kinds = _kinds(settings, ground.before, task)
    _refuse_unmeant(sources, kinds, trained, settings, is_first=ground.before is None, start=freezing.item_head)
    prompts = _prompts(prompting, ground.backbone, kinds, said.get("prompt"), task)
    refuse_other_task(prompts, task)
    refuse_unfit(prompts, ground.backbone)
    if freezing.mixes:
        _refuse_no_text(prompts, freezing.mix)
    parents = _parents(dataset, sources, elsewhere or {})
    soft = _soft(dataset, sources, settings, kinds, ground, parents, seed, told="liked" if task == "ctr" else "all")
    soft.train_only([part for part in trained if part not in ("lora", "head")])
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


def _kinds(settings: SoftTokenSettings, before: Artifact | None, task: Task) -> dict[str, int]:
    """How many embeddings go into each place: as asked, else as in the hybrid that is continued."""
    earlier = {each["kind"]: int(each["count"]) for each in document.read(before)["soft_tokens"]} if before else {}
    names = settings.names() or tuple(earlier) or USUAL_TOKENS[task]
    usual = settings.tokens_per_id or next(iter(earlier.values()), 1)
    return {name: settings.tokens_per_id or earlier.get(name, usual) for name in names}


def _refuse_unmeant(
    sources: Sources,
    kinds: Mapping[str, int],
    trained: Sequence[Part],
    settings: SoftTokenSettings,
    *,
    is_first: bool,
    start: ItemHeadStart | None,
) -> None:
    """Raises RectoolError where a token has nothing that it is made of, or something is named that none is made of.

    Args:
        start: what an item head starts from, which may be semantic embeddings too.
    """
    tokens = ",".join(kinds)
    collaborative, warm = any(kind in COLLABORATIVE for kind in kinds), "warm" in kinds
    has_vectors = sources.cf is not None or sources.aligned is not None or sources.fresh_ids is not None
    if is_first and collaborative and not has_vectors:
        raise RectoolError(
            f"--tokens {tokens} are made of a collaborative model: name one with --cf or --aligned, or give --fresh-ids"
        )
    if is_first and warm and sources.semantic is None and sources.aligned is None:
        raise RectoolError(
            "--tokens warm are made of semantic embeddings: name them with --semantic or --aligned; rectool distill "
            "makes them"
        )
    if not collaborative and (sources.cf is not None or sources.fresh_ids is not None):
        flag = "--cf" if sources.cf is not None else "--fresh-ids"
        raise RectoolError(f"{flag} is for the tokens user, item and history, but --tokens is {tokens}")
    if not collaborative and settings.biases:
        raise RectoolError(f"--biases is for the tokens user, item and history, but --tokens is {tokens}")
    if start in ("semantic", "tied"):
        if sources.semantic is None and sources.aligned is None:
            raise RectoolError(f"--item-head {start} needs --semantic, the embeddings of rectool distill or adopt")
    elif not warm and sources.semantic is not None:
        raise RectoolError(f"--semantic is for the token warm or an --item-head of it, but --tokens is {tokens}")
    for part, there in (("cf", collaborative), ("semantic", warm)):
        if part in trained and not there:
            raise RectoolError(f"--train {part}: the tokens {tokens} are made of no such part")
    if sources.fresh_ids is not None and "cf" not in trained:
        raise RectoolError("--fresh-ids makes embeddings that nothing has trained: add cf to --train")
    if settings.projector_start == "aligned" and sources.aligned is None:
        raise RectoolError("--projector-start aligned needs --aligned, whose projector it is")


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


def _parents(dataset: Dataset, sources: Sources, elsewhere: Mapping[str, Path]) -> list[Input]:
    """The artifacts whose vectors are taken; each must be of this data set."""
    found = []
    for role in ("aligned", "cf", "semantic"):
        path = getattr(sources, role)
        if path is not None:
            found.append(parent_of_items(dataset, role, path, elsewhere))
    return found


def _soft(
    dataset: Dataset,
    sources: Sources,
    settings: SoftTokenSettings,
    kinds: Mapping[str, int],
    ground: Ground,
    parents: Sequence[Input],
    seed: int,
    *,
    told: Told,
) -> SoftTokens:
    parts, unknown, biases = Parts(), settings.unknown, bool(settings.biases)
    expansion, activation = settings.expansion, settings.activation
    if ground.before is not None:
        before = document.read(ground.before)["soft"]
        refuse_other(before["data"], dataset)
        parts, unknown = parts_of(ground.before, BEFORE), unknown or before["unknown"]
        biases = before["biases"] if settings.biases is None else settings.biases
        if (old := parts.projector) is not None:
            expansion, activation = expansion or old.hidden / old.inputs, activation or old.activation
        if biases != before["biases"]:
            parts = replace(parts, unknown={})
    for parent in parents:
        assert parent.artifact is not None
        named = parts_of(parent.artifact, parent.role)
        if ground.before is None or parent.role != "aligned":
            parts = named.over(parts)
            continue
        if not parts.lacks(kinds):
            raise RectoolError(
                f"--aligned gives what --init-from lacks, but {ground.before.path} has all that --tokens "
                f"{','.join(kinds)} needs; leave it out, or exchange parts with --cf and --semantic"
            )
        parts = parts.over(named)
    if sources.fresh_ids is not None:
        parts = Parts(collaborative=_fresh(dataset, sources.fresh_ids, seed)).over(parts)
    if settings.projector_start == "random":
        parts = replace(parts, projector=None)
    elif parts.projector is not None:
        for name in ("expansion", "activation", "biases"):
            if getattr(settings, name) is not None:
                raise RectoolError(
                    f"{flag_name(name)}: the projector is that of {_owner(parts, ground, parents)}; leave it out, or "
                    "set --projector-start random"
                )
    return build(
        dataset,
        kinds,
        ground.backbone.config.get_text_config(decoder=True).hidden_size,
        parts,
        expansion=expansion or 10.0,
        activation=activation or "relu",
        unknown=unknown or "trained",
        told=told,
        biases=biases,
        seed=seed,
    )


def _owner(parts: Parts, ground: Ground, parents: Sequence[Input]) -> Path:
    """Where the projector comes from."""
    role = parts.sources["projector"]
    return next(parent.path for parent in (*ground.parents, *parents) if parent.role == role)


def _fresh(dataset: Dataset, width: int, seed: int) -> Trained:
    """Embeddings of users and items that nothing has trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = MatrixFactorization.Settings(embedding_size=width, biases=False)
        model = MatrixFactorization(settings, Size(dataset.users, dataset.items))
    return Trained("mf", model.eval(), "ctr", None, "sigmoid")
