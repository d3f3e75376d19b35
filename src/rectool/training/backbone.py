"""Making a small language model from a data set's own texts: a tokenizer, and a Llama that is pretrained on them.

It is for trying the whole chain without a hub; what it knows is one data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rectool import console
from rectool.artifacts import Draft
from rectool.data.dataset import Dataset
from rectool.data.estimate import Plan
from rectool.devices import device_named, precision_named
from rectool.errors import RectoolError, disk_errors
from rectool.llm.files import hushed
from rectool.prompts import template
from rectool.prompts.template import Template
from rectool.prompts.tokenizer import Tokenizer
from rectool.prompts.tokens import TokenRows, bounds, side_by_side, within
from rectool.training import corpus, loop
from rectool.training.backbone_settings import CONTEXT, Pretraining, Small
from rectool.training.byte_pairs import byte_pairs
from rectool.training.corpus import Exercise
from rectool.training.language import LanguageObjective, Texts
from rectool.training.llm_way import BATCH_TOKENS
from rectool.training.report import report
from rectool.training.run import Run
from rectool.training.token_parts import TokenParts

METRIC = "loss"
HELD_OUT = 0.05
"""Of the texts of the last chapter, at most: what comes first is forgotten a little."""
FRAMES = 0.1
"""Of what the tokenizer learns from, for what prompts say around titles."""
WORDS_FIRST = 0.4
"""Of the exercises, those about words alone, which are read first."""
PROMPTED = 0.5
"""Of the other exercises, those that are worded like `--prompt`."""
BASE_MEMORY = 1 << 30
"""Of Python with torch and transformers, and of the texts."""
COPIES = 6
"""Of the parameters while training, see `training.estimate`."""


@dataclass(frozen=True)
class Reading:
    """What a backbone is made from.

    Attributes:
        vocabulary: texts that the tokenizer is learned from.
        chapters: what the model reads, one chapter after the other.
    """

    vocabulary: list[str]
    chapters: tuple[list[Exercise], list[Exercise]]


def estimate(dataset: Dataset, small: Small, fit: Pretraining) -> Plan:
    """A plan with sizes.

    Raises:
        RectoolError: the device or its precision is not there, or the prompt is none that can be read.
    """
    precision_named(fit.precision, device_named(fit.device))
    if small.prompt is not None:
        asked(small.prompt)
    with torch.device("meta"):
        model = LlamaForCausalLM(configured(small, small.vocabulary or small.shape.vocabulary))
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    return Plan(
        [str(dataset.artifact.path)],
        disk_bytes=weights,
        scratch_bytes=5 * weights,
        memory_bytes=BASE_MEMORY + COPIES * weights,
    )


def make(draft: Draft, dataset: Dataset, small: Small, fit: Pretraining, run: Run) -> None:
    """Learn a tokenizer, pretrain a model, and write both into the draft of a `backbone` artifact.

    Raises:
        RectoolError: the data set has no texts to learn from, or the loss is no longer finite.
        Stopped: with a checkpoint.
    """
    run = replace(run, metric=METRIC)
    reading = written(dataset, small, run.seed)
    vocabulary = small.vocabulary or small.shape.vocabulary
    made = byte_pairs(reading.vocabulary, vocabulary, words=corpus.WORDS, context=CONTEXT)
    texts = tokenised(made, [text for chapter in reading.chapters for text in chapter])
    chapters = np.repeat(np.arange(len(reading.chapters)), [len(chapter) for chapter in reading.chapters])
    model = initialised(small, made, run.seed).to(run.device)
    last = np.flatnonzero(chapters == chapters[-1])
    aside = min(fit.validate_rows or len(last), int(HELD_OUT * len(last)))
    chosen = np.sort(np.random.default_rng(run.seed).choice(last, aside, replace=False))
    kept = np.delete(np.arange(len(texts)), chosen)
    read, held_out = texts.take(kept), texts.take(chosen)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.say(
        f"a {small.size} model of {parameters:,} parameters and {len(made):,} tokens reads {len(read):,} texts of "
        f"{read.tokens.lengths.sum():,} tokens; it is for trying things offline, and knows nothing but this data set"
    )
    parts = TokenParts(BATCH_TOKENS[run.device.type])
    objective = LanguageObjective(model, read, held_out, parts, run.device, chapters[kept])
    fitted = loop.fit(objective, fit, run)
    model.load_state_dict(fitted.best, strict=False)
    with disk_errors(draft.path, "choose another --out"), hushed():
        model.save_pretrained(draft.path)
        made.save_pretrained(draft.path, save_jinja_files=False)
    model.eval()
    with torch.inference_mode():
        loss = objective.validate().get(METRIC)
    draft.metrics.update(
        size=small.size,
        parameters=parameters,
        vocabulary=len(made),
        texts=len(read),
        tokens=int(read.tokens.lengths.sum()),
        loss=loss,
        perplexity=None if loss is None else round(math.exp(loss), 4),
    )
    report(draft, run, fitted)


def written(dataset: Dataset, small: Small, seed: int) -> Reading:
    """The texts of a data set, and the tokenizer's.

    Raises:
        RectoolError: it has none to speak of, or none but ids.
    """
    items = corpus.item_texts(dataset)
    histories = corpus.known_histories(dataset)
    lists = corpus.lists(dataset, histories)
    if not lists:
        raise RectoolError(
            f"{dataset.artifact.path} has no user with two liked train rows, which leaves nothing to read"
        )
    about_words = round(WORDS_FIRST * small.exercises)
    first = corpus.word_exercises(dataset, histories, about_words, seed)
    others = small.exercises - about_words
    templates = [template.load(name) for name in template.SHIPPED]
    second = []
    if small.prompt is not None:
        asking = asked(small.prompt)
        templates.append(asking)
        prompted = round(PROMPTED * others)
        others -= prompted
        second = [*corpus.prompt_exercises(dataset, histories, prompted, seed, template=asking, noun=small.noun)]
    second += corpus.title_exercises(dataset, histories, others, seed)
    said = [part for each in templates for part in each.parts if isinstance(part, str)]
    copies = math.ceil(FRAMES * sum(map(len, [*items, *lists])) / sum(map(len, said)))
    whole = [Exercise("", text) for text in (*items, *lists)]
    return Reading([*items, *lists, *said * copies], ([*whole, *first], second))


def asked(prompt: str) -> Template:
    """The prompt that a part of the exercises is worded like.

    Raises:
        RectoolError: there is none, it asks for something else than the next item, or it lists no titles.
    """
    found = template.load(prompt)
    if found.task != "next-item":
        raise RectoolError(
            f"--prompt {prompt} is of task {found.task}; exercises take one of task next-item, such as hatllm"
        )
    return found.filled(())


def tokenised(made: PreTrainedTokenizerFast, texts: Sequence[Exercise]) -> Texts:
    """Texts between a token that begins and one that ends them, cut to what the model reads."""
    tokenizer = Tokenizer(made)
    given = tokenizer.encode([text.given for text in texts])
    learned = tokenizer.encode([text.learned for text in texts])
    one = np.ones(len(texts), np.int64)
    begin, end = (np.full(len(texts), token, np.int32) for token in (made.bos_token_id, made.eos_token_id))
    ids, offsets = side_by_side(
        [(begin, one), (given.ids, given.lengths), (learned.ids, learned.lengths), (end, one)],
        given.lengths + learned.lengths + 2,
    )
    lengths = np.minimum(np.diff(offsets), CONTEXT)
    ends = bounds(lengths)
    kept = ids[np.repeat(offsets[:-1], lengths) + within(lengths)]
    kept[ends[1:] - 1] = made.eos_token_id
    return Texts(TokenRows(kept, ends), np.minimum(1 + given.lengths, lengths - 1))


def configured(small: Small, vocabulary: int) -> LlamaConfig:
    """The shape of a size; its weights are made by `initialised`."""
    shape = small.shape
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=(shape.hidden * 8 // 3) // 16 * 16,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=CONTEXT,
        initializer_range=shape.hidden**-0.5,
        tie_word_embeddings=False,
    )


def initialised(small: Small, made: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A model whose weights are drawn for its width: Hugging Face's 0.02 learns nothing at this size.

    Embeddings have variance 1, matrices 1 / inputs, and those that write into the residual stream 1 / (2 * layers) of
    that (GPT-2's rule). Keys begin as queries, so that a token looks for its like from the start.
    """
    torch.manual_seed(seed)
    config = configured(small, len(made))
    config.bos_token_id, config.eos_token_id, config.pad_token_id = (
        made.bos_token_id,
        made.eos_token_id,
        made.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Embedding):
                layer.weight.normal_()
            elif isinstance(layer, nn.Linear):
                writes = name.endswith(("o_proj", "down_proj"))
                layer.weight.normal_(std=(layer.in_features * (2 * small.shape.layers if writes else 1)) ** -0.5)
        for name, queries in model.named_modules():
            if name.endswith("q_proj"):
                model.get_submodule(f"{name.removesuffix('q_proj')}k_proj").weight.copy_(queries.weight)
    return model
