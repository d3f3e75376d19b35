"""The settings of `align`: what each flag means, and its checks. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from rectool.errors import RectoolError
from rectool.evaluation.settings import given
from rectool.models.table import MODELS, Task
from rectool.settings import setting
from rectool.training.settings import Collaborative, Loss, Objective, at_least


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What is aligned."""

    panel: ClassVar[str] = "Model"

    semantic: Path = setting(
        metavar="DIR", recorded=False, help="Semantic embeddings of the items, made by rectool distill."
    )
    cf: Path | None = setting(
        None, metavar="DIR", recorded=False, help="A trained collaborative model to go on from, instead of --model."
    )


@dataclass(frozen=True, kw_only=True)
class Started(Collaborative):
    """The collaborative model where it starts here."""

    model: str = setting("mf", metavar="NAME", help=f"One of {', '.join(MODELS)}; it must have item embeddings.")

    def refuse_given(self, cf: Path) -> None:
        """Raises RectoolError that names the first of these flags that was given beside --cf."""
        for flag in given(self):
            raise RectoolError(f"{flag}: --cf {cf} says itself what model it is; leave it out")


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What is minimised: the collaborative loss plus lambda times InfoNCE between both views of an item."""

    panel: ClassVar[str] = "Objective"

    task: Task | None = setting(None, help="Rate labelled rows or predict the next item; ctr where rows have labels.")
    loss: Loss | None = setting(
        None, help="By default squared-error for ctr (with --cf what it was trained by), full-softmax for next-item."
    )
    align_weight: float = setting(0.1, metavar="LAMBDA", help="Weight of the alignment; 0 aligns nothing.")
    temperature: float = setting(0.1, metavar="TAU", help="Divides cosines in the alignment's softmax.")
    negatives: Literal["catalogue", "batch"] = setting(
        "catalogue", help="Other items in that softmax: all, or those that the step aligns too."
    )
    anchors: int | None = setting(
        None,
        metavar="N",
        help="Items that a step aligns; by default --batch-size, or more where an epoch would not reach all.",
    )
    expansion: int = setting(10, metavar="N", help="Width of the projector's hidden layer, in widths of its input.")
    activation: Literal["gelu", "relu"] = setting("gelu", help="Of that layer.")
    train_semantic: bool | None = setting(
        None, help="Whether semantic embeddings are trained too; by default up to 256 MiB of them, beyond that frozen."
    )
    semantic_learning_rate: float | None = setting(None, metavar="RATE", help="Theirs, if not --learning-rate.")

    def __post_init__(self) -> None:
        at_least(self, "align_weight", 0)
        at_least(self, "anchors", 1)
        at_least(self, "expansion", 1)
        at_least(self, "semantic_learning_rate", 0)
        if not 0 < self.temperature < float("inf"):
            raise RectoolError(f"--temperature {self.temperature} must be above 0")
        if self.train_semantic is False and self.semantic_learning_rate is not None:
            raise RectoolError("--semantic-learning-rate means nothing with --no-train-semantic")
        if self.negatives == "batch" and self.anchors == 1:
            raise RectoolError("--negatives batch needs --anchors of 2 or more: one item alone has no negatives")
        if self.task is not None and self.loss is not None:
            self.collaborative()

    def collaborative(self, task: Task | None = None, loss: Loss | None = None) -> Objective:
        """The collaborative part, with what is not given. Raises RectoolError for a loss of another task."""
        return Objective(task=self.task or task, loss=self.loss or loss)
