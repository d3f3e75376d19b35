"""`rectool eval` as a whole: metrics worked out by hand, what it refuses, what it writes."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from rectool.artifacts import Input, Making, open_artifact, write
from rectool.data.histories import HistoryRule
from rectool.evaluation import scorer
from rectool.models import saved
from rectool.models.mf import MatrixFactorization, MatrixFactorizationSettings
from rectool.models.model import CatalogueScores, Model, Sequences, Size
from rectool.models.sasrec import SASRec, SASRecSettings
from rectool.models.saved import Trained

# Users ann, bob, cat and items a, b, c, d are numbered 0 to 3; test rows are 2, 3 (ann), 6 (bob), 9, 10 (cat).
RATINGS = """user_id,item_id,timestamp,rating,split
ann,a,10,5,train
ann,b,20,2,train
ann,c,70,4,test
ann,d,80,1,test
bob,a,30,4,train
bob,c,40,1,train
bob,b,90,5,test
cat,b,50,3,valid
cat,c,60,5,valid
cat,d,100,2,test
cat,a,110,4,test
"""
SCORES = (2.0, -1.0, 1.0, 0.5)  # of the items
TEST_ROWS = [2, 3, 6, 9, 10]
TEST_SCORES = [1.0, 0.5, -1.0, 0.5, 2.0]
ALL = HistoryRule(liked_only=False, length=10)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where data sets are kept that were prepared once."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def prepare(rectool: Any, tmp_path: Path, shelf: Path) -> Callable[..., Path]:
    """A data set of a table of ratings."""

    def run(name: str = "data", ratings: str = RATINGS) -> Path:
        kept = shelf / hashlib.sha256(ratings.encode()).hexdigest()
        if not kept.exists():
            raw = tmp_path / f"{name}.csv"
            raw.write_text(ratings)
            assert rectool("prep", "table", raw, "--untitled", "id", "--out", kept).code == 0
        return Path(shutil.copytree(kept, tmp_path / name))

    return run


@pytest.fixture
def data(prepare: Any) -> Path:
    return prepare()


def save(out: Path, data: Path, trained: Trained) -> Path:
    """A model artifact; what stands for users and items elsewhere is of no concern here."""
    dataset = Input("dataset", data, artifact=open_artifact(data))
    with write(out, "cf", Making(["rectool", "train-cf"], {}, 0, [dataset.parent(out, "cf")])) as draft:
        size = trained.model.size
        saved.save(trained, np.ones((size.users, 2), np.float32), np.ones((size.items, 2), np.float32), draft.path)
    return out


def by_item(scores: Sequence[float], task: Any = "ctr", probability: Any = "sigmoid", users: int = 3) -> Trained:
    """Matrix factorisation that gives each item a score of its own, whoever the user."""
    model = MatrixFactorization(MatrixFactorizationSettings(embedding_size=1, biases=False), Size(users, len(scores)))
    model.load_state_dict({"user.weight": torch.ones(users, 1), "item.weight": torch.tensor(scores)[:, None]})
    return Trained("mf", model, task, None, probability if task == "ctr" else None)


@pytest.fixture
def model(tmp_path: Path, data: Path) -> Path:
    return save(tmp_path / "mf", data, by_item(SCORES))


@pytest.fixture
def ranker(tmp_path: Path, data: Path) -> Path:
    return save(tmp_path / "ranker", data, by_item(SCORES, "next-item"))


def metrics(out: Path, group: str = "all") -> dict[str, Any]:
    """The values of a group."""
    report = json.loads((out / "metrics.json").read_text())
    return {line["metric"]: line["value"] for line in report["metrics"] if line["group"] == group}


def line(out: Path, metric: str, group: str = "all") -> dict[str, Any]:
    report = json.loads((out / "metrics.json").read_text())
    return next(each for each in report["metrics"] if (each["group"], each["metric"]) == (group, metric))


def predictions(out: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(out / "predictions.parquet").to_pydict()
    return columns


def test_ctr_metrics_are_those_worked_out_by_hand(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert rectool("eval", data, model, "--out", out).code == 0
    found = metrics(out)
    # Liked rows score 1, -1, 2, the others .5 and .5: 4 of 6 pairs are right. Bob has one class only.
    losses = [math.log1p(math.exp(x)) for x in (-1, 0.5, 1, 0.5, -2)]
    assert found["auc"] == pytest.approx(4 / 6)
    assert found["uauc"] == 1
    assert found["log_loss"] == pytest.approx(sum(losses) / 5, rel=1e-6)
    assert (found["accuracy"], found["precision"]) == (pytest.approx(2 / 5), pytest.approx(2 / 4))
    assert (found["recall"], found["f1"]) == (pytest.approx(2 / 3), pytest.approx(4 / 7))
    assert (line(out, "uauc")["users"], line(out, "uauc")["skipped_users"], line(out, "auc")["rows"]) == (3, 1, 5)
    report = json.loads((out / "metrics.json").read_text())
    del report["metrics"], report["priors"]
    assert report == {
        "task": "ctr",
        "split": "test",
        "model": "mf",
        "warm": "seen",
        "threshold": 0.5,
        "threshold_from": "given",
        "exclude": None,
        "k": None,
        "targets": None,
        "repeats": 1,
        "draws": 1000,
        "confidence": 0.95,
    }


def test_what_needs_no_model_stands_beside_it(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    """Of five rows' worth of the mean, 1/2, an item has a part, and a user: ann and bob like one of two, cat is new."""
    out = tmp_path / "out"
    shown = rectool("eval", data, model, "--out", out).stdout
    item, both = json.loads((out / "metrics.json").read_text())["priors"]
    a, b, c, d = (math.log(p / (1 - p)) for p in (4.5 / 7, 2.5 / 6, 2.5 / 6, 1 / 2))
    logits = [c, -d, b, -d, a]  # of the test rows, those that are disliked turned round
    found = {(line["group"], line["metric"]): line["value"] for line in item["metrics"]}
    assert found["all", "log_loss"] == pytest.approx(sum(math.log1p(math.exp(-x)) for x in logits) / 5)
    assert found["all", "auc"] == pytest.approx(2 / 6)
    assert found["cold-user", "auc"] is None
    assert (item["model"], both["model"]) == ("item mean", "user + item mean")
    assert item["metrics"] == both["metrics"]
    assert "user + item mean" in shown
    assert "smoothed mean labels of train rows" in shown


def test_predictions_are_aligned_to_the_rows_of_the_data(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert rectool("eval", data, model, "--out", out).code == 0
    log = pq.read_table(data / "interactions.parquet").take(TEST_ROWS).to_pydict()
    found = predictions(out)
    assert found.pop("probability") == pytest.approx([1 / (1 + math.exp(-score)) for score in TEST_SCORES])
    assert found == {
        "row": TEST_ROWS,
        **{name: log[name] for name in ("user", "item", "label")},
        "score": TEST_SCORES,
        "group": ["warm", "cold-item", "warm", "cold-both", "cold-user"],
    }
    result = open_artifact(out, "result", verify=True)
    assert [(parent.role, parent.kind) for parent in result.manifest.parents] == [
        ("dataset", "dataset"),
        ("model", "cf"),
    ]
    assert result.manifest.run["device"] == "cpu"
    assert not (out / "topk.parquet").exists()


@pytest.mark.parametrize(
    ("exclude", "ranks"), [("none", [2, 3, 4, 3, 1]), ("history", [1, 1, 2, 2, 1]), ("train", [1, 2, 2, 3, 1])]
)
def test_next_item_metrics_are_those_worked_out_by_hand(
    rectool: Any, data: Path, ranker: Path, tmp_path: Path, exclude: str, ranks: list[int]
) -> None:
    """Items score a 2, c 1, d .5, b -1. Ann's rows come after a and b, bob's after a and c, cat's after b and c."""
    out = tmp_path / "out"
    assert rectool("eval", data, ranker, "--out", out, "--k", "2,1", "--exclude", exclude).code == 0
    found, said = metrics(out), predictions(out)
    assert said["rank"] == ranks
    assert said["score"] == TEST_SCORES
    assert said["probability"] == [None] * 5
    users = [ranks[:2], ranks[2:3], ranks[3:]]
    for k in (1, 2):
        assert found[f"hr@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / 5)
        assert found[f"ndcg@{k}"] == pytest.approx(sum((rank <= k) / math.log2(1 + rank) for rank in ranks) / 5)
        assert found[f"mrr@{k}"] == pytest.approx(sum((rank <= k) / rank for rank in ranks) / 5)
        shares = [sum(rank <= k for rank in mine) / len(mine) for mine in users]
        assert found[f"recall@{k}"] == pytest.approx(sum(shares) / 3)
    report = json.loads((out / "metrics.json").read_text())
    assert (report["k"], report["exclude"], report["threshold"]) == ([1, 2], exclude, None)
    if exclude == "none":  # everybody is offered a, with two train rows, and c, with one
        assert (found["coverage@1"], found["coverage@2"]) == (0.25, 0.5)
        assert (found["popularity@1"], found["popularity@2"]) == (2, 1.5)


def test_topk_has_the_best_items_of_each_row(rectool: Any, data: Path, ranker: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert rectool("eval", data, ranker, "--out", out, "--k", "3", "--exclude", "history", "--topk").code == 0
    found = pq.read_table(out / "topk.parquet").to_pydict()
    lists: dict[int, list[tuple[int, int, float]]] = {}
    for row, rank, item, score in zip(*(found[name] for name in ("row", "rank", "item", "score")), strict=True):
        lists.setdefault(row, []).append((rank, item, score))
    # Row 3 is ann's d, before which she had all other items.
    assert lists == {
        2: [(1, 2, 1.0), (2, 3, 0.5)],
        3: [(1, 3, 0.5)],
        6: [(1, 3, 0.5), (2, 1, -1.0)],
        9: [(1, 0, 2.0), (2, 3, 0.5)],
        10: [(1, 0, 2.0)],
    }
    open_artifact(out, "result", verify=True)


def test_a_threshold_is_chosen_on_validation(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    """The one liked validation row has item c, with score 1: as good as any is to take that for liked, and no less."""
    out = tmp_path / "out"
    outcome = rectool("eval", data, model, "--out", out, "--threshold", "valid")
    assert outcome.code == 0
    report = json.loads((out / "metrics.json").read_text())
    assert (report["threshold"], report["threshold_from"]) == (pytest.approx(1 / (1 + math.exp(-1))), "valid")
    assert (metrics(out)["precision"], metrics(out)["recall"]) == (1, pytest.approx(2 / 3))
    assert "probability from 0.7311 on, the best F1 on validation rows" in outcome.stdout


def test_groups_follow_the_rule(rectool: Any, data: Path, model: Path, ranker: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = rectool("eval", data, model, "--out", out, "--warm", "count>1")
    assert predictions(out)["group"] == ["cold-item", "cold-item", "cold-item", "cold-both", "cold-user"]
    assert "more than 1 train rows" in outcome.stdout
    assert metrics(out, "warm") == {}
    assert metrics(out, "cold") == metrics(out)
    rectool("eval", data, ranker, "--out", out, "--k", "2", "--overwrite")
    assert [line(out, "hr@2", group)["rows"] for group in ("warm", "cold-item", "cold-user", "cold-both")] == [
        2,
        1,
        1,
        1,
    ]
    assert (metrics(out, "warm")["hr@2"], metrics(out, "cold-user")["hr@2"]) == (0.5, 1)


def test_the_task_may_be_another_than_the_models(
    rectool: Any, data: Path, model: Path, ranker: Path, tmp_path: Path
) -> None:
    rated, ranked = tmp_path / "rated", tmp_path / "ranked"
    outcome = rectool("eval", data, ranker, "--task", "ctr", "--out", rated)
    assert metrics(rated) == {"auc": pytest.approx(4 / 6), "uauc": 1}
    assert json.loads((rated / "metrics.json").read_text())["threshold"] is None
    assert "mf gives no probabilities" in outcome.stdout
    assert rectool("eval", data, model, "--task", "next-item", "--out", ranked).code == 0
    assert predictions(ranked)["rank"] == [2, 3, 4, 3, 1]


def test_disliked_rows_may_be_left_out_of_next_items(rectool: Any, data: Path, ranker: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = rectool("eval", data, ranker, "--out", out, "--targets", "liked", "--split", "test")
    assert predictions(out)["row"] == [2, 6, 10]
    assert "targets: rows that are not disliked" in outcome.stdout
    assert json.loads((out / "metrics.json").read_text())["targets"] == "liked"


def test_another_split(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert rectool("eval", data, model, "--split", "valid", "--out", out).code == 0
    assert predictions(out)["row"] == [7, 8]


def test_constant_scores_know_nothing(rectool: Any, data: Path, tmp_path: Path) -> None:
    model = save(tmp_path / "mf", data, by_item([0.0] * 4))
    out = tmp_path / "out"
    assert rectool("eval", data, model, "--out", out).code == 0
    found = metrics(out)
    assert (found["auc"], found["uauc"], found["log_loss"]) == (0.5, 0.5, pytest.approx(math.log(2)))
    assert rectool("eval", data, model, "--task", "next-item", "--k", "2,3", "--out", out, "--overwrite").code == 0
    assert predictions(out)["rank"] == [2] * 5
    assert metrics(out)["hr@2"] == 1


@pytest.mark.parametrize("task", ["ctr", "next-item"])
def test_a_nan_score_is_refused_with_its_row(rectool: Any, data: Path, tmp_path: Path, task: str) -> None:
    model = save(tmp_path / "mf", data, by_item([2.0, float("nan"), 1.0, 0.5]))
    outcome = rectool("eval", data, model, "--task", task, "--out", tmp_path / "out")
    assert outcome.code == 2
    row = 6 if task == "ctr" else 2  # of which b is one of the candidates
    assert f"row {row} of {data}/interactions.parquet are not finite (nan)" in outcome.error
    assert not (tmp_path / "out").exists()


def flipped(ratings: str) -> str:
    """The same log with the other label for each test row."""
    rows = [row.split(",") for row in ratings.splitlines()]
    for row in rows:
        if row[4] == "test":
            row[3] = str(6 - int(row[3]))
    return "\n".join(map(",".join, rows)) + "\n"


def sasrec(seed: int, users: int, items: int, task: Any = "ctr") -> Trained:
    torch.manual_seed(seed)
    model = SASRec(SASRecSettings(embedding_size=8, heads=2, max_length=10, init_scale=1.0), Size(users, items))
    return Trained("sasrec", model, task, ALL, "sigmoid" if task == "ctr" else None)


@pytest.mark.parametrize("task", ["ctr", "next-item"])
def test_labels_of_the_split_change_no_score(rectool: Any, data: Path, prepare: Any, tmp_path: Path, task: str) -> None:
    model = save(tmp_path / "sasrec", data, sasrec(0, 3, 4))
    other = prepare("other", flipped(RATINGS))
    found = []
    for each in (data, other):
        out = tmp_path / f"{each.name}-out"
        assert rectool("eval", each, model, "--task", task, "--out", out).code == 0
        found.append(predictions(out))
    before, after = found
    assert [1 - label for label in before.pop("label")] == after.pop("label")
    assert before == after


class Noisy(Model):
    """Scores that depend on chance."""

    Settings: ClassVar = MatrixFactorizationSettings
    stochastic: ClassVar = True

    def __init__(self, settings: Any, size: Size) -> None:
        super().__init__(settings, size)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def score(self, users: Tensor, items: Tensor, sequences: Sequences) -> Tensor:
        return torch.randn(len(users)) + self.weight

    def rank(self, users: Tensor, sequences: Sequences) -> CatalogueScores:
        return lambda start, stop: torch.randn(len(users), stop - start) + self.weight

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        return torch.ones(len(users), 1)

    def item_vectors(self) -> Tensor:
        return torch.ones(self.size.items, 1)


@pytest.mark.parametrize(("task", "metric"), [("ctr", "log_loss"), ("next-item", "mrr@5")])
def test_repeats_of_a_stochastic_model_have_mean_and_spread(
    rectool: Any, data: Path, tmp_path: Path, monkeypatch: Any, task: Any, metric: str
) -> None:
    monkeypatch.setattr(saved, "model_class", lambda name: Noisy)
    noisy = Trained("noisy", Noisy(MatrixFactorizationSettings(), Size(3, 4)), task, None, "sigmoid")
    model = save(tmp_path / "noisy", data, noisy)
    single = []
    for seed in (5, 6, 7):
        out = tmp_path / f"seed-{seed}"
        assert rectool("eval", data, model, "--out", out, "--seed", seed).code == 0
        single.append(metrics(out)[metric])
    out = tmp_path / "out"
    outcome = rectool("eval", data, model, "--out", out, "--seed", "5", "--repeats", "3")
    assert outcome.code == 0
    assert line(out, metric)["value"] == pytest.approx(np.mean(single))
    assert line(out, metric)["spread"] == pytest.approx(np.std(single, ddof=1))
    assert predictions(out) == predictions(tmp_path / "seed-5")
    assert json.loads((out / "metrics.json").read_text())["repeats"] == 3
    assert "means over 3 repeats" in outcome.stdout


def test_repeats_of_other_models_are_one(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = rectool("eval", data, model, "--out", out, "--repeats", "3")
    assert "--repeats 3: scores of mf do not depend on chance; evaluated once" in outcome.stderr
    assert json.loads((out / "metrics.json").read_text())["repeats"] == 1
    assert "spread" not in line(out, "auc")


def test_what_is_shown(rectool: Any, data: Path, model: Path, ranker: Path, tmp_path: Path, monkeypatch: Any) -> None:
    shown = rectool("eval", data, model, "--out", tmp_path / "rated").stdout
    assert "mf, ctr, test rows" in shown
    assert "warm: user and item each have a train row" in shown
    assert "1 of 3 users are skipped" in shown
    assert "intervals: 95%, bootstrap over users, 1,000 draws" in shown
    low, high = (line(tmp_path / "rated", "log_loss")[end] for end in ("low", "high"))
    assert f"[{low:.4f}, {high:.4f}]" in shown
    options = ["--exclude", "train", "--draws", "0"]
    shown = rectool("eval", data, ranker, "--out", tmp_path / "ranked", *options).stdout
    assert "candidates: all items but those of the user's train rows; the row's own item always is one" in shown
    assert "intervals" not in shown
    assert line(tmp_path / "ranked", "hr@5")["low"] is None
    monkeypatch.setenv("COLUMNS", "60")
    narrow = rectool("eval", data, model, "--out", tmp_path / "narrow").stdout
    assert narrow.count("mf, ctr, test rows") > 1
    assert "macro_precision" in narrow


def test_json_has_the_metrics(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = rectool("eval", data, model, "--out", out, "--json").json
    assert found["metrics"] == json.loads((out / "metrics.json").read_text())
    assert found["counts"] == {"predictions": 5}
    assert (found["kind"], found["skipped"]) == ("result", False)


def test_update_keeps_what_is_up_to_date(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = ["eval", data, model, "--out", out, "--update", "--json"]
    assert rectool(*run).json["skipped"] is False
    assert rectool(*run, "--batch-tokens", "7").json["skipped"] is True
    for changed in (["--seed", "1"], ["--warm", "count>2"], ["--task", "next-item"]):
        assert rectool(*run, *changed).json["skipped"] is False
    assert "exists already" in rectool("eval", data, model, "--out", out).error


def test_another_model_in_its_place_is_evaluated_again(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = ["eval", data, model, "--out", out, "--update", "--json"]
    before = rectool(*run).json
    for file in model.iterdir():
        file.unlink()
    save(model, data, by_item([1.0, 2.0, 3.0, 4.0]))
    outcome = rectool(*run)
    assert outcome.json["skipped"] is False
    assert "model is another one" in outcome.stderr
    assert outcome.json["digest"] != before["digest"]


def test_dry_run_writes_nothing(rectool: Any, data: Path, ranker: Path, tmp_path: Path) -> None:
    outcome = rectool("eval", data, ranker, "--out", tmp_path / "out", "--dry-run", "--topk", "--json")
    assert outcome.code == 0
    assert outcome.json["reads"] == [str(data), str(ranker)]
    assert 0 < outcome.json["disk_bytes"] < 10_000
    assert not (tmp_path / "out").exists()


def test_the_model_finds_a_data_set_that_has_moved(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    moved = data.rename(tmp_path / "moved")
    assert rectool("eval", moved, model, "--out", tmp_path / "out").code == 0


def test_a_model_of_another_data_set_is_refused_with_both_digests(
    rectool: Any, prepare: Any, data: Path, model: Path, tmp_path: Path
) -> None:
    other = prepare("other", RATINGS.replace("ann,b,20,2", "ann,b,20,5"))
    outcome = rectool("eval", other, model, "--out", tmp_path / "out")
    assert outcome.code == 2
    digests = (open_artifact(path).manifest.digests["training"] for path in (data, other))
    assert "a dataset whose training is {}, but {} has {}".format(*_three(digests, other)) in outcome.error


def _three(digests: Any, path: Path) -> tuple[str, Path, str]:
    first, second = digests
    return first, path, second


def test_a_model_that_belongs_to_no_data_set_is_refused(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    manifest = json.loads((model / "rectool.json").read_text())
    manifest["parents"] = []
    (model / "rectool.json").write_text(json.dumps(manifest))
    assert "has no parent 'dataset'" in rectool("eval", data, model, "--out", tmp_path / "out").error


@dataclass(frozen=True)
class Mistake:
    """Flags, and what is said of them."""

    flags: tuple[str, ...]
    said: str


@pytest.mark.parametrize(
    "mistake",
    [
        Mistake(("--warm", "often"), "--warm often is none of the forms seen and 'count>3'"),
        Mistake(("--warm", "count>-1"), "--warm count>-1"),
        Mistake(("--task", "next-item", "--k", "5,0"), "--k 5,0 is not a list of positive numbers such as 5,10,20"),
        Mistake(("--task", "next-item", "--k", "5,,6"), "--k 5,,6"),
        Mistake(("--task", "next-item", "--k", ""), "--k is not a list"),
        Mistake(("--task", "next-item", "--exclude", "seen"), "--exclude seen is none of none, history, train"),
        Mistake(("--exclude", "history"), "--exclude is for --task next-item, but this is --task ctr"),
        Mistake(("--topk",), "--topk is for --task next-item"),
        Mistake(("--task", "next-item", "--threshold", "0.3"), "--threshold is for --task ctr"),
        Mistake(("--threshold", "1.5"), "--threshold 1.5 is neither a number from 0 to 1 nor valid"),
        Mistake(("--threshold", "nan"), "--threshold nan"),
        Mistake(("--threshold", "high"), "--threshold high"),
        Mistake(("--draws", "-1"), "--draws -1 must not be negative"),
        Mistake(("--confidence", "95"), "--confidence 95.0 must be between 0 and 1"),
        Mistake(("--repeats", "0"), "--repeats 0 must be at least 1"),
        Mistake(("--batch-tokens", "0"), "--batch-tokens 0 must be at least 1"),
        Mistake(("--device", "abacus"), "--device abacus: rectool computes on cpu and cuda"),
        Mistake(("--split", "context"), "--split context is none of test, valid, train"),
        Mistake(("--parent", "dataset=elsewhere"), "--parent dataset: the data set is"),
    ],
    ids=lambda mistake: " ".join(mistake.flags),
)
def test_mistakes_are_one_line(rectool: Any, data: Path, model: Path, tmp_path: Path, mistake: Mistake) -> None:
    outcome = rectool("eval", data, model, "--out", tmp_path / "out", *mistake.flags)
    assert outcome.code == 2
    assert mistake.said in outcome.error
    assert not (tmp_path / "out").exists()


def test_kinds_are_checked(rectool: Any, data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "is a cf artifact, but a dataset is needed" in rectool("eval", model, data, "--out", out).error
    refused = rectool("eval", data, data, "--out", out).error
    assert "is a dataset artifact, but a model is needed (cf, llm, backbone); make one with: rectool" in refused
    nowhere = rectool("eval", data, tmp_path / "nowhere", "--out", out)
    assert "nowhere does not exist; make a model with: rectool train-cf, tune-lora or train-proj, or " in nowhere.error
    file = rectool("eval", data, model / "config.json", "--out", out)
    assert "config.json is a file, but a model is a folder; make" in file.error
    empty = rectool("eval", data, tmp_path, "--out", out)
    assert f"{tmp_path} holds neither an artifact nor a Hugging Face model; make" in empty.error
    assert "name a model: a folder made by" in rectool("eval", data, "--out", out).error


@pytest.mark.parametrize(
    "flags",
    [("--llm", "x"), ("--history", "3"), ("--shots", "2"), ("--precision", "fp32"), ("--answer-loss", "yes-logit")],
)
def test_flags_of_language_models_are_refused_for_others(
    rectool: Any, data: Path, model: Path, tmp_path: Path, flags: tuple[str, str]
) -> None:
    said = rectool("eval", data, model, "--out", tmp_path / "out", *flags).error
    assert f"{flags[0]}: {model} is a collaborative model, which leaves no choice of this; leave it out" in said


def test_a_threshold_cannot_be_chosen_without_probabilities(
    rectool: Any, data: Path, ranker: Path, tmp_path: Path
) -> None:
    outcome = rectool("eval", data, ranker, "--task", "ctr", "--threshold", "valid", "--out", tmp_path / "out")
    assert "--threshold valid: mf, trained for next-item, gives no probabilities" in outcome.error


@pytest.mark.parametrize("valid", ["none", "unliked"])
@pytest.mark.parametrize("dry", [False, True])
def test_a_threshold_cannot_be_chosen_without_liked_validation_rows(
    rectool: Any, prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valid: str, dry: bool
) -> None:
    data = prepare("other", RATINGS.replace(*(("valid", "train") if valid == "none" else ("60,5,valid", "60,2,valid"))))
    model, out = save(tmp_path / "mf", data, by_item(SCORES)), tmp_path / "out"
    monkeypatch.setattr(scorer, "score_rows", None)  # nothing is scored before
    outcome = rectool("eval", data, model, "--threshold", "valid", "--out", out, *(["--dry-run"] if dry else []))
    assert outcome.code == 2
    rows = data / "interactions.parquet"
    assert f"--threshold valid: {rows} has no valid rows with label 1, on which one can be chosen" in outcome.error


def test_an_empty_split_is_refused(rectool: Any, prepare: Any, tmp_path: Path) -> None:
    data = prepare("other", RATINGS.replace("test", "valid"))
    model = save(tmp_path / "mf", data, by_item(SCORES))
    outcome = rectool("eval", data, model, "--out", tmp_path / "out", "--dry-run")
    assert "has no test rows; choose another --split" in outcome.error


def test_rows_without_labels_can_only_be_ranked(rectool: Any, prepare: Any, tmp_path: Path) -> None:
    rows = [row.split(",") for row in RATINGS.splitlines()]
    implicit = "\n".join(",".join([*row[:3], row[4]]) for row in rows) + "\n"
    data = prepare("implicit", implicit)
    model = save(tmp_path / "mf", data, by_item(SCORES))
    out = tmp_path / "out"
    outcome = rectool("eval", data, model, "--out", out)
    assert "has no test rows with labels, which --task ctr is about; choose --task next-item" in outcome.error
    assert rectool("eval", data, model, "--out", out, "--task", "next-item", "--targets", "liked").code == 0
    assert predictions(out)["label"] == [None] * 5
    assert predictions(out)["rank"] == [2, 3, 4, 3, 1]
    open_artifact(out, "result", verify=True)


def test_liked_targets_want_a_row_that_is_liked(rectool: Any, prepare: Any, tmp_path: Path) -> None:
    data = prepare("other", RATINGS.replace("cat,c,60,5", "cat,c,60,1"))
    model = save(tmp_path / "mf", data, by_item(SCORES, "next-item"))
    options = ["--split", "valid", "--targets", "liked"]
    assert "only disliked valid rows" in rectool("eval", data, model, "--out", tmp_path / "out", *options).error


@pytest.mark.parametrize("task", ["ctr", "next-item"])
def test_a_sequence_model_on_the_synthetic_data(rectool: Any, tmp_path: Path, task: Any) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    assert rectool("prep", "synthetic", "--users", "60", "--items", "90", "--out", data).code == 0
    counts = open_artifact(data).manifest.counts
    model = save(tmp_path / "sasrec", data, sasrec(1, counts["users"], counts["items"], task))
    outcome = rectool("eval", data, model, "--out", out, "--json", "--draws", "20")
    assert outcome.code == 0
    found = predictions(out)
    log = pq.read_table(data / "interactions.parquet").to_pydict()
    rows = [row for row, split in enumerate(log["split"]) if split == "test"]
    assert found["row"] == rows
    assert found["label"] == [log["label"][row] for row in rows]
    if task == "next-item":
        ranks = np.array(found["rank"])
        assert metrics(out)["ndcg@10"] == pytest.approx(((ranks <= 10) / np.log2(1 + ranks)).mean())
        assert ranks.max() <= counts["items"]
    else:
        labels, scores = np.array(found["label"]), np.array(found["score"])
        pairs = np.sign(scores[labels == 1][:, None] - scores[labels == 0])
        assert metrics(out)["auc"] == pytest.approx((pairs.mean() + 1) / 2)
    again = tmp_path / "again"
    assert rectool("eval", data, model, "--out", again, "--batch-tokens", "13", "--draws", "20").code == 0
    np.testing.assert_allclose(predictions(again)["score"], found["score"], rtol=1e-4, atol=1e-4)


def test_a_model_whose_data_set_has_changed_goes_with_a_copy_of_the_old_one(
    rectool: Any, prepare: Any, data: Path, model: Path, tmp_path: Path
) -> None:
    kept = data.rename(tmp_path / "kept")
    shutil.copytree(prepare("other", RATINGS.replace("ann,b,20,2", "ann,b,20,5")), data)
    assert rectool("eval", kept, model, "--out", tmp_path / "out").code == 0
