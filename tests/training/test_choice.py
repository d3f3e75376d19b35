"""What is left open is settled, and what does not go together is refused, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.errors import RectoolError
from rectool.models.table import MODELS, model_class
from rectool.training.choice import choose
from rectool.training.settings import LOSSES, Collaborative, Fit, Objective, Start

Chosen = Callable[..., Any]


@pytest.fixture
def labelled(log: Callable[..., Dataset]) -> Dataset:
    return log([0, 0, 1], [0, 1, 0], [1, 0, 1])


@pytest.fixture
def implicit(log: Callable[..., Dataset]) -> Dataset:
    """Labels stand beside validation rows alone."""
    return log([0, 0, 1], [0, 1, 0], [-1, -1, 1], ["train", "train", "valid"])


def refusal(*arguments: Any, **given: Any) -> str:
    with pytest.raises(RectoolError) as error:
        choose(*arguments, **given)
    return str(error.value)


def test_labels_of_train_rows_choose_the_task(labelled: Dataset, implicit: Dataset, chosen: Chosen) -> None:
    assert chosen(labelled, "mf")[0].task == "ctr"
    assert chosen(implicit, "mf")[0].task == "next-item"
    assert chosen(labelled, "mf", task="next-item")[0].task == "next-item"


def test_ctr_without_labels_is_refused(implicit: Dataset, chosen: Chosen) -> None:
    for model in MODELS:
        with pytest.raises(RectoolError) as error:
            chosen(implicit, model, task="ctr")
        assert str(error.value) == "data has no labelled train rows; --task next-item needs none"


def test_no_train_rows_are_refused(log: Callable[..., Dataset], chosen: Chosen) -> None:
    for model in MODELS:
        with pytest.raises(RectoolError) as error:
            chosen(log([0], [0], split=["test"]), model)
        assert str(error.value) == "data has no train rows; make it with another --split"


def test_models_have_their_tasks(labelled: Dataset, implicit: Dataset, chosen: Chosen) -> None:
    for data, given in ((labelled, {"task": "next-item"}), (implicit, {})):
        with pytest.raises(RectoolError) as error:
            chosen(data, "bias", **given)
        assert str(error.value) == "--model bias is not for --task next-item"


@pytest.mark.parametrize("model", MODELS)
def test_histories(model: str, labelled: Dataset, chosen: Chosen) -> None:
    kind = model_class(model)
    if not kind.reads_history:
        assert chosen(labelled, model)[0].history is None
        with pytest.raises(RectoolError) as error:
            chosen(labelled, model, history="all")
        assert str(error.value) == f"--history means nothing to --model {model}, which reads none"
        return
    length = chosen(labelled, model)[0].settings.max_length
    for task, by_default in (("ctr", True), ("next-item", False)):
        given = {"task": task, **({"loss": "bce"} if model == "din" else {})}
        assert chosen(labelled, model, **given)[0].history == HistoryRule(by_default, length)
        assert chosen(labelled, model, history="all", **given)[0].history == HistoryRule(False, length)
        assert chosen(labelled, model, history="liked", **given)[0].history == HistoryRule(True, length)


@pytest.mark.parametrize("model", ["ncf", "din"])
def test_models_that_score_pair_by_pair(model: str, labelled: Dataset, chosen: Chosen) -> None:
    for given in ({}, {"loss": "sampled-softmax"}, {"loss": "bce", "robust": 0.1}):
        with pytest.raises(RectoolError) as error:
            chosen(labelled, model, task="next-item", **given)
        assert str(error.value) == f"--model {model} scores one pair at a time: --loss bce or bpr, and no --robust"
    for loss in ("bce", "bpr"):
        assert chosen(labelled, model, task="next-item", loss=loss)[0].loss == loss
    for loss in LOSSES["ctr"]:
        assert chosen(labelled, model, loss=loss)[0].loss == loss


def test_probabilities(labelled: Dataset, chosen: Chosen) -> None:
    assert chosen(labelled, "mf")[0].probability == "sigmoid"
    assert chosen(labelled, "bias")[0].probability == "sigmoid"
    assert chosen(labelled, "mf", loss="squared-error")[0].probability is None
    assert chosen(labelled, "popularity")[0].probability is None
    assert chosen(labelled, "mf", task="next-item")[0].probability is None


def test_log_loss_needs_probabilities(labelled: Dataset, chosen: Chosen) -> None:
    assert chosen(labelled, "mf", metric="log_loss")[0].metric == "log_loss"
    for model, given in (("mf", {"loss": "squared-error"}), ("popularity", {}), ("markov", {})):
        with pytest.raises(RectoolError) as error:
            chosen(labelled, model, metric="log_loss", **given)
        assert str(error.value).startswith(f"--metric log_loss needs probabilities, which --model {model} ")


def test_what_means_nothing_to_a_model_that_only_counts(labelled: Dataset) -> None:
    for model in ("popularity", "bias", "markov"):
        counted = Collaborative(model=model)
        said = refusal(labelled, counted, Objective(task="ctr", loss="squared-error"), Fit(), Start())
        assert said == f"--loss means nothing to --model {model}, which only counts"
        said = refusal(labelled, counted, Objective(), Fit(), Start(init_items=Path("x")))
        assert said == f"--init-items means nothing to --model {model}, which only counts"
        assert choose(labelled, counted, Objective(task="ctr"), Fit(epochs=3), Start()).kind.counted


def test_flags_of_other_models_are_refused(labelled: Dataset, chosen: Chosen) -> None:
    with pytest.raises(RectoolError, match="--heads means nothing to --model mf"):
        chosen(labelled, "mf", heads=2)


def test_settings_check_themselves(labelled: Dataset, chosen: Chosen) -> None:
    with pytest.raises(RectoolError) as error:
        chosen(labelled, "sasrec", embedding_size=10, heads=4)
    assert str(error.value) == "--embedding-size 10 is not a multiple of --heads 4"
