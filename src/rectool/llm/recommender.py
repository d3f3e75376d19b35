"""The one composite that recommends with a language model: backbone, adapter, prompts, mask, soft tokens and head.

Every command that uses a language model loads it here. Shapes: N rows   H hidden size   V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from rectool.artifacts import Artifact
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError, disk_errors
from rectool.llm import adapter, model_json, soft_saved
from rectool.llm.backbone import Backbone
from rectool.llm.body import reading
from rectool.llm.encode import hidden_states
from rectool.llm.files import Quantize, hushed
from rectool.llm.head import AnswerHead, AnswerLoss
from rectool.llm.heads import Head, reader
from rectool.llm.item_head import ItemHead
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.masks import masked
from rectool.llm.model_json import Said
from rectool.llm.origins import adapter_folder, backbone_under, seen_from
from rectool.llm.references import Resolved, Wanted
from rectool.llm.soft import SoftTokens
from rectool.models.table import Task
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokens import TokenRows

DEFAULT_PROMPT, SMALL_PROMPT, NEXT_ITEM_PROMPT = "collm-text", "plain", "hatllm"
"""The templates unless another one is asked for; see `usual_prompt`."""
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Recommender:
    """A language model that answers whether a user will like an item, or says which item comes next.

    Attributes:
        name: the folder or the name of the hub that it was loaded from.
        backbone: what the adapter stands on; what the model is, if it has none.
        model: in evaluation mode; with a live adapter, or with one that has been merged.
        head: what is made of the hidden state at a prompt's last token.
        soft: what fills the prompts' places for embeddings, if they have any; on the device.
        adapter: the role of the parent whose adapter the model has, if it is another artifact's.
        mask: which tokens of a prompt see which.
    """

    name: str
    backbone: Backbone
    model: PreTrainedModel | PeftModel
    prompts: Prompts
    head: Head
    device: torch.device
    soft: SoftTokens | None = None
    adapter: str | None = None
    mask: MaskPlan = CAUSAL

    @property
    def task(self) -> Task:
        """What it can be asked."""
        return self.head.task

    @property
    def answering(self) -> AnswerHead:
        """The head of a model that answers yes/no questions.

        Raises:
            RectoolError: it has another one.
        """
        if not isinstance(self.head, AnswerHead):
            raise RectoolError(f"{self.name} predicts the next item; it answers no yes/no questions")
        return self.head

    def score(
        self,
        dataset: Dataset,
        rows: NDArray[np.integer[Any]],
        *,
        budget: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """The score (N,) of each row's user and item: of an answer head its sigmoid is the probability of label 1, of
        an item head it is the item's logit.

        Args:
            rows: (N,) rows of the log in any order, repeats allowed.
            budget: tokens encoded together; None for what suits the device.

        Raises:
            RectoolError: a prompt cannot be made, the device has no memory for one, or the head gives no scores.
        """
        asked, items = self.asked(dataset, rows), dataset.item[rows]
        return self.score_tokens(asked.tokens, items, wanted=asked.wanted, budget=budget, progress=progress)

    def asked(self, dataset: Dataset, rows: NDArray[np.integer[Any]]) -> Resolved:
        """The prompts of rows (N,) of the log, with references in the places for embeddings.

        Raises:
            RectoolError: a prompt cannot be made, or the soft tokens are of another data set.
        """
        tokens = cached_rows(self.prompts, dataset, rows, spans=not self.mask.is_causal)
        return Resolved.plain(tokens) if self.soft is None else self.soft.resolve(dataset, rows, tokens)

    def score_tokens(
        self,
        tokens: TokenRows,
        items: NDArray[np.integer[Any]],
        *,
        wanted: Wanted | None = None,
        budget: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """The score (N,) of each prompt.

        Args:
            items: (N,) of which an item head gives the logits.
            wanted: see `states_of`.
        """
        scores = np.empty(len(tokens), np.float32)
        for places, hidden in self.states_of(tokens, wanted=wanted, budget=budget, progress=progress):
            with torch.no_grad():
                scores[places] = self._scored(hidden, items[places]).cpu().numpy()
        return scores

    def states_of(
        self,
        tokens: TokenRows,
        *,
        wanted: Wanted | None = None,
        budget: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """The hidden state at the last token of each prompt, whatever the head; what they begin with alike is encoded
        once.

        Args:
            wanted: what references in the prompts mean, see `asked`.
            budget: tokens encoded together; None for what suits the device.

        Yields:
            Each prompt once, in no particular order: (places (B,), states (B, H) in the model's dtype, on the device).
        """
        soft = self.soft
        vectors = None if soft is None or wanted is None else partial(soft.vectors, wanted)
        with nullcontext() if soft is None else reading(soft):
            yield from hidden_states(
                self.model,
                tokens,
                soft=vectors,
                device=self.device,
                budget=budget,
                groups=np.zeros(len(tokens), np.int64),
                progress=progress,
                mask=self.mask,
            )

    def _scored(self, hidden: Tensor, items: NDArray[np.integer[Any]]) -> Tensor:
        """(B,) float32 of states (B, H), see `score`."""
        if isinstance(self.head, ItemHead):
            return self.head.scores(hidden, torch.from_numpy(items).to(self.device).long())
        return self.answering.scores(hidden)


def assemble(
    backbone: Backbone,
    model: PreTrainedModel | PeftModel,
    prompts: Prompts,
    *,
    device: torch.device,
    head: Head | None = None,
    mask: MaskPlan = CAUSAL,
    answer_loss: AnswerLoss = "softmax",
    name: str | None = None,
    soft: SoftTokens | None = None,
    adapter: str | None = None,
) -> Recommender:
    """Put together what has been loaded or made; the model is where it shall be.

    Args:
        prompts: for which `refuse_unfit` has been asked.
        head: None for one that answers the prompts' question with `answer_loss`; an item head is put on the device.
        mask: which tokens see which; the model is made able to take it.
        soft: what fills their places for embeddings; it is put on the device.
        adapter: the role of the parent whose adapter the model has, so that it is referred to and not written again.

    Raises:
        RectoolError: the prompts are of another task than the head, or have other places than are filled; the model's
            head is no plain matrix, its width is not that of the item head, or the mask does not fit its depth.
    """
    kinds = {} if soft is None else soft.kinds
    if dict(prompts.soft) != kinds:
        raise RectoolError(
            f"prompt {prompts.template.name} has places for {_listed(prompts.soft)}, but there are {_listed(kinds)}"
        )
    head = head if head is not None else AnswerHead(model, prompts.answers, answer_loss)
    if prompts.template.task != head.task:
        raise RectoolError(
            f"prompt {prompts.template.name} is of task {prompts.template.task}, but the model is for {head.task}"
        )
    config = backbone.config.get_text_config(decoder=True)
    if isinstance(head, ItemHead):
        if head.hidden_size != config.hidden_size:
            raise RectoolError(
                f"the item head is of width {head.hidden_size}, but {backbone.name} is of {config.hidden_size}"
            )
        head.to(device)
    if not mask.is_causal:
        mask.layers(config.num_hidden_layers)
        masked(model)
    soft = None if soft is None else soft.to(device)
    return Recommender(name or backbone.name, backbone, model, prompts, head, device, soft, adapter, mask)


def usual_prompt(backbone: Backbone, usual: str = DEFAULT_PROMPT) -> str:
    """The template of yes/no questions: a small one of `rectool prep backbone` knows no other words than its own."""
    is_small = backbone.artifact is not None and backbone.artifact.manifest.kind == "backbone"
    return SMALL_PROMPT if is_small else usual


def refuse_unfit(prompts: Prompts, backbone: Backbone) -> None:
    """Find out before weights are read whether a language model can be asked with prompts.

    Raises:
        RectoolError: they ask a yes/no question of which an answer is not one token, tell embeddings of a history with
            dislikes in it, are about items, or have tokens that the model does not know.
    """
    if "history" in prompts.soft and "disliked" in prompts.template.slots:
        raise RectoolError(
            f"prompt {prompts.template.name} tells likes and dislikes, but history tokens are of likes alone; leave "
            "history out of --tokens, or {disliked} out of the prompt"
        )
    if prompts.template.task != "next-item":
        _ = prompts.answers
    prompts.fits(backbone.vocabulary, backbone.name)


@dataclass(frozen=True)
class Stored:
    """An `llm` artifact and what it stands on, read and checked but for the weights of its language model.

    Attributes:
        head: what puts its head on the model.
        adapter: the folder of its adapter, None for a whole model.
    """

    artifact: Artifact
    said: Said
    backbone: Backbone
    prompts: Prompts
    head: Callable[[PreTrainedModel | PeftModel], Head]
    soft: SoftTokens | None
    adapter: Path | None

    @classmethod
    def find(cls, artifact: Artifact, backbone: str | None = None) -> Stored:
        """
        Args:
            backbone: where its backbone is, if not where it was: a folder, or a name of the hub.

        Raises:
            RectoolError: its files are damaged, or what it stands on is not there, or is another one.
        """
        said = model_json.read(artifact)
        found = backbone_under(artifact, said, backbone)
        prompts = Prompts.from_record(said.prompt, found.tokenizer())
        refuse_unfit(prompts, found)
        head = reader(artifact, said.whole, prompts, found.name)
        soft = soft_saved.load(artifact, said.whole) if said.whole["soft_tokens"] else None
        own = adapter_folder(artifact, said.adapter) if said.adapter else None
        return cls(artifact, said, found, prompts, head, soft, own)

    def load(
        self, *, device: torch.device, dtype: torch.dtype, quantize: Quantize | None = None, merge: bool = True
    ) -> Recommender:
        """Read the weights; it is asked as it was tuned.

        Args:
            merge: put the adapter into the weights, which computes the same for less; in 4 bits it stays apart.

        Raises:
            RectoolError: they are damaged, or there is no room for them.
        """
        model: PreTrainedModel | PeftModel = self.backbone.model(device=device, dtype=dtype, quantize=quantize)
        if self.adapter is not None:
            model = adapter.put_on(model, self.adapter, merge=merge and quantize is None, device=device)
        return assemble(
            self.backbone,
            model,
            self.prompts,
            device=device,
            head=self.head(model),
            mask=self.said.mask,
            name=str(self.artifact.path),
            soft=self.soft,
            adapter=self.said.adapter if isinstance(self.said.adapter, str) else None,
        )


def load(
    artifact: Artifact,
    *,
    backbone: str | None = None,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize | None = None,
    merge: bool = True,
) -> Recommender:
    """Read an `llm` artifact with all of its weights; see `Stored`."""
    return Stored.find(artifact, backbone).load(device=device, dtype=dtype, quantize=quantize, merge=merge)


def save(recommender: Recommender, directory: Path, out: Path) -> None:
    """Write the files of an `llm` artifact: model.json with the adapter alone, or with the whole model.

    A live adapter makes PEFT files; a model without one a Hugging Face folder, its tokenizer with it. With soft tokens
    only what was trained is written, and no whole model.

    Args:
        directory: where to write.
        out: where the artifact will stand, for what is said relative to it.
    """
    soft = recommender.soft
    is_whole = not isinstance(recommender.model, PeftModel) and soft is None
    with disk_errors(directory, "choose another --out"):
        if soft is not None:
            soft_saved.save(soft, directory)
        if isinstance(recommender.head, ItemHead):
            recommender.head.save(directory)
        if isinstance(recommender.model, PeftModel) and recommender.adapter is None:
            adapter.save(recommender.model, directory, seen_from(out, recommender.backbone))
        if is_whole:
            with hushed():
                recommender.model.save_pretrained(directory, max_shard_size="1000GB")
                recommender.prompts.tokenizer.wrapped.save_pretrained(directory, save_jinja_files=False)
        model_json.write(recommender, directory, out, is_whole=is_whole)


def _listed(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no embeddings"
