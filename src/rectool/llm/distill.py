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
from rectool.devices import device_named, precision_named
from rectool.errors import RectoolError
from rectool.llm import backbone as backbones
from rectool.llm import document, embeddings, recommender
from rectool.llm.backbone import Backbone
from rectool.llm.distill_settings import Pooled, Reading, Source
from rectool.llm.embeddings import Embeddings
from rectool.llm.files import Quantize, is_causal
from rectool.llm.pieces import pieces
from rectool.llm.pooled import pooled_states
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
        backbone: the model; None for a tuned one, which says itself what it was tuned from.
        tuned: the `llm` artifact, if it is one.
    """

    source: Source
    pooled: Pooled
    prompting: Prompting
    reading: Reading
    backbone: Backbone | None
    tuned: Artifact | None

    @classmethod
    def find(
        cls, source: Source, pooled: Pooled, prompting: Prompting, reading: Reading, elsewhere: Mapping[str, Path]
    ) -> Distilling:
        """Args:
            elsewhere: where parents lie, by role.

        Raises:
            RectoolError: there is no such model, or it cannot be pooled so.
        """
        if prompting.history != Prompting.history:
            raise RectoolError(f"--history {prompting.history}: the prompt of an item tells no history; leave it out")
        backbone = tuned = None
        if source.adapter is not None:
            tuned = open_artifact(source.adapter, "llm", elsewhere=elsewhere)
        else:
            assert source.llm is not None
            encoder = pooled.pooling != "last"
            backbone = backbones.find(source.llm, revision=source.revision, elsewhere=elsewhere, encoder=encoder)
        if pooled.pooling == "cls" and (backbone is None or is_causal(backbone.config)):
            raise RectoolError(
                f"--pooling cls is for encoders: the first token of {source.adapter or source.llm}, which is causal, "
                "sees nothing of the text; choose --pooling last or mean"
            )
        return cls(source, pooled, prompting, reading, backbone, tuned)

    def inputs(self) -> list[Input]:
        """What is read beside the data set."""
        own = template.inputs(self.prompting.prompt)
        if self.tuned is not None:
            return [Input("adapter", self.tuned.path, artifact=self.tuned), *own]
        assert self.backbone is not None
        return [*self.backbone.inputs(), *own]

    def plan(self, dataset: Dataset) -> Plan:
        """What would be done."""
        if self.tuned is not None:
            hidden = document.read(self.tuned)["backbone"]["hidden_size"]
        else:
            assert self.backbone is not None
            hidden = self.backbone.config.get_text_config(decoder=True).hidden_size
        size = dataset.items * hidden * (2 if self.pooled.dtype == "fp16" else 4)
        reads = [str(dataset.artifact.path), *(str(source.path) for source in self.inputs())]
        return Plan(reads, size, 0, BASE_MEMORY + 3 * size)

    def run(self, dataset: Dataset, draft: Draft, work: Work) -> None:
        """Read all items, and write the files of a `semantic` artifact; in other processes than the main one, help.

        Raises:
            RectoolError: the model or the prompt is not fit for it, or the embeddings are of no use.
            Stopped: what is done is saved.
        """
        device = device_named(self.reading.device)
        dtype = precision_named(self.reading.precision, device)
        model, backbone = self._read(device, dtype)
        prompts = self._prompts(backbone)
        tokens = cached_rows(prompts, dataset, np.arange(dataset.items))
        causal = is_causal(backbone.config)
        found = ItemReader(model, tokens, self.pooled, causal, device, self.reading.batch_tokens).run(work)
        if found is None:
            return
        titles = dataset.titles()
        embeddings.refuse_useless(found, lambda item: titles[item].as_py())
        about = self._about(backbone, prompts, dtype)
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
        draft.run["device"] = str(device)

    def _read(self, device: torch.device, dtype: torch.dtype) -> tuple[PreTrainedModel | PeftModel, Backbone]:
        """The model with its weights, and what it is or was tuned from."""
        quantize: Quantize | None = None if self.reading.quantize == "none" else self.reading.quantize
        if self.tuned is not None:
            loaded = recommender.load(
                self.tuned, backbone=self.source.llm, device=device, dtype=dtype, quantize=quantize
            )
            return loaded.model, loaded.backbone
        assert self.backbone is not None
        return self.backbone.model(device=device, dtype=dtype, quantize=quantize, causal=False), self.backbone

    def _prompts(self, backbone: Backbone) -> Prompts:
        tokenizer = backbone.tokenizer()
        context = min(backbone.context, tokenizer.wrapped.model_max_length)
        ends = not is_causal(backbone.config)
        prompts = Prompts.chosen(self.prompting, tokenizer, default=DEFAULT_PROMPT, context=context, ends=ends)
        if prompts.template.task != "item":
            raise RectoolError(
                f"--prompt {prompts.template.name} is of task {prompts.template.task}, but item is needed; "
                f"choose {DEFAULT_PROMPT}, or another one about items"
            )
        prompts.fits(backbone.vocabulary, backbone.name)
        return prompts

    def _about(self, backbone: Backbone, prompts: Prompts, dtype: torch.dtype) -> dict[str, Any]:
        """What config.json says; docs/artifacts.md explains each field."""
        config = backbone.config.get_text_config(decoder=True)
        return {
            "version": VERSION,
            "model": backbone.label,
            "commit": backbone.commit,
            "architecture": config.model_type,
            "tuned": folder.real(self.tuned.path).name if self.tuned is not None else None,
            "pooling": self.pooled.pooling,
            "layer": config.num_hidden_layers if self.pooled.layer is None else self.pooled.layer,
            "layers": config.num_hidden_layers,
            "normalised": self.pooled.normalise,
            "precision": str(dtype).removeprefix("torch."),
            "prompt": prompts.record(),
        }


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
