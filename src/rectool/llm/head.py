"""The answer head: a yes/no question is answered by two rows of the output head, never by the whole vocabulary.

Shapes: B rows   H hidden size   V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from rectool.errors import RectoolError
from rectool.llm.body import causal_of, last_hidden, reading
from rectool.prompts.layout import Answers

AnswerLoss = Literal["softmax", "yes-logit"]
"""`softmax`: a score is the margin between the two answers, whose sigmoid is the softmax over both (SeLLa-Rec,
equation 1). `yes-logit`: it is the logit of the first answer alone (CoLLM's code)."""
PROMPT = (1, 3, 2, 1)
"""Tokens after which a head's logits are compared with the model's own."""


def output_head(model: nn.Module) -> Any:
    """The head that makes logits of hidden states, the trained one where an adapter has a copy of it; None if none."""
    head = causal_of(model).get_output_embeddings()
    if isinstance(head, ModulesToSaveWrapper):
        return head.original_module if head.disable_adapters else head.modules_to_save[head.active_adapter]
    return head


def refuse_other_logits(
    model: nn.Module, logits: Callable[[Tensor], Tensor], tokens: Sequence[int] | None, otherwise: str
) -> None:
    """See that the logits which a head makes of hidden states are the model's own, after a short prompt.

    Args:
        logits: of hidden states (B, H), those of the tokens (B, K).
        tokens: (K,) ids; None for the whole vocabulary.
        otherwise: what follows if they are not, for the message.

    Raises:
        RectoolError: the model scales or caps them.
    """
    config, device = causal_of(model).config, next(model.parameters()).device
    ids = torch.tensor([PROMPT], device=device)
    with reading(model):
        found = logits(last_hidden(model, ids, torch.tensor([len(PROMPT)], device=device)))
        expected = model(input_ids=ids, use_cache=False).logits[:, -1, slice(None) if tokens is None else list(tokens)]
    tolerance = 1e-4 if expected.dtype == torch.float32 else 3e-2
    differs = (found - expected.float()).abs().max() > tolerance * (1 + expected.float().abs().max())
    if differs or getattr(config.get_text_config(decoder=True), "final_logit_softcapping", None):
        raise RectoolError(
            f"the logits of {config.model_type} models are scaled or capped, so that {otherwise}; choose another --llm"
        )


class AnswerHead:
    """Scores of hidden states, by the rows of the model's output head that stand for the answers.

    The rows are looked up at each call: gradients reach them where the head is trained.

    Args:
        answers: the words for label 1 and label 0, each one token.
        loss: what a score is.

    Raises:
        RectoolError: the model's logits are not the plain product of hidden state and head, or it has no such head.
    """

    kind: ClassVar[Literal["answer"]] = "answer"
    task: ClassVar[Literal["ctr"]] = "ctr"

    def __init__(self, model: nn.Module, answers: Answers, loss: AnswerLoss) -> None:
        self.answers = answers
        self.loss = loss
        self._model = model
        config = causal_of(model).config
        head = causal_of(model).get_output_embeddings()
        if head is None:
            raise RectoolError(f"{config.model_type} models have no output head to answer with; choose another --llm")
        rows = getattr(head, "out_features", None) or config.get_text_config(decoder=True).vocab_size
        if max(answers.ids) >= rows:
            raise RectoolError(
                f"the answer {answers.words[answers.ids.index(max(answers.ids))]!r} is token {max(answers.ids)}, but "
                f"the model has {rows:,}: its tokenizer belongs to another model"
            )
        refuse_other_logits(model, self._logits, answers.ids, "two rows of the head are not enough to answer with")

    def scores(self, hidden: Tensor) -> Tensor:
        """(B,) float32 scores of hidden states (B, H); their sigmoid is the probability of label 1."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits = self._logits(hidden)
        return logits[:, 0] - logits[:, 1] if self.loss == "softmax" else logits[:, 0]

    def document(self) -> dict[str, Any]:
        """What model.json says of it."""
        return {"answers": {"words": list(self.answers.words), "ids": list(self.answers.ids)}, "answer_loss": self.loss}

    def _logits(self, hidden: Tensor) -> Tensor:
        """(B, 2) float32 logits of both answers."""
        head = output_head(self._model)
        ids = torch.tensor(self.answers.ids, device=hidden.device)
        if type(head) is not nn.Linear:  # quantised, or with an adapter of its own: its rows are no rows of a matrix
            dtype = next(head.parameters()).dtype
            logits: Tensor = head(hidden.to(dtype) if dtype.is_floating_point else hidden)[:, ids]
            return logits.float()
        bias = head.bias[ids].float() if head.bias is not None else None
        return nn.functional.linear(hidden.float(), head.weight[ids].float(), bias)
