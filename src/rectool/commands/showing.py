"""What several commands show of what they made."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rectool import console

if TYPE_CHECKING:
    from rectool.artifacts import Manifest


def validation_table(measured: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    """Validation metrics of a model, and beside it of others that need no training: the name and values of each."""
    if not measured[0][1]:
        console.say("there are no validation rows to measure the model on")
        return
    rows = [
        (name, *(f"{values[name]:.4f}" if name in values else "" for _, values in measured)) for name in measured[0][1]
    ]
    console.table("validation", ("", *(name for name, _ in measured)), rows)


def beside_priors(made: Manifest) -> None:
    """Validation metrics of a language model beside the priors, which need no training."""
    found = made.metrics
    priors = [{**prior} for prior in found["priors"]]
    validation_table([(found["model"], found["valid"]), *((prior.pop("model"), prior) for prior in priors)])


def on_terminal() -> bool:
    """Whether people see the answer."""
    return sys.stdout.isatty()
