"""The settings of `align`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rectool.errors import RectoolError
from rectool.training.align_settings import Alignment, Started


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"align_weight": -1.0}, "--align-weight -1.0 must be at least 0"),
        ({"temperature": 0.0}, "--temperature 0.0 must be above 0"),
        ({"temperature": float("nan")}, "--temperature nan must be above 0"),
        ({"anchors": 0}, "--anchors 0 must be at least 1"),
        ({"expansion": 0}, "--expansion 0 must be at least 1"),
        ({"anchors": 1, "negatives": "batch"}, "one item alone has no negatives"),
        ({"train_semantic": False, "semantic_learning_rate": 0.1}, "means nothing with --no-train-semantic"),
        ({"task": "ctr", "loss": "bpr"}, "--loss bpr is not for --task ctr"),
    ],
)
def test_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RectoolError, match=said):
        Alignment(**given)


def test_what_a_trained_model_says_itself() -> None:
    Started().refuse_given(Path("runs/mf"))
    with pytest.raises(RectoolError, match="--embedding-size: --cf runs/mf says itself what model it is"):
        Started(embedding_size=8).refuse_given(Path("runs/mf"))
