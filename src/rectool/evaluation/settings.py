"""The settings of an evaluation: what each flag means, and its checks. Nothing heavy is imported here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from rectool.errors import RectoolError
from rectool.models.table import Task
from rectool.settings import flag_name, setting


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured, and how surely."""

    panel: ClassVar[str] = "Measuring"

    split: Literal["test", "valid", "train"] = setting("test", help="Which rows are targets.")
    task: Task | None = setting(
        None, help="Score labelled rows, or rank the catalogue for each row; by default what the model was trained for."
    )
    warm: str = setting(
        "seen",
        metavar="RULE",
        help="Which rows are warm: 'seen' (user and item are both in train rows, or in the context of one) or "
        "'count>N' (both in more than N train rows).",
    )
    draws: int = setting(1000, metavar="N", help="Bootstrap draws over users, for the intervals; 0 for none.")
    confidence: float = setting(0.95, metavar="P", help="Of the intervals.")
    repeats: int = setting(
        1, metavar="N", help="Evaluate so often with seeds from --seed on, where scores depend on chance."
    )

    def __post_init__(self) -> None:
        warm_above(self.warm)
        if self.draws < 0:
            raise RectoolError(f"--draws {self.draws} must not be negative")
        if not 0 < self.confidence < 1:
            raise RectoolError(f"--confidence {self.confidence} must be between 0 and 1")
        if self.repeats < 1:
            raise RectoolError(f"--repeats {self.repeats} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What concerns --task ctr alone."""

    panel: ClassVar[str] = "For --task ctr"

    threshold: str = setting(
        "0.5",
        metavar="P",
        help="Probability from which on a row is taken for liked; 'valid': that of the best F1 on validation rows.",
    )

    def __post_init__(self) -> None:
        self.given()

    def given(self) -> float | None:
        """The threshold, None where it is chosen. Raises RectoolError for what is no probability."""
        if self.threshold == "valid":
            return None
        try:
            value = float(self.threshold)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise RectoolError(f"--threshold {self.threshold} is neither a number from 0 to 1 nor valid")
        return value


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What concerns --task next-item alone."""

    panel: ClassVar[str] = "For --task next-item"

    k: str = setting("5,10,20", metavar="K,K", help="Lengths of the lists that metrics look at.")
    exclude: Literal["none", "history", "train"] = setting(
        "none",
        help="Items that are no candidates: none, those of the user's earlier rows, or those of the user's train rows.",
    )
    targets: Literal["all", "liked"] = setting("all", help="All rows of the split, or those that are not disliked.")
    topk: bool = setting(False, help="Also write topk.parquet: the best items of each row, as many as the largest K.")

    def __post_init__(self) -> None:
        self.ks()

    def ks(self) -> tuple[int, ...]:
        """The lengths, ascending. Raises RectoolError for what is no list of them."""
        parts = [part.strip() for part in self.k.split(",")]
        if not all(re.fullmatch(r"0*[1-9][0-9]{0,5}", part) for part in parts):
            raise RectoolError(f"--k {self.k} is not a list of positive numbers such as 5,10,20")
        return tuple(sorted({int(part) for part in parts}))


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Where scores are computed. None of it changes the result, beyond rounding."""

    panel: ClassVar[str] = "Resources"

    device: str = setting("auto", metavar="NAME", recorded=False, help="auto, cpu, cuda or cuda:1.")
    batch_tokens: int | None = setting(
        None,
        metavar="N",
        recorded=False,
        help="Items of histories, or tokens of prompts, that are encoded together, padding included.",
    )

    def __post_init__(self) -> None:
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise RectoolError(f"--batch-tokens {self.batch_tokens} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Language:
    """The language model, and in what it computes."""

    panel: ClassVar[str] = "Language model"

    llm: str | None = setting(
        None,
        metavar="NAME|DIR",
        recorded=False,
        help="Without MODEL: one that is evaluated as it is, a name on the Hugging Face hub or a folder. With a tuned "
        "MODEL: where the one lies that it was tuned from.",
    )
    revision: str | None = setting(
        None, metavar="NAME", recorded=False, help="Branch, tag or commit of a model of the hub."
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = setting(
        "auto", help="auto: bf16 on a GPU that has it, fp16 on others, fp32 on a CPU."
    )
    quantize: Literal["none", "4bit"] = setting(
        "none", help="4bit: keep weights in four bits; needs a GPU, and rectool's extra quant (bitsandbytes)."
    )

    def __post_init__(self) -> None:
        if self.revision is not None and self.llm is None:
            raise RectoolError("--revision is of a model of the hub; name it with --llm")


@dataclass(frozen=True, kw_only=True)
class Untuned:
    """How a language model is asked that has not been tuned. A tuned one is asked as it was tuned."""

    panel: ClassVar[str] = "Language model"

    shots: int = setting(
        0, metavar="K", help="Put so many answered train rows before each prompt, half of them liked; not if tuned."
    )
    answer_loss: Literal["softmax", "yes-logit"] = setting(
        "softmax", help="What a score is: the margin between both answers, or the logit of the first; not if tuned."
    )

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise RectoolError(f"--shots {self.shots} must not be negative")


@dataclass(frozen=True, kw_only=True)
class Grounding:
    """How titles that a language model writes become items: of rectool tune-lora --head title, or of one as it is."""

    panel: ClassVar[str] = "For language models that write titles"

    ground: Literal["nearest", "trie"] | None = setting(
        None,
        help="nearest: rank items by how near their titles' embeddings are to what was written (the default); trie: "
        "let nothing but titles be written, and rank them by their probability.",
    )
    beams: int | None = setting(None, metavar="N", help="Beams of the search; by default 20.")

    def __post_init__(self) -> None:
        if self.beams is not None and self.beams < 1:
            raise RectoolError(f"--beams {self.beams} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Stricter masks than a model was tuned with, which are faster."""

    panel: ClassVar[str] = "For language models with a --mask"

    compress_deep: bool = setting(
        False, help="Let nothing see an item's tokens but the last in cr layers at the top, and leave them out there."
    )
    isolate_items: bool = setting(
        False, help="Let items see nothing but themselves in in layers at the bottom, and compute each title once."
    )


def warm_above(rule: str) -> int | None:
    """The N of the rule `count>N`, None for `seen`. Raises RectoolError that names --warm for what is neither."""
    if rule == "seen":
        return None
    found = re.fullmatch(r"count>([0-9]{1,9})", rule.replace(" ", ""))
    if found is None:
        raise RectoolError(f"--warm {rule} is none of the forms seen and 'count>3'")
    return int(found[1])


def given(group: Any) -> list[str]:
    """The flags of a group of settings that are not at their defaults."""
    return [flag_name(field.name) for field in fields(group) if getattr(group, field.name) != field.default]


def refuse_for_other_task(task: Task, rating: Rating, ranked: Ranked) -> None:
    """Raises RectoolError for a flag that was given and means nothing to the task."""
    group, other = (ranked, "next-item") if task == "ctr" else (rating, "ctr")
    for flag in given(group):
        raise RectoolError(f"{flag} is for --task {other}, but this is --task {task}")
