"""A tiny data set, and tiny models whose attention is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset
from rectool.figures.attended import Attended
from rectool.llm.backbone import find
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.masks import masked
from rectool.prompts import template
from rectool.prompts.prompts import Prompts


@pytest.fixture(scope="session")
def dataset(synthetic: Callable[[int, int], Path]) -> Dataset:
    return Dataset(open_artifact(synthetic(40, 50), "dataset"))


@pytest.fixture(scope="session")
def attended() -> Callable[..., Attended]:
    """A new model of a folder that is asked for the next item: `attended(folder, MaskPlan("in:1,cr:1"))`."""

    def load(folder: Path, mask: MaskPlan = CAUSAL, name: str = "model") -> Attended:
        backbone, cpu = find(str(folder)), torch.device("cpu")
        model = backbone.model(device=cpu, dtype=torch.float32)
        if not mask.is_causal:
            masked(model)
        prompts = Prompts(template.load("hatllm"), backbone.tokenizer(), history=4)
        return Attended(name, model, prompts, cpu, mask)

    return load
