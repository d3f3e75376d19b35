"""In-context examples: answered prompts of train rows."""

from __future__ import annotations

import numpy as np

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.prompts.filling import written
from rectool.prompts.markup import Slot
from rectool.prompts.prompts import Examples, Prompts


def drawn(prompts: Prompts, dataset: Dataset, count: int, seed: int) -> Examples:
    """`count` train rows, half of them liked (one more if the count is odd), shuffled; see `Prompts.with_shots`."""
    template = prompts.template
    if prompts.soft:
        raise RectoolError(
            f"prompt {template.name} has a place for an embedding ({', '.join(prompts.soft)}); examples are text: "
            "ask it without embeddings"
        )
    train = dataset.targets("train")
    chance = np.random.default_rng(seed)
    chosen = []
    for label, wanted in ((1, count - count // 2), (0, count // 2)):
        there = train[dataset.label[train] == label]
        if len(there) < wanted:
            raise RectoolError(
                f"--shots {count} needs {wanted} train rows with label {label}, but there are {len(there)}"
            )
        chosen.append(chance.choice(there, wanted, replace=False))
    rows = chance.permutation(np.concatenate(chosen))
    body = tuple(prompts.noun if part == Slot("noun") else part for part in template.parts)
    texts, _ = written(body, prompts.filling(dataset, rows), len(rows))
    answered = []
    for text, row in zip(texts, rows, strict=True):
        joiner = "" if text[-1].isspace() else " "
        answered.append(f"{text}{joiner}{template.answers[0 if dataset.label[row] == 1 else 1]}\n\n")
    digest = dataset.artifact.manifest.digests["interactions"]
    return Examples(tuple(int(row) for row in rows), digest, "".join(answered))
