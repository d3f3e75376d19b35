"""Settings check themselves, and name the flag."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rectool.errors import RectoolError
from rectool.models.din import DeepInterestNetworkSettings
from rectool.models.popularity import PopularitySettings
from rectool.models.sasrec import SASRecSettings
from rectool.training.settings import LOSSES, METRICS, Collaborative, Fit, Objective, Start


def refusal(kind: Any, **given: Any) -> str:
    with pytest.raises(RectoolError) as error:
        kind(**given)
    return str(error.value)


# Models


def test_a_model_that_is_not_there() -> None:
    said = refusal(Collaborative, model="svd")
    assert said == "--model svd is none of popularity, bias, mf, ncf, lightgcn, din, gru4rec, sasrec, markov"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("embedding_size", 0, "--embedding-size 0 must be at least 1"),
        ("hidden_size", -1, "--hidden-size -1 must be at least 1"),
        ("layers", 0, "--layers 0 must be at least 1"),
        ("heads", 0, "--heads 0 must be at least 1"),
        ("max_length", 0, "--max-length 0 must be at least 1"),
        ("init_scale", -0.1, "--init-scale -0.1 must be at least 0"),
        ("init_scale", math.nan, "--init-scale nan must be a number, at least 0"),
        ("smoothing", math.inf, "--smoothing inf must be above 0"),
        ("dropout", 1.0, "--dropout 1.0 must be from 0 to below 1"),
        ("dropout", math.nan, "--dropout nan must be from 0 to below 1"),
    ],
)
def test_shapes_that_make_no_sense(name: str, value: float, said: str) -> None:
    assert refusal(Collaborative, model="mf", **{name: value}) == said


def test_what_is_given_wins_over_the_task_and_that_over_the_model() -> None:
    chosen = Collaborative(model="sasrec", embedding_size=32, dropout=0.0)
    assert chosen.resolve(SASRecSettings, {}) == SASRecSettings(embedding_size=32, dropout=0.0)
    assert chosen.resolve(SASRecSettings, {"biases": True, "dropout": 0.5}).biases
    assert chosen.resolve(SASRecSettings, {"dropout": 0.5}).dropout == 0
    off = Collaborative(model="sasrec", biases=False)
    assert not off.resolve(SASRecSettings, {"biases": True}).biases


def test_flags_that_mean_nothing_to_a_model_are_refused() -> None:
    with pytest.raises(RectoolError) as error:
        Collaborative(model="din", heads=2, layers=1, dropout=0.1).resolve(DeepInterestNetworkSettings, {})
    assert str(error.value) == (
        "--heads means nothing to --model din, which has --biases, --dropout, --embedding-size, --hidden-size, "
        "--init-scale, --max-length"
    )
    with pytest.raises(RectoolError, match="--smoothing means nothing to --model popularity, which has no such flags"):
        Collaborative(model="popularity", smoothing=1).resolve(PopularitySettings, {})


def test_init_by_needs_init_items() -> None:
    assert refusal(Start, init_by="pca") == "--init-by pca needs --init-items"


# What is minimised


def test_each_task_has_its_losses_and_the_first_is_its_default() -> None:
    for task, losses in LOSSES.items():
        assert Objective().loss_for(task) == losses[0]
        for loss in losses:
            assert Objective(task=task, loss=loss).loss_for(task) == loss
    assert (
        refusal(Objective, task="ctr", loss="bpr")
        == "--loss bpr is not for --task ctr, whose losses are bce, squared-error"
    )
    assert "--loss squared-error is not for --task next-item" in refusal(
        Objective, task="next-item", loss="squared-error"
    )


@pytest.mark.parametrize(
    "given",
    [{"robust": 0.1}, {"log_q": True}, {"autoregressive": True}, {"negatives": 3}, {"negatives_by": "popularity"}],
)
def test_what_is_for_next_item_alone(given: dict[str, Any]) -> None:
    with pytest.raises(RectoolError) as error:
        Objective(**given).loss_for("ctr")
    assert str(error.value) == "--robust, --log-q, --autoregressive and negatives are for --task next-item"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": "bpr", "log_q": True}, "--log-q corrects sampled-softmax; --loss is bpr"),
        ({"negatives": 4}, "--loss full-softmax takes the whole catalogue: it draws no negatives"),
        ({"negatives_by": "popularity"}, "--loss full-softmax takes the whole catalogue: it draws no negatives"),
    ],
)
def test_what_does_not_go_with_a_loss(given: dict[str, Any], said: str) -> None:
    assert refusal(Objective, task="next-item", **{"loss": "full-softmax", **given}) == said
    with pytest.raises(RectoolError) as error:
        Objective(**given).loss_for("next-item")
    assert str(error.value) in (said, said.replace("bpr", "full-softmax"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"negatives": 0}, "--negatives 0 must be at least 1"),
        ({"robust": -1.0}, "--robust -1.0 must be at least 0"),
        ({"robust": 1.0, "robust_temperature": 0.0}, "--robust-temperature 0.0 must be above 0"),
        ({"robust": 1.0, "robust_temperature": math.nan}, "--robust-temperature nan must be above 0"),
        ({"robust_temperature": 0.5}, "--robust-temperature 0.5 means nothing without --robust"),
    ],
)
def test_numbers_that_make_no_sense(given: dict[str, Any], said: str) -> None:
    assert refusal(Objective, **given) == said


# How it is trained


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(
            ({name: 0}, f"--{name.replace('_', '-')} 0 must be at least 1")
            for name in ("epochs", "steps", "batch_size")
        ),
        *(({name: 0}, f"--{name.replace('_', '-')} 0 must be at least 1") for name in ("accumulate", "validate_rows")),
        ({"validate_steps": 0}, "--validate-steps 0 must be at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0 must be at least 0"),
        ({"learning_rate": math.nan}, "--learning-rate nan must be a number, at least 0"),
        ({"weight_decay": math.inf}, "--weight-decay inf must be a number, at least 0"),
        ({"beta2": 1.0}, "--beta2 1.0 must be at least 0 and below 1"),
        ({"beta2": math.nan}, "--beta2 nan must be at least 0 and below 1"),
        ({"clip": -1.0}, "--clip -1.0 must be at least 0"),
        ({"patience": -1}, "--patience -1 must be at least 0"),
        ({"warmup": 1.5}, "--warmup 1.5 is a share of the steps, from 0 to 1"),
        ({"warmup": math.nan}, "--warmup nan is a share of the steps, from 0 to 1"),
        ({"validate_epochs": 0.0}, "--validate-epochs 0.0 must be above 0"),
        ({"validate_epochs": math.nan}, "--validate-epochs nan must be above 0"),
        ({"validate_epochs": math.inf}, "--validate-epochs inf must be above 0"),
    ],
)
def test_training_that_makes_no_sense(given: dict[str, Any], said: str) -> None:
    assert refusal(Fit, **given) == said


def test_metrics_by_task() -> None:
    for task, metrics in METRICS.items():
        assert Fit().metric_for(task) == metrics[0]
        for metric in metrics:
            assert Fit(metric=metric).metric_for(task) == metric
    with pytest.raises(RectoolError) as error:
        Fit(metric="recall").metric_for("next-item")
    assert str(error.value) == "--metric recall is not measured for next-item; one of ndcg@10, hr@10, mrr@10"
