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

from rectool.artifacts import Artifact, Input, open_artifact
from rectool.data.dataset import Dataset
from rectool.devices import device_named, precision_named
from rectool.errors import RectoolError
from rectool.llm.backbone import Backbone
from rectool.llm.recommender import refuse_unfit, usual_prompt
from rectool.llm.soft import SoftTokens, refuse_other
from rectool.llm.soft_prefix import prefix_lengths
from rectool.llm.soft_saved import Parts, build, parts_of
from rectool.models.mf import MatrixFactorization
from rectool.models.model import Size
from rectool.models.saved import Trained
from rectool.prompts import template
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokens import TokenRows
from rectool.training.adapting import dissect, outline
from rectool.training.ground import BEFORE, Ground, adapters_of, document_of, find
from rectool.training.lora_settings import Adapters, Answering
from rectool.training.soft_settings import (
    COLLABORATIVE,
    FitSoft,
    Freezing,
    InheritedPrompting,
    Part,
    SoftTokenSettings,
    Sources,
    Standing,
)
from rectool.training.tuning import Tuning, chosen_rows

DEFAULT_PROMPT, WITH_HISTORY = "collm", "llara-ctr"
"""The templates with places for tokens, unless another one is asked for; the latter where history tokens are."""


@dataclass(frozen=True)
class SoftTuning(Tuning):
    """A language model with soft tokens, and the rows that parts of it are trained on.

    Attributes:
        soft: on the CPU, with all frozen that is not trained.
        adapter: the folder of the adapter that the model has; None where it has none, or one that starts here.
        adapter_role: of the parent that it is read from.
        parts: what is trained.
        parents: what is read, the data set aside.
    """

    fit: FitSoft
    soft: SoftTokens
    adapter: Path | None
    adapter_role: str | None
    parts: tuple[Part, ...]
    freezing: Freezing
    parents: Sequence[Input]

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of the language model is trained."""
        return "lora" not in self.parts

    @cached_property
    def text(self) -> TokenRows | None:
        """The prompts of all rows in text alone, where some of them are mixed in."""
        if not self.freezing.mixes:
            return None
        record = {**self.prompts.record(), "soft": {}}
        return cached_rows(Prompts.from_record(record, self.prompts.tokenizer), self.dataset, self.rows)

    @property
    def hidden(self) -> tuple[float, float]:
        """The share of rows that hide their user, and the share that hide their item: where some may be unknown."""
        soft, learns = self.soft, "projector" in self.parts and self.soft.unknown == "trained"
        share = self.freezing.unknown_share if learns else 0.0
        users = "user" in soft.kinds and not soft.reads_history and not soft.known_users.all()
        items = "item" in soft.kinds and not soft.known_items.all()
        return share * users, share * items

    def computed(self, tokens: TokenRows) -> NDArray[np.int64]:
        return tokens.lengths - prefix_lengths(tokens) if self.is_frozen else tokens.lengths


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
    if standing.quantize != "none" and device.type != "cuda":
        raise RectoolError(f"--quantize {standing.quantize} needs a GPU, but --device is {device}")
    metric, trained = fit.metric_for("ctr"), freezing.parts()
    ground = find(standing, elsewhere)
    lora = adapters_of(standing, fresh, ground.adapter, trained)
    said = ground.said
    answering = Answering(
        answer_loss=freezing.answer_loss or said.get("answer_loss", "softmax"), samples=freezing.samples
    )
    if "lora" in trained and fit.cache_bytes():
        raise RectoolError(
            f"--cache-prefix {fit.cache_prefix}: with --train lora each step changes those states; leave it out"
        )
    rows = chosen_rows(dataset, answering, seed)
    kinds = _kinds(settings, ground.before)
    _refuse_unmeant(sources, kinds, trained, settings, is_first=ground.before is None)
    prompts = _prompts(prompting, ground.backbone, kinds, said.get("prompt"))
    refuse_unfit(prompts, ground.backbone)
    parents = _parents(dataset, sources, elsewhere or {})
    soft = _soft(dataset, sources, settings, kinds, ground, parents, seed)
    soft.train_only([part for part in trained if part != "lora"])
    anatomy = dissect(outline(ground.backbone.config), lora)
    own = {p: p.numel() for p in soft.parameters()}
    in_adapters = anatomy.trained if "lora" in trained else 0
    anatomy = replace(
        anatomy,
        parameters=anatomy.parameters + sum(own.values()),
        trained=in_adapters + sum(count for parameter, count in own.items() if parameter.requires_grad),
        targets=anatomy.targets if in_adapters else (),
        adapted_width=anatomy.adapted_width if in_adapters else 0,
    )
    return SoftTuning(
        dataset=dataset,
        backbone=ground.backbone,
        prompts=prompts,
        rows=rows,
        anatomy=anatomy,
        lora=lora if in_adapters else replace(lora, dropout=0.0),
        answering=answering,
        fit=fit,
        quantized=standing.quantize != "none",
        device=device,
        dtype=dtype,
        metric=metric,
        soft=soft,
        adapter=ground.adapter,
        adapter_role=ground.adapter_role,
        parts=trained,
        freezing=freezing,
        parents=[*ground.parents, *parents, *template.inputs(prompting.prompt)],
    )


def _kinds(settings: SoftTokenSettings, before: Artifact | None) -> dict[str, int]:
    """How many embeddings go into each place: as asked, else as in the hybrid that is continued."""
    earlier = {each["kind"]: int(each["count"]) for each in document_of(before)["soft_tokens"]} if before else {}
    names = settings.names() or tuple(earlier) or ("user", "item")
    usual = settings.tokens_per_id or next(iter(earlier.values()), 1)
    return {name: settings.tokens_per_id or earlier.get(name, usual) for name in names}


def _refuse_unmeant(
    sources: Sources,
    kinds: Mapping[str, int],
    trained: Sequence[Part],
    settings: SoftTokenSettings,
    *,
    is_first: bool,
) -> None:
    """Raises RectoolError where a token has nothing that it is made of, or something is named that none is made of."""
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
    if not warm and sources.semantic is not None:
        raise RectoolError(f"--semantic is for the token warm, but --tokens is {tokens}")
    for part, there in (("cf", collaborative), ("semantic", warm)):
        if part in trained and not there:
            raise RectoolError(f"--train {part}: the tokens {tokens} are made of no such part")
    if sources.fresh_ids is not None and "cf" not in trained:
        raise RectoolError("--fresh-ids makes embeddings that nothing has trained: add cf to --train")
    if settings.projector_start == "aligned" and sources.aligned is None:
        raise RectoolError("--projector-start aligned needs --aligned, whose projector it is")


def _prompts(
    prompting: InheritedPrompting, found: Backbone, kinds: Mapping[str, int], record: Mapping[str, Any] | None
) -> Prompts:
    usual: str | template.Template = WITH_HISTORY if "history" in kinds else usual_prompt(found, DEFAULT_PROMPT)
    if record:
        before = template.parse(record["template"]["text"], record["template"]["name"])
        if set(kinds) <= set(before.soft):
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
            artifact = open_artifact(path, role, elsewhere={**elsewhere, "dataset": dataset.artifact.path})
            artifact.parent("dataset")
            found.append(Input(role, path, artifact=artifact))
    return found


def _soft(
    dataset: Dataset,
    sources: Sources,
    settings: SoftTokenSettings,
    kinds: Mapping[str, int],
    ground: Ground,
    parents: Sequence[Input],
    seed: int,
) -> SoftTokens:
    parts, unknown = Parts(), settings.unknown
    if ground.before is not None:
        before = document_of(ground.before)["soft"]
        refuse_other(before["data"], dataset)
        parts, unknown = parts_of(ground.before, BEFORE), unknown or before["unknown"]
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
        for flag, value in (("--expansion", settings.expansion), ("--activation", settings.activation)):
            if value is not None:
                raise RectoolError(
                    f"{flag} {value}: the projector is that of {_owner(parts, ground, parents)}; leave it out, or set "
                    "--projector-start random"
                )
    return build(
        dataset,
        kinds,
        ground.backbone.config.get_text_config(decoder=True).hidden_size,
        parts,
        expansion=settings.expansion or 10.0,
        activation=settings.activation or "relu",
        unknown=unknown or "trained",
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
