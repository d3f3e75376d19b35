"""The title head: what comes next is written, token by token, by the language model's own output head.

Shapes: B rows   H hidden size   V vocabulary
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from rectool.errors import RectoolError
from rectool.llm.body import causal_of, last_hidden, reading
from rectool.llm.head import output_head


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
        self._verify()

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

    def _verify(self) -> None:
        """Compare with the model's own logits after a short prompt."""
        model, config = self._model, causal_of(self._model).config
        device = next(model.parameters()).device
        ids = torch.tensor([[1, 3, 2, 1]], device=device)
        with reading(model):
            found = self.logits(last_hidden(model, ids, torch.tensor([4], device=device)))
            expected = model(input_ids=ids, use_cache=False).logits[:, -1].float()
        tolerance = 1e-4 if self.keys.dtype == torch.float32 else 3e-2
        differs = (found - expected).abs().max() > tolerance * (1 + expected.abs().max())
        if differs or getattr(config.get_text_config(decoder=True), "final_logit_softcapping", None):
            raise RectoolError(
                f"the logits of {config.model_type} models are scaled or capped, so that titles cannot be written by "
                "their head alone; choose another --llm"
            )
