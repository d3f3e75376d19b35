"""Training soft tokens: vectors of collaborative and semantic models, in the prompts of a language model."""

from __future__ import annotations

from dataclasses import replace

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from rectool import console
from rectool.artifacts import Draft
from rectool.devices import free_memory
from rectool.errors import RectoolError
from rectool.llm import adapter as adapters
from rectool.llm import recommender as recommenders
from rectool.llm.body import causal_of
from rectool.llm.recommender import Recommender
from rectool.llm.soft_prefix import PrefixCache, cache_bytes, can_prefix
from rectool.training.adapting import adapt
from rectool.training.asking import Live, compute_twice, criterion_of, fit_and_write, is_packed, padding_of, tell
from rectool.training.llm_way import in_gigabytes
from rectool.training.prompted import Trainable
from rectool.training.run import Run
from rectool.training.soft_prompted import Asked, Drawing, SoftObjective
from rectool.training.soft_tuning import SoftTuning
from rectool.training.token_parts import TokenParts
from rectool.training.validation import Validation

CACHED_SHARE = 0.25
"""Of the memory that is free, for prefixes that are kept, unless told otherwise."""


def train(draft: Draft, tuning: SoftTuning, run: Run) -> None:
    """Train soft tokens and write them into the draft of an `llm` artifact, their last state in a folder of its own.

    Raises:
        RectoolError: a model cannot be read, does not fit the device, or the loss is no longer finite.
        Stopped: with a checkpoint.
    """
    room = tuning.room()
    way = tuning.way(tuning.computed(), room)
    recommender = _with_weights(tuning, run.seed)
    prefixed = tuning.has_prefix and not way.checkpointing and can_prefix(recommender.model, int(tuning.lengths.max()))
    computed = tuning.computed() if prefixed else tuning.lengths
    if tuning.has_prefix and not prefixed:
        way = tuning.way(computed, room)
    if way.checkpointing:
        compute_twice(causal_of(recommender.model))
    padding = padding_of(tuning, computed, TokenParts(way.tokens), run.seed)
    tell(tuning, ", ".join(f"{part} ({count:,})" for part, count in _counted(tuning).items()), way, padding, room)
    _tell_chance(tuning)
    cache = _cache(tuning, recommender, prefixed)
    packed = not prefixed and is_packed(tuning, recommender, padding)
    validation = Validation.of(tuning.dataset, tuning.task, run.device, tuning.fit.validate_rows, run.seed)
    freezing = tuning.freezing
    objective = SoftObjective(
        Trainable(recommender.model, tuning.soft, tuning.head),
        criterion_of(tuning, recommender),
        Asked(tuning.dataset, tuning.rows, tuning.tokens, tuning.text),
        Drawing(tuning.hidden, freezing.text_share, tuning.fit.epochs, tuning.fit.steps),
        TokenParts(way.tokens, packed),
        lambda: validation(Live(recommender, tuning.backbone.label)),
        run.device,
        tuning.layers,
        prefixed=prefixed,
        cache=cache,
    )
    fitted = fit_and_write(draft, tuning, recommender, objective, validation, replace(run, rates=tuning.rates))
    draft.metrics.update(
        soft_tokens=dict(tuning.soft.kinds),
        trained=list(tuning.parts),
        padding=round(padding, 4),
        packed=packed,
        checkpointing=way.checkpointing,
        prefixed=prefixed,
        batch_tokens=way.tokens // fitted.progress.parts,
    )
    if cache is not None:
        draft.run["prefixes"] = {"bytes": cache.taken, "hits": cache.hits, "misses": cache.misses}


def _with_weights(tuning: SoftTuning, seed: int) -> Recommender:
    """The language model with its soft tokens, on the device; what is not trained of it is frozen."""
    plain = tuning.backbone.model(
        device=tuning.device, dtype=tuning.dtype, quantize="4bit" if tuning.quantized else None
    )
    model: PreTrainedModel | PeftModel = plain
    if tuning.adapter is not None:
        merge = tuning.is_frozen and not tuning.quantized
        model = adapters.put_on(plain, tuning.adapter, merge=merge, device=tuning.device)
    elif not tuning.is_frozen:
        torch.manual_seed(seed)
        model = adapt(plain, tuning.lora, tuning.anatomy.targets)
    if tuning.is_frozen:
        model.requires_grad_(False)
    elif isinstance(model, PeftModel):
        model.set_requires_grad(model.active_adapter)
    return recommenders.assemble(
        tuning.backbone,
        model,
        tuning.prompts,
        device=tuning.device,
        head=tuning.head,
        mask=tuning.mask,
        answer_loss=tuning.answering.answer_loss,
        soft=tuning.soft,
        adapter=tuning.adapter_role if tuning.is_frozen else None,
    )


def _tell_chance(tuning: SoftTuning) -> None:
    """What makes soft tokens, if it starts from chance and stays so."""
    soft = tuning.soft
    new = (soft.projector and "projector" not in soft.sources) or (soft.warm and "warm" not in soft.sources)
    if new and "projector" not in tuning.parts:
        console.say("what makes soft tokens of vectors starts from chance and stays so: add projector to --train")


def _cache(tuning: SoftTuning, recommender: Recommender, prefixed: bool) -> PrefixCache | None:
    """Where the states before the first soft token are kept from epoch to epoch."""
    asked = tuning.fit.cache_bytes()
    if asked and not prefixed:
        raise RectoolError(
            f"--cache-prefix {tuning.fit.cache_prefix}: {tuning.backbone.name} is computed as a whole here "
            "(--checkpointing, --mask, or it cannot read a prefix); leave it out"
        )
    if not prefixed or asked == 0:
        return None
    room = asked or int(CACHED_SHARE * free_memory(tuning.device))
    whole = cache_bytes(recommender.model, tuning.tokens)
    share = f"all {in_gigabytes(whole)}" if whole <= room else f"{in_gigabytes(room)} of {in_gigabytes(whole)}"
    console.say(f"what stands before the first soft token runs without gradient; {share} of its states are kept")
    return PrefixCache(room, tuning.device)


def _counted(tuning: SoftTuning) -> dict[str, int]:
    """How many parameters are trained of each part."""
    counts: dict[str, int] = {}
    for part in tuning.parts:
        if part == "lora":
            counts[part] = 0
        elif part == "head":
            counts[part] = sum(parameter.numel() for parameter in tuning.head.parameters()) if tuning.head else 0
        else:
            counts[part] = sum(parameter.numel() for parameter in tuning.soft.parameters_of(part))
    if "lora" in counts:
        counts["lora"] = tuning.anatomy.trained - sum(counts.values())
    return counts
