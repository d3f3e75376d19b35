"""The settings of training: what each flag means, and its checks. Nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from rectool.errors import RectoolError
from rectool.models.table import MODELS, Task
from rectool.settings import flag_name, setting

Loss: TypeAlias = Literal["bce", "squared-error", "full-softmax", "sampled-softmax", "bpr"]
LOSSES: dict[str, tuple[Loss, ...]] = {
    "ctr": ("bce", "squared-error"),
    "next-item": ("full-softmax", "sampled-softmax", "bce", "bpr"),
}
"""Of each task; the first is the default."""
METRICS = {"ctr": ("auc", "uauc", "log_loss"), "next-item": ("ndcg@10", "hr@10", "mrr@10")}
"""What validation measures; early stopping follows the first unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Collaborative:
    """Which model, and its shape. What is not given is the model's own default."""

    panel: ClassVar[str] = "Model"

    model: str = setting(metavar="NAME", help=f"One of {', '.join(MODELS)}.")
    embedding_size: int | None = setting(None, metavar="D", help="Width of the embeddings.")
    hidden_size: int | None = setting(None, metavar="N", help="Width of hidden layers (ncf, din).")
    layers: int | None = setting(None, metavar="N", help="Layers of the network, or hops of the graph.")
    heads: int | None = setting(None, metavar="N", help="Attention heads (sasrec).")
    max_length: int | None = setting(None, metavar="N", help="Longest history that the model reads.")
    dropout: float | None = setting(None, metavar="P", help="Share of activations dropped in training.")
    init_scale: float | None = setting(None, metavar="S", help="Standard deviation of the first embeddings.")
    biases: bool | None = setting(None, help="A bias for each item (and user, in mf and din).")
    users: bool | None = setting(None, help="Whether users have a part, or items alone (bias).")
    smoothing: float | None = setting(None, metavar="K", help="Rows' worth of prior; chosen on validation by default.")
    history: Literal["liked", "all"] | None = setting(
        None, help="What histories hold; by default liked items for ctr, all for next-item."
    )

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise RectoolError(f"--model {self.model} is none of {', '.join(MODELS)}")
        for name in ("embedding_size", "hidden_size", "layers", "heads", "max_length"):
            at_least(self, name, 1)
        at_least(self, "init_scale", 0)
        if self.smoothing is not None and not 0 < self.smoothing < float("inf"):
            raise RectoolError(f"--smoothing {self.smoothing} must be above 0")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise RectoolError(f"--dropout {self.dropout} must be from 0 to below 1")

    def resolve(self, kind: type[Any], defaults: Mapping[str, Any]) -> Any:
        """The settings of a model: what was given, else the task's defaults, else the class's.

        Raises:
            RectoolError: something was given that the model does not have.
        """
        known = {field.name for field in dataclasses.fields(kind)}
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("model", "history") and getattr(self, field.name) is not None
        }
        for name in sorted(given.keys() - known):
            has = ", ".join(flag_name(other) for other in sorted(known)) or "no such flags"
            raise RectoolError(f"{flag_name(name)} means nothing to --model {self.model}, which has {has}")
        return kind(**{**defaults, **given})


@dataclass(frozen=True, kw_only=True)
class Start:
    """What item embeddings start from."""

    panel: ClassVar[str] = "Model"

    init_items: Path | None = setting(
        None,
        metavar="DIR",
        recorded=False,
        help="Start item embeddings from those of this artifact: semantic, cf, or an llm that has an item head.",
    )
    init_by: Literal["projection", "pca"] = setting(
        "projection", help="How their width is met: a learned linear map of the fixed table, or its principal axes."
    )

    def __post_init__(self) -> None:
        if self.init_items is None and self.init_by != "projection":
            raise RectoolError(f"--init-by {self.init_by} needs --init-items")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised."""

    panel: ClassVar[str] = "Objective"

    task: Task | None = setting(None, help="Rate labelled rows or predict the next item; ctr where rows have labels.")
    loss: Loss | None = setting(None, help="By default bce for ctr, full-softmax for next-item.")
    negatives: int | None = setting(
        None, metavar="N", help="Negatives per target (bce, bpr: 1), or shared by a batch (sampled-softmax: 512)."
    )
    negatives_by: Literal["uniform", "popularity"] = setting("uniform", help="How negatives are drawn.")
    log_q: bool = setting(False, help="Correct sampled-softmax for how negatives are drawn.")
    robust: float = setting(0.0, metavar="ALPHA", help="Weight of DROS's distributionally robust term.")
    robust_temperature: float = setting(1.0, metavar="BETA", help="Its temperature.")
    autoregressive: bool = setting(False, help="Next item: predict the context rows before a train row too.")

    def __post_init__(self) -> None:
        at_least(self, "negatives", 1)
        at_least(self, "robust", 0)
        if not 0 < self.robust_temperature < float("inf"):
            raise RectoolError(f"--robust-temperature {self.robust_temperature} must be above 0")
        if self.robust_temperature != 1 and not self.robust:
            raise RectoolError(f"--robust-temperature {self.robust_temperature} means nothing without --robust")
        if self.task is not None and self.loss is not None:
            self.loss_for(self.task)

    def loss_for(self, task: Task) -> Loss:
        """The loss for a task. Raises RectoolError for one of the other task."""
        loss = self.loss or LOSSES[task][0]
        if loss not in LOSSES[task]:
            raise RectoolError(f"--loss {loss} is not for --task {task}, whose losses are {', '.join(LOSSES[task])}")
        draws = self.negatives is not None or self.negatives_by != "uniform"
        if task == "ctr" and (self.robust or self.log_q or self.autoregressive or draws):
            raise RectoolError("--robust, --log-q, --autoregressive and negatives are for --task next-item")
        if loss == "full-softmax" and draws:
            raise RectoolError("--loss full-softmax takes the whole catalogue: it draws no negatives")
        if self.log_q and loss != "sampled-softmax":
            raise RectoolError(f"--log-q corrects sampled-softmax; --loss is {loss}")
        return loss


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How long and how fast the loop trains."""

    panel: ClassVar[str] = "Training"
    fewest_epochs: ClassVar[int] = 1

    epochs: int = setting(100, metavar="N", help="Passes over the training targets, at most.")
    steps: int | None = setting(None, metavar="N", help="Optimizer steps, instead of epochs.")
    batch_size: int = setting(1024, metavar="N", help="Targets per step and process.")
    accumulate: int = setting(1, metavar="N", help="Parts that a step's batch is computed in, one after the other.")
    optimizer: Literal["adam", "adamw"] = setting("adam", help="adam couples weight decay to the gradient.")
    beta2: float = setting(
        0.999, metavar="DECAY", help="How slowly Adam's mean of squared gradients forgets; SASRec's code has 0.98."
    )
    learning_rate: float = setting(1e-3, metavar="RATE", help="Its highest value.")
    weight_decay: float = setting(0.0, metavar="RATE", help="Towards zero, of all parameters.")
    warmup: float = setting(0.0, metavar="SHARE", help="Share of the steps in which the rate rises from 0.")
    schedule: Literal["constant", "cosine", "linear"] = setting("constant", help="How the rate falls after that.")
    clip: float = setting(0.0, metavar="NORM", help="Largest norm of the gradient; 0 does not clip.")
    metric: str | None = setting(None, metavar="NAME", help="Validation metric for early stopping and the best.")
    patience: int = setting(10, metavar="N", help="Validations without a better value before stopping; 0 never stops.")
    validate_epochs: float = setting(1.0, metavar="N", help="Epochs between validations.")
    validate_steps: int | None = setting(None, metavar="N", help="Steps between validations, instead of epochs.")
    validate_rows: int | None = setting(
        None, metavar="N", help="Validation rows, at most, chosen at random; 20,000, or 500 where ranking is slow."
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = setting(
        "auto", help="auto: bf16 on a GPU that has it, fp16 on others, fp32 on a CPU."
    )
    device: str = setting("auto", metavar="NAME", recorded=False, help="auto, cpu, cuda or cuda:1.")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "validate_steps", "validate_rows"):
            at_least(self, name, 1)
        at_least(self, "epochs", self.fewest_epochs)
        for name in ("learning_rate", "weight_decay", "clip", "patience"):
            at_least(self, name, 0)
        if not 0 <= self.beta2 < 1:
            raise RectoolError(f"--beta2 {self.beta2} must be at least 0 and below 1")
        if not 0 <= self.warmup <= 1:
            raise RectoolError(f"--warmup {self.warmup} is a share of the steps, from 0 to 1")
        if not 0 < self.validate_epochs < float("inf"):
            raise RectoolError(f"--validate-epochs {self.validate_epochs} must be above 0")

    def metric_for(self, task: Task) -> str:
        """The metric that early stopping follows. Raises RectoolError for one that validation does not measure."""
        metric = self.metric or METRICS[task][0]
        if metric not in METRICS[task]:
            raise RectoolError(f"--metric {metric} is not measured for {task}; one of {', '.join(METRICS[task])}")
        return metric


def at_least(group: Any, name: str, least: float) -> None:
    """Raises RectoolError if a setting, where it is given, is no number from `least` on."""
    value = getattr(group, name)
    if value is not None and not least <= value < float("inf"):
        finite = "" if math.isfinite(value) else "a number, "
        raise RectoolError(f"{flag_name(name)} {value} must be {finite}at least {least}")
