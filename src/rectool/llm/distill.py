"""Distilling: what a language model, or an encoder, makes of each item's text, as one vector per item.

Shapes: I items   N some of them   H hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from rectool.artifacts import Artifact, Draft, Input, folder, open_artifact
from rectool.artifacts.shards import Arrays, Work
from rectool.data.dataset import Dataset
from rectool.data.estimate import Plan
from rectool.devices import device_named, precision_named, used
from rectool.errors import RectoolError
from rectool.llm import backbone as backbones
from rectool.llm import embeddings, model_json, recommender
from rectool.llm.backbone import Backbone
from rectool.llm.distill_settings import Pooled, Reading, Source
from rectool.llm.embeddings import Embeddings
from rectool.llm.files import Quantize, is_causal, refuse_four_bits
from rectool.llm.origins import backbone_under
from rectool.llm.pieces import pieces
from rectool.llm.pooled import pooled_states
from rectool.llm.reading import refuse_layer
from rectool.prompts import template
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting
from rectool.prompts.tokens import TokenRows

VERSION = 1
"""Of config.json."""
DEFAULT_PROMPT = "item-description"
PART = "items"
BASE_MEMORY = 700 << 20
"""Of Python with torch and transformers."""
SHOWN = 5
"""Items whose neighbours are told."""


@dataclass(frozen=True)
class Distilling:
    """What reads the items, found and checked before its weights are read.

    Attributes:
        backbone: the model, or what it was tuned from.
        tuned: the `llm` artifact, if it is one.
        dtype: what is computed in.
    """

    source: Source
    pooled: Pooled
    prompting: Prompting
    reading: Reading
    backbone: Backbone
    tuned: Artifact | None
    prompts: Prompts
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def find(
        cls, source: Source, pooled: Pooled, prompting: Prompting, reading: Reading, elsewhere: Mapping[str, Path]
    ) -> Distilling:
        """Args:
            elsewhere: where parents lie, by role.

        Raises:
            RectoolError: there is no such model or device, or the model cannot be asked or pooled so.
        """
        if prompting.history != Prompting.history:
            raise RectoolError(f"--history {prompting.history}: the prompt of an item tells no history; leave it out")
        device = device_named(reading.device)
        dtype = precision_named(reading.precision, device)
        if reading.quantize != "none":
            refuse_four_bits(device)
        tuned = None
        if source.adapter is not None:
            tuned = open_artifact(source.adapter, "llm", elsewhere=elsewhere)
            backbone = backbone_under(tuned, model_json.read(tuned), source.llm)
        else:
            assert source.llm is not None
            encoder = pooled.pooling != "last"
            backbone = backbones.find(source.llm, revision=source.revision, elsewhere=elsewhere, encoder=encoder)
        if pooled.pooling == "cls" and is_causal(backbone.config):
            raise RectoolError(
                f"--pooling cls is for encoders: the first token of {source.adapter or source.llm}, which is causal, "
                "sees nothing of the text; choose --pooling last or mean"
            )
        refuse_layer(pooled.layer, backbone.config)
        prompts = _prompts(prompting, backbone)
        return cls(source, pooled, prompting, reading, backbone, tuned, prompts, device, dtype)

    def inputs(self) -> list[Input]:
        """What is read beside the data set."""
        own = template.inputs(self.prompting.prompt)
        if self.tuned is not None:
            return [Input("adapter", self.tuned.path, artifact=self.tuned), *own]
        return [*self.backbone.inputs(), *own]

    def plan(self, dataset: Dataset) -> Plan:
        """What would be done."""
        hidden = self.backbone.config.get_text_config(decoder=True).hidden_size
        size = dataset.items * hidden * (2 if self.pooled.dtype == "fp16" else 4)
        reads = [str(dataset.artifact.path), *(str(source.path) for source in self.inputs())]
        return Plan(reads, size, 0, BASE_MEMORY + 3 * size)

    def run(self, dataset: Dataset, draft: Draft, work: Work) -> None:
        """Read all items, and write the files of a `semantic` artifact; in other processes than the main one, help.

        Raises:
            RectoolError: the model cannot be read, or the embeddings are of no use.
            Stopped: what is done is saved.
        """
        model = self._read()
        tokens = cached_rows(self.prompts, dataset, np.arange(dataset.items))
        causal = is_causal(self.backbone.config)
        found = ItemReader(model, tokens, self.pooled, causal, self.device, self.reading.batch_tokens).run(work)
        if found is None:
            return
        titles = dataset.titles()
        embeddings.refuse_useless(found, lambda item: titles[item].as_py())
        about = self._about()
        embeddings.write(found, about, draft.path)
        most_seen = np.argsort(-np.bincount(dataset.item, minlength=dataset.items), kind="stable")[:SHOWN]
        near = embeddings.neighbours(found, most_seen)
        draft.metrics.update(
            {name: about[name] for name in ("model", "tuned", "pooling", "layer")},
            tokens=int(tokens.offsets[-1]),
            shortened=tokens.shortened,
            same_as_another=embeddings.twins(found),
            neighbours=[
                {
                    "title": titles[int(item)].as_py(),
                    "nearest": [{"title": titles[other].as_py(), "cosine": cosine} for other, cosine in others],
                }
                for item, others in zip(most_seen, near, strict=True)
            ],
        )
        draft.run.update(used(self.device))

    def _read(self) -> PreTrainedModel | PeftModel:
        """The model with its weights."""
        quantize: Quantize | None = None if self.reading.quantize == "none" else self.reading.quantize
        if self.tuned is not None:
            return recommender.load(
                self.tuned, backbone=self.source.llm, device=self.device, dtype=self.dtype, quantize=quantize
            ).model
        return self.backbone.model(device=self.device, dtype=self.dtype, quantize=quantize, causal=False)

    def _about(self) -> dict[str, Any]:
        """What config.json says; docs/artifacts.md explains each field."""
        config = self.backbone.config.get_text_config(decoder=True)
        return {
            "version": VERSION,
            "model": self.backbone.label,
            "commit": self.backbone.commit,
            "architecture": config.model_type,
            "tuned": folder.real(self.tuned.path).name if self.tuned is not None else None,
            "pooling": self.pooled.pooling,
            "layer": config.num_hidden_layers if self.pooled.layer is None else self.pooled.layer,
            "layers": config.num_hidden_layers,
            "normalised": self.pooled.normalise,
            "precision": str(self.dtype).removeprefix("torch."),
            "prompt": self.prompts.record(),
        }


def _prompts(prompting: Prompting, backbone: Backbone) -> Prompts:
    tokenizer = backbone.tokenizer()
    context = min(backbone.context, tokenizer.wrapped.model_max_length)
    ends = not is_causal(backbone.config)
    prompts = Prompts.chosen(prompting, tokenizer, default=DEFAULT_PROMPT, context=context, ends=ends)
    if prompts.template.task != "item":
        raise RectoolError(
            f"--prompt {prompts.template.name} is of task {prompts.template.task}, but item is needed; "
            f"choose {DEFAULT_PROMPT}, or another one about items"
        )
    prompts.fits(backbone.vocabulary, backbone.name)
    return prompts


@dataclass(frozen=True)
class ItemReader:
    """Reads the texts of items with a model.

    Attributes:
        tokens: of all items.
        causal: whether a token of the model sees only what stands before it.
        budget: tokens encoded together; None for what suits the device.
    """

    model: PreTrainedModel | PeftModel
    tokens: TokenRows
    pooled: Pooled
    causal: bool
    device: torch.device
    budget: int | None = None

    def run(self, work: Work) -> Embeddings | None:
        """The embeddings (I, H), in the type of the file; None in all processes but the main one.

        Items are read in the order of their lengths; several processes share them.

        Raises:
            Stopped: what is done is saved.
        """
        lengths = self.tokens.lengths
        order = np.argsort(-lengths, kind="stable")
        with work.counted(PART, "reading items", len(order), "items") as progress:

            def compute(start: int, stop: int) -> Arrays:
                return {"item": self.read(order[start:stop], progress)}

            found = work.run(PART, pieces(lengths[order], self.model, self.device), compute)
        if found is None:
            return None
        embeddings = np.empty_like(found["item"])
        embeddings[order] = found["item"]
        return embeddings

    def read(self, items: NDArray[np.int64], progress: Callable[[int], None] = lambda _: None) -> Embeddings:
        """The embeddings (N, H) of some items (N,), in the type of the file; infinite where that has no room.

        Args:
            progress: told how many more items are done.
        """
        states = pooled_states(
            self.model,
            self.tokens.take(items),
            self.pooled.pooling,
            causal=self.causal,
            device=self.device,
            budget=self.budget,
            layer=self.pooled.layer,
            progress=progress,
        )
        places, vectors = [], []
        for batch, pooled in states:
            vector = pooled.float()
            vectors.append(torch.nn.functional.normalize(vector, dim=1) if self.pooled.normalise else vector)
            places.append(batch)
        dtype = torch.float16 if self.pooled.dtype == "fp16" else torch.float32
        together = torch.cat(vectors).to(dtype).cpu().numpy()
        found = np.empty_like(together)
        found[np.concatenate(places)] = together
        return found
