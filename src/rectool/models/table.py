"""The collaborative models there are: a new one is a file beside this one, and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rectool.errors import RectoolError

if TYPE_CHECKING:
    from rectool.models.model import Model

Task: TypeAlias = Literal["ctr", "next-item"]
"""What a model is for: to rate rows, or to say which item comes next."""
MODELS = {
    "popularity": "Popularity",
    "bias": "Bias",
    "mf": "MatrixFactorization",
    "ncf": "NeuralCollaborativeFiltering",
    "lightgcn": "LightGCN",
    "din": "DeepInterestNetwork",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "markov": "Markov",
}
"""Name on the command line, which is also that of the file, and the class in it."""


def model_class(name: str) -> type[Model]:
    """The class of a model. Raises RectoolError that lists the models there are."""
    if name not in MODELS:
        raise RectoolError(f"there is no model {name}; the models are {', '.join(MODELS)}")
    found: Any = getattr(import_module(f"rectool.models.{name}"), MODELS[name])
    return found  # type: ignore[no-any-return]
