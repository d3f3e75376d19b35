"""The flags of `rectool plot`. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rectool.errors import RectoolError
from rectool.evaluation.settings import Untuned, given
from rectool.settings import setting


@dataclass(frozen=True)
class Stages:
    """The stages of a training, in their order."""

    stage: tuple[Path, ...] = setting(
        argument=True, recorded=False, help="Trained models, in the order in which they were trained."
    )


@dataclass(frozen=True)
class Results:
    """What is shown."""

    result: tuple[Path, ...] = setting(
        argument=True, recorded=False, help="Results, or folders that have them one or two levels below."
    )


@dataclass(frozen=True)
class Names:
    """What things are called."""

    panel: ClassVar[str] = "Figure"

    name: tuple[str, ...] = setting(
        (), metavar="NAME", help="What the artifacts are called, one each, in their order; else by their folders."
    )


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What results are measured against."""

    panel: ClassVar[str] = "Figure"

    baseline: Path = setting(metavar="RESULT", recorded=False, help="The result that the others are measured against.")


@dataclass(frozen=True, kw_only=True)
class Strips:
    """Which rows are shown."""

    panel: ClassVar[str] = "Figure"

    rows: int = setting(300, metavar="N", help="Rows to show, drawn at random from all target rows.")

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise RectoolError(f"--rows {self.rows} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Many:
    """Attention of one model or several over many prompts."""

    panel: ClassVar[str] = "For --within-across"

    within_across: bool = setting(
        False, help="Show attention inside items against attention across them, layer by layer, of all models named."
    )
    rows: int = setting(200, metavar="N", help="Prompts of test rows whose attention is read, drawn at random.")
    pairs: int = setting(
        2000, metavar="N", help="Prompts of train rows in which tokens are counted that meet, drawn at random."
    )

    def __post_init__(self) -> None:
        for flag, value in (("--rows", self.rows), ("--pairs", self.pairs)):
            if value < 1:
                raise RectoolError(f"{flag} {value} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Which number is shown."""

    panel: ClassVar[str] = "Figure"

    metric: str | None = setting(
        None, metavar="NAME", help="The metric, such as hr@5; by default ndcg@10, or uauc of yes/no questions."
    )
    group: str = setting("all", metavar="NAME", help="The group of rows, such as warm.")


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Embeddings of items with alignment, and without."""

    panel: ClassVar[str] = "Figure"

    aligned: Path = setting(argument=True, recorded=False, help="The aligned embeddings, made by rectool align.")
    cf: Path | None = setting(
        None, metavar="DIR", recorded=False, help="Without alignment: the collaborative model, made by train-cf."
    )
    semantic: Path | None = setting(
        None, metavar="DIR", recorded=False, help="Without alignment: the semantic embeddings, made by distill."
    )
    projector: Path | None = setting(
        None,
        metavar="DIR",
        recorded=False,
        help="Without alignment: the projector; else a random one of the same size.",
    )
    items: int = setting(1000, metavar="N", help="Items to show, drawn at random.")

    def __post_init__(self) -> None:
        if (self.cf is None) != (self.semantic is None):
            given, other = ("--cf", "--semantic") if self.semantic is None else ("--semantic", "--cf")
            raise RectoolError(f"{given} is one of two embeddings without alignment; name the other with {other}")
        if self.projector is not None and self.cf is None:
            raise RectoolError("--projector is for embeddings without alignment; name them with --cf and --semantic")
        if self.items < 2:
            raise RectoolError(f"--items {self.items} must be at least 2")


@dataclass(frozen=True)
class Asked:
    """Who is asked."""

    data: Path = setting(argument=True, recorded=False, help="The data set, made by rectool prep.")
    model: tuple[Path, ...] = setting(
        (),
        argument=True,
        recorded=False,
        help="The language model: made by rectool tune-lora, or as eval takes it; several with --within-across.",
    )


@dataclass(frozen=True, kw_only=True)
class Attending:
    """Which prompt, and what of it."""

    panel: ClassVar[str] = "Figure"

    row: int | None = setting(None, metavar="N", help="The row of the log whose prompt is read.")
    layers: str | None = setting(
        None, metavar="1,2,...", help="Layers to show, the first is 1; by default all, or six of many."
    )
    tokens: bool = setting(
        False, help="Show each token, not each part of the prompt; short prompts are shown so anyway."
    )

    def __post_init__(self) -> None:
        if self.row is not None and self.row < 0:
            raise RectoolError(f"--row {self.row} must be at least 0")
        self.chosen()

    def chosen(self) -> list[int] | None:
        """The layers that were named, from 0 on. Raises RectoolError for what is no list of layers."""
        if self.layers is None:
            return None
        names = [name.strip() for name in self.layers.split(",")]
        if not all(name.isascii() and name.isdigit() and int(name) > 0 for name in names):
            raise RectoolError(f"--layers {self.layers} is no list of layers such as 1,2,12")
        return list(dict.fromkeys(int(name) - 1 for name in names))


def refuse_mixed(attending: Attending, many: Many, untuned: Untuned, names: Names) -> None:
    """Raises RectoolError for a flag of one prompt where many are read, or the other way round."""
    if many.within_across:
        for flag in (*given(attending), *given(untuned)):
            raise RectoolError(f"{flag} is for one prompt, chosen by --row; leave it or --within-across out")
        return
    for flag in (*given(many), *given(names)):
        raise RectoolError(f"{flag} is for --within-across; add that, or leave it out")
    if attending.row is None:
        raise RectoolError("say which prompt with --row N, or look at many of them with --within-across")
