"""The title head: what comes next is written, token by token, by the language model's own output head.

Shapes: B rows   H hidden size   V vocabulary
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from rectool.errors import RectoolError
from rectool.llm.body import causal_of
from rectool.llm.head import output_head, refuse_other_logits


class TitleHead:
    """Logits of the whole vocabulary, of hidden states: whoever asks keeps to a few rows at a time.

    It has no tensors of its own: the output head is the model's, and is looked up at each call.

    Raises:
        RectoolError: the model's logits are not the plain product of hidden state and head, or it has no such head.
    """

    kind: ClassVar[Literal["title"]] = "title"
    task: ClassVar[Literal["next-item"]] = "next-item"

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        refuse_other_logits(model, self.logits, None, "titles cannot be written by their head alone")

    @property
    def keys(self) -> Tensor:
        """(V, H), a row for each token, with gradient where the head is trained."""
        head = output_head(self._model)
        if type(head) is not nn.Linear or head.bias is not None:
            what = "no output head" if head is None else "an output head that is no plain matrix"
            raise RectoolError(
                f"{causal_of(self._model).config.model_type} models have {what} as this one is loaded, which "
                "--head title needs; choose another --llm, or leave the head out of --target-modules"
            )
        keys: Tensor = head.weight
        return keys

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, V) float32 logits of hidden states (B, H)."""
        with torch.autocast(hidden.device.type, enabled=False):
            keys = self.keys
            product: Tensor = hidden.to(keys.dtype) @ keys.T
            return product.float()
