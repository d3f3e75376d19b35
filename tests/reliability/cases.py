"""The commands that write, each in its smallest form that still has all its stages, and the raw files they read.

Every command runs in a folder of its own, and all these folders lie side by side: what one reads of another is
`../NAME/x`. That its paths are relative makes the manifests of two runs of it the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OFTEN = ("--checkpoint-minutes", "0.00005")
"""Saves what is done every few milliseconds."""
DATA = "../prep-synthetic/x"
MODEL = ("--embedding-size", "8", "--max-length", "6", "--dropout", "0.2")
FIT = ("--batch-size", "16", "--validate-epochs", "0.6", "--patience", "0", *OFTEN)
TUNING = (
    "--llm",
    "../prep-backbone/x",
    "--samples",
    "32",
    "--validate-rows",
    "20",
    "--epochs",
    "2",
    "--history",
    "3",
    *FIT,
)


@dataclass(frozen=True)
class Case:
    """A command.

    Attributes:
        words: its words, but for --out.
        needs: the names of the cases whose artifacts it reads.
        resumable: whether it keeps what is done.
        adopts: the case whose files lie in its folder before it runs: it only gives them a manifest.
        helps: it only makes what another case reads; its command is disturbed elsewhere.
    """

    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    resumable: bool = False
    adopts: str = ""
    helps: bool = False

    @property
    def name(self) -> str:
        """The command, such as `prep movielens`."""
        return " ".join(self.words[: 2 if self.words[0] in ("prep", "plot") else 1])


def _plot(figure: str, *words: str, needs: tuple[str, ...]) -> Case:
    return Case(("plot", figure, *words), needs)


def _masked(mask: str) -> dict[str, Case]:
    """A model with a mask and its result, for what compares masks."""
    name = mask.replace(":", "").replace(",", "-").replace("*", "")
    tuned = Case(
        ("tune-lora", DATA, *TUNING, "--prompt", "tallrec", "--mask", mask),
        ("prep-synthetic", "prep-backbone"),
        helps=True,
    )
    result = Case(("eval", DATA, f"../tune-{name}/x", "--draws", "0"), ("prep-synthetic", f"tune-{name}"), helps=True)
    return {f"tune-{name}": tuned, f"eval-{name}": result}


RESULTS = ("eval", "eval-language")
BOTH = ("../eval/x", "../eval-language/x", "--name", "cf", "--name", "llm")
CASES = {
    "prep-synthetic": Case(("prep", "synthetic", "--users", "25", "--items", "40")),
    "prep-movielens": Case(("prep", "movielens", "--variant", "latest-small", "--source", "../raw/movielens")),
    "prep-amazon": Case(
        (
            "prep",
            "amazon",
            "--reviews",
            "../raw/reviews.json",
            "--metadata",
            "../raw/metadata.json",
            "--min-item-count",
            "2",
        )
    ),
    "prep-table": Case(
        ("prep", "table", "../raw/movielens/ratings.csv", "--user-column", "userId", "--item-column", "movieId")
    ),
    "prep-backbone": Case(
        ("prep", "backbone", DATA, "--vocabulary", "600", "--exercises", "20", "--steps", "6", *OFTEN),
        ("prep-synthetic",),
        resumable=True,
    ),
    "train-cf": Case(
        ("train-cf", DATA, "--model", "sasrec", *MODEL, "--heads", "2", "--epochs", "2", *FIT),
        ("prep-synthetic",),
        resumable=True,
    ),
    "tune-lora": Case(("tune-lora", DATA, *TUNING), ("prep-synthetic", "prep-backbone"), resumable=True),
    "distill": Case(
        ("distill", DATA, "--llm", "../prep-backbone/x", "--batch-tokens", "100", *OFTEN),
        ("prep-synthetic", "prep-backbone"),
        resumable=True,
    ),
    "align": Case(
        (
            "align",
            DATA,
            "--semantic",
            "../distill/x",
            "--cf",
            "../train-cf/x",
            "--epochs",
            "2",
            "--expansion",
            "2",
            *FIT,
        ),
        ("prep-synthetic", "distill", "train-cf"),
        resumable=True,
    ),
    "train-proj": Case(
        ("train-proj", DATA, *TUNING, "--cf", "../train-cf/x", "--adapter", "new", "--train", "projector,cf,lora"),
        ("prep-synthetic", "prep-backbone", "train-cf"),
        resumable=True,
    ),
    "eval": Case(
        ("eval", DATA, "../train-cf/x", "--draws", "20", *OFTEN), ("prep-synthetic", "train-cf"), resumable=True
    ),
    "eval-language": Case(
        ("eval", DATA, "../tune-lora/x", "--draws", "20", *OFTEN), ("prep-synthetic", "tune-lora"), resumable=True
    ),
    "recommend": Case(
        ("recommend", DATA, "../tune-lora/x", "--retriever", "../train-cf/x", "--candidates", "5", "--k", "3", *OFTEN),
        ("prep-synthetic", "tune-lora", "train-cf"),
        resumable=True,
    ),
    "compare": Case(
        ("compare", *BOTH, "--baseline", "../eval/x", "--draws", "20", "--report"),
        RESULTS,
    ),
    "adopt": Case(("adopt", "x", "--kind", "dataset"), ("prep-synthetic",), adopts="prep-synthetic"),
    "plot-curves": _plot("curves", "../train-cf/x", needs=("train-cf",)),
    "plot-bars": _plot("bars", *BOTH, needs=RESULTS),
    "plot-radar": _plot("radar", *BOTH, needs=RESULTS),
    "plot-improvement": _plot(
        *("improvement", *BOTH, "--baseline", "../eval/x"),
        needs=RESULTS,
    ),
    "plot-classes": _plot("classes", "../eval/x", "--rows", "20", needs=("eval",)),
    "plot-embeddings": _plot("embeddings", "../align/x", "--items", "30", needs=("align",)),
    "plot-cosine": _plot("cosine", "../align/x", needs=("align",)),
    "plot-attention": _plot(
        *("attention", DATA, "../tune-lora/x", "--within-across", "--rows", "3", "--pairs", "10"),
        needs=("prep-synthetic", "tune-lora"),
    ),
    **_masked("in:1,or:*"),
    **_masked("in:2,or:*"),
    "plot-sensitivity": _plot(
        "sensitivity", "../eval-in1-or/x", "../eval-in2-or/x", needs=("eval-in1-or", "eval-in2-or")
    ),
}


def with_needs(names: list[str]) -> list[str]:
    """These cases and all that they need, each after what it needs."""
    wanted = set(names)
    for name in reversed(CASES):
        if name in wanted:
            wanted.update(CASES[name].needs)
    return [name for name in CASES if name in wanted]


def write_raw(folder: Path) -> None:
    """The raw files of a few hundred ratings, of MovieLens and of Amazon."""
    choose = np.random.default_rng(0)
    rows = [(user, item) for user in range(1, 31) for item in choose.permutation(40)[:10] + 1]
    times = 1_000_000_000 + choose.permutation(len(rows))
    ratings = choose.integers(1, 6, len(rows))
    movielens = folder / "movielens"
    movielens.mkdir(parents=True)
    lines = [f"{user},{item},{rating},{time}" for (user, item), rating, time in zip(rows, ratings, times, strict=True)]
    (movielens / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    titles = [f"{item},The Film {item} (1999),Drama|Comedy" for item in range(1, 41)]
    (movielens / "movies.csv").write_text("\n".join(["movieId,title,genres", *titles]) + "\n")
    reviews = [
        {"reviewerID": f"A{user}", "asin": f"B{item}", "overall": float(rating), "unixReviewTime": int(time)}
        for (user, item), rating, time in zip(rows, ratings, times, strict=True)
    ]
    (folder / "reviews.json").write_text("".join(json.dumps(review) + "\n" for review in reviews))
    (folder / "metadata.json").write_text(
        "".join(f"{{'asin': 'B{item}', 'title': 'Thing {item}', 'categories': [['Toys']]}}\n" for item in range(1, 41))
    )
