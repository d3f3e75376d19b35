"""What soft tokens are made of: which there are, where their vectors and projector come from, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rectool.artifacts import Artifact, Input
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm import document
from rectool.llm.soft import SoftTokens, Told, refuse_other
from rectool.llm.soft_parts import Parts, build
from rectool.llm.soft_saved import parts_of
from rectool.models.mf import MatrixFactorization
from rectool.models.model import Size
from rectool.models.saved import Trained
from rectool.models.table import Task
from rectool.settings import flag_name
from rectool.training.ground import BEFORE, Ground
from rectool.training.heads import parent_of_items
from rectool.training.lora_settings import ItemHeadStart
from rectool.training.soft_settings import COLLABORATIVE, Part, SoftTokenSettings, Sources, Token

USUAL_TOKENS: Mapping[Task, tuple[Token, ...]] = {"ctr": ("user", "item"), "next-item": ("history",)}


def kinds_of(settings: SoftTokenSettings, before: Artifact | None, task: Task) -> dict[str, int]:
    """How many embeddings go into each place: as asked, else as in the hybrid that is continued."""
    earlier = {each["kind"]: int(each["count"]) for each in document.read(before)["soft_tokens"]} if before else {}
    names = settings.names() or tuple(earlier) or USUAL_TOKENS[task]
    usual = settings.tokens_per_id or next(iter(earlier.values()), 1)
    return {name: settings.tokens_per_id or earlier.get(name, usual) for name in names}


def refuse_unmeant(
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


def parents_of(dataset: Dataset, sources: Sources, elsewhere: Mapping[str, Path]) -> list[Input]:
    """The artifacts whose vectors are taken; each must be of this data set."""
    found = []
    for role in ("aligned", "cf", "semantic"):
        path = getattr(sources, role)
        if path is not None:
            found.append(parent_of_items(dataset, role, path, elsewhere))
    return found


def tokens_of(
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
    """The soft tokens, on the CPU, of vectors that are named, else of those that are continued.

    Args:
        kinds: how many embeddings go into each place.
        parents: those of `parents_of`.
        told: what a history says that the tokens are made of.

    Raises:
        RectoolError: a source has nothing to give, or a setting contradicts the projector that is taken over.
    """
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
