"""Settings of tuning check themselves, and name the flag."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rectool.errors import RectoolError
from rectool.training.lora_settings import Answering, FitLanguage, Lora


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Lora, {"rank": 0}, "--rank 0 must be at least 1"),
        (Lora, {"alpha": 0.0}, "--alpha 0.0 must be above 0"),
        (Lora, {"alpha": math.nan}, "--alpha nan must be above 0"),
        (Lora, {"dropout": 1.0}, "--dropout 1.0 must be from 0 to below 1"),
        (Lora, {"target_modules": " , "}, "--target-modules names nothing; give names such as q_proj,v_proj"),
        (Lora, {"full": True, "rank": 4}, "--rank means nothing with --full, which trains all weights"),
        (Lora, {"full": True, "dropout": 0.0}, "--dropout means nothing with --full, which trains all weights"),
        (Lora, {"full": True, "target_modules": "all"}, "--target-modules means nothing with --full"),
        (Answering, {"samples": 0}, "--samples 0 must be at least 1"),
        (FitLanguage, {"batch_tokens": 0}, "--batch-tokens 0 must be at least 1"),
        (FitLanguage, {"epochs": 0}, "--epochs 0 must be at least 1"),
    ],
)
def test_what_makes_no_sense(kind: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(RectoolError) as error:
        kind(**given)
    assert str(error.value).startswith(said)


def test_names_of_layers() -> None:
    assert Lora().targets() == ()
    assert Lora(target_modules="q_proj, v_proj,").targets() == ("q_proj", "v_proj")
