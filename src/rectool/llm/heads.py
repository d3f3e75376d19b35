"""The heads that a language model can have, and how each is read back from its artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import nn

from rectool.artifacts import Artifact
from rectool.errors import RectoolError
from rectool.llm import item_head
from rectool.llm.head import AnswerHead
from rectool.llm.item_head import ItemHead
from rectool.llm.origins import DOCUMENT
from rectool.llm.title_head import TitleHead
from rectool.models.table import Task
from rectool.prompts.prompts import Prompts

Head: TypeAlias = AnswerHead | ItemHead | TitleHead
KINDS: Mapping[str, Task] = {kind.kind: kind.task for kind in (AnswerHead, ItemHead, TitleHead)}
"""What each kind of head is for, by what model.json calls it."""


def reader(artifact: Artifact, said: Mapping[str, Any], prompts: Prompts, backbone: str) -> Callable[[nn.Module], Head]:
    """What puts the head of an `llm` artifact on its model, after all checks that need no weights of the model.

    Args:
        said: the whole of its model.json.
        backbone: its name, for messages.

    Raises:
        RectoolError: its files are damaged, or the tokenizer has other answers.
    """
    kind = said["head"]
    if kind == ItemHead.kind:
        found = item_head.read(artifact, said)
        return lambda _: found
    if kind == TitleHead.kind:
        return TitleHead
    try:
        ids, loss = list(said["answers"]["ids"]), said["answer_loss"]
    except (KeyError, TypeError) as problem:
        raise RectoolError(f"{artifact.file(DOCUMENT)} is damaged ({problem!r}); tune the model again") from problem
    if list(prompts.answers.ids) != ids:
        raise RectoolError(
            f"{artifact.path} was tuned to answer with tokens {ids}, but the tokenizer of {backbone} has "
            f"{list(prompts.answers.ids)} for {' and '.join(map(repr, prompts.answers.words))}; name the backbone that "
            "it was tuned on with --llm"
        )
    return lambda model: AnswerHead(model, prompts.answers, loss)
