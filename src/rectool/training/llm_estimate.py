"""What training a language model takes on its device.

The bytes of activations are those that PyTorch keeps for the backward pass, counted for Llama, Qwen2, Qwen3, Mistral
and GPT-2, with all of their sizes varied; at TinyLlama's shape 76 kB per token and layer in fp16, 92 with dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from transformers import PretrainedConfig

from rectool.training.adapting import Anatomy

BASE = {"cpu": 700 << 20, "cuda": 900 << 20}
"""Of Python with torch, transformers and peft, or of the CUDA context with its libraries."""
BYTES_IN_4BIT = 0.53
"""Of a weight, its share of the scales included."""


@dataclass(frozen=True)
class Setup:
    """All that the memory of training depends on, tokens and checkpointing aside.

    Attributes:
        dtype: what is computed in; frozen weights are kept in it.
        dropout: whether the inputs of adapters have some.
        masks, masked_layers: how many different masks there are beside the causal one, and how many layers have one.
        mask_width: tokens that each token's row of a mask has.
        beside: bytes of what a head makes on its way to a loss over the catalogue or the vocabulary.
    """

    config: PretrainedConfig
    anatomy: Anatomy
    device: torch.device
    dtype: torch.dtype
    full: bool
    dropout: bool
    quantized: bool
    masks: int = 0
    masked_layers: int = 0
    mask_width: int = 0
    beside: int = 0

    def bytes(self, tokens: int, checkpointing: bool) -> int:
        """At the peak of a step that computes so many tokens at a time."""
        layers, hidden = self.config.num_hidden_layers, self.config.hidden_size
        layer = self._layer_bytes()
        between = hidden * (4 if self.full else self.dtype.itemsize)  # kept of a layer that is computed twice
        per_token = layers * (between if checkpointing else layer) + layer  # one layer is in work in any case
        if self.masks:  # one byte each; attention makes numbers of those of a layer, and keeps them
            kept = 1 if checkpointing else self.masked_layers
            per_token += self.mask_width * (self.masks + kept * self.dtype.itemsize)
        return int(self._standing_bytes() + tokens * per_token)

    def with_adapters(self) -> Setup:
        """The same with adapters of the usual size, instead of training all weights."""
        width = 2 * self.config.hidden_size * self.config.num_hidden_layers
        small = replace(self.anatomy, trained=16 * width, adapted_width=width)
        return replace(self, anatomy=small, full=False, dropout=True)

    def _standing_bytes(self) -> float:
        """Weights, gradients, the optimizer's state, and what the process itself takes."""
        anatomy, size = self.anatomy, self.dtype.itemsize
        weights = float(anatomy.parameters * size)
        if self.quantized:
            weights = anatomy.quantizable * BYTES_IN_4BIT + (anatomy.parameters - anatomy.quantizable) * size
        if self.full:
            weights = anatomy.parameters * (4 + (size if size < 4 else 0))  # and their copies in the other precision
        trained = anatomy.trained * (12 if self.full else 16)  # gradients, two moments; adapters are float32 besides
        copies = anatomy.trained * (12 if self.device.type == "cpu" else 0)  # the best, the last, a checkpoint
        return weights + trained + copies + self.beside + BASE[self.device.type]

    def _layer_bytes(self) -> float:
        """What one layer keeps of a token for the backward pass."""
        config, size = self.config, self.dtype.itemsize
        hidden, heads = config.hidden_size, config.num_attention_heads
        inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
        width = getattr(config, "head_dim", None) or hidden // heads
        queries, keys = heads * width, (getattr(config, "num_key_value_heads", None) or heads) * width
        gated = config.model_type != "gpt2"
        kept = 8 * hidden + size * ((3 if gated else 4) * inner + 2 * queries + 2 * keys)
        if self.anatomy.normed_queries:
            kept += (8 if self.full else 4) * (queries + keys)
        if getattr(config, "resid_pdrop", 0):
            kept += 8 * hidden
        if self.full:
            return float(kept + 18 * hidden + size * inner)
        adapted = self.anatomy.adapted_width / config.num_hidden_layers
        return float(kept + (8 if self.dropout else 4) * adapted)
