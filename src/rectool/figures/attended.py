"""Attention of a language model as it is asked, layer by layer, reduced before the next layer is run.

A layer's attention is read off without a model's own support: it is run once more with the identity in place of its
values, which makes the weights themselves of what comes out, whatever masks and window it has.

Shapes: N rows   B rows of a batch   L tokens of its longest   K layers
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm.body import causal_of, last_hidden, on, reading
from rectool.llm.mask_plan import CAUSAL, MaskKind, MaskPlan
from rectool.llm.masks import Spans, mask_inputs, spans_of
from rectool.llm.recommender import Recommender
from rectool.llm.references import Resolved, Wanted
from rectool.llm.soft import SoftTokens
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokens import TokenRows

Receive = Callable[[int, Tensor], None]
"""Takes a layer, the first is 0, and its weights (B, L, L), the mean over heads: row j is how token j looks at all."""


@dataclass(frozen=True)
class Questions:
    """Prompts with item spans, what fills their places for embeddings, and what messages call an item."""

    tokens: TokenRows
    wanted: Wanted
    title: Callable[[int], str]


@dataclass(frozen=True)
class Attended:
    """A language model whose attention is looked at.

    Attributes:
        name: what figures call it.
        model: in evaluation mode, prepared by `masks.masked` unless `mask` is causal.
        soft: what fills the prompts' places for embeddings, if they have any.
    """

    name: str
    model: nn.Module
    prompts: Prompts
    device: torch.device
    mask: MaskPlan = CAUSAL
    soft: SoftTokens | None = None

    @classmethod
    def of(cls, recommender: Recommender, name: str) -> Attended:
        """A recommender, as it is asked."""
        return cls(name, recommender.model, recommender.prompts, recommender.device, recommender.mask, recommender.soft)

    @property
    def depth(self) -> int:
        return int(self._config.num_hidden_layers)

    @property
    def heads(self) -> int:
        return int(self._config.num_attention_heads)

    def kinds(self) -> tuple[MaskKind, ...]:
        """The mask of each layer (K,)."""
        return self.mask.layers(self.depth)

    def asked(self, dataset: Dataset, rows: NDArray[np.integer[Any]]) -> Questions:
        """The prompts of rows (N,) of the log. Raises RectoolError if one cannot be made."""
        titles = dataset.titles()
        tokens = self.prompts.rows(dataset, rows, spans=True)
        found = Resolved.plain(tokens) if self.soft is None else self.soft.resolve(dataset, rows, tokens)
        return Questions(found.tokens, found.wanted, lambda item: str(titles[item].as_py()))

    def spans(self, asked: Questions, places: NDArray[Any]) -> Spans:
        """Which tokens are of which item, of rows (B,) padded on the right to their longest.

        Raises:
            RectoolError: a title has no token of its own, or shares one.
        """
        width = int(asked.tokens.lengths[places].max(initial=0))
        return spans_of(asked.tokens, places, width, self.device, asked.title)

    def read(self, asked: Questions, places: NDArray[np.int64], receive: Receive) -> None:
        """Run the prompts of rows (B,), and tell each layer's attention.

        Raises:
            RectoolError: the model does not tell its attention.
        """
        ids, lengths = on(self.device, *asked.tokens.padded(places))
        vectors = None if self.soft is None else partial(self.soft.vectors, asked.wanted)
        masks = None if self.mask.is_causal else mask_inputs(self.kinds(), self.spans(asked, places))
        seen: set[int] = set()

        def count(layer: int, weights: Tensor) -> None:
            seen.add(layer)
            receive(layer, weights)

        with reading(self.model), told(self.model, count):
            last_hidden(self.model, ids, lengths, vectors, masks)
        if seen != set(range(self.depth)):
            raise RectoolError(f"{self.name} does not tell the attention of its layers; choose another architecture")

    @property
    def _config(self) -> Any:
        return causal_of(self.model).config.get_text_config(decoder=True)


@contextmanager
def told(model: nn.Module, receive: Receive) -> Iterator[None]:
    """Inside, each attention layer of a model that is run tells its weights first, and then does what it always does.

    Raises:
        RectoolError: the model has attention of its own, which nothing can be put in front of.
    """
    name = causal_of(model).config._attn_implementation
    known: Any = ALL_ATTENTION_FUNCTIONS
    if name not in known:
        raise RectoolError(f"the attention of this model ({name}) cannot be read; choose another architecture")
    usual = known[name]

    def telling(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *others: Any, **named: Any) -> Any:
        identity = torch.eye(key.shape[2], dtype=value.dtype, device=value.device)
        weights, _ = usual(module, query, key, identity.expand(*value.shape[:2], -1, -1), *others, **named)
        layer: Any = module.layer_idx
        receive(int(layer), weights.float().mean(2))  # of (B, L, heads, L)
        return usual(module, query, key, value, *others, **named)

    known[name] = telling  # over the library's own, for as long as this lasts
    try:
        yield
    finally:
        del known[name]
