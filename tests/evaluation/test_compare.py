"""Comparisons against numbers worked out by hand, and what their tables say."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rectool.artifacts import Artifact, Manifest, Parent
from rectool.evaluation import compare, figures, records, tables
from rectool.evaluation.bootstrap import Difference
from rectool.evaluation.compare import Comparison, Seeds
from rectool.evaluation.runs import Measure, Peers, Run, names_of

Values = Mapping[str, float | None]


def run(name: str, values: Values, group: str = "all", *, rows: int = 10, **about: Any) -> Run:
    """A result with these metrics that stands nowhere."""
    data = Parent("dataset", "dataset", "../data", {"users": "u", "items": "i", "interactions": "x"})
    manifest = Manifest("result", 1, "0", [], ".", {}, 0, [data], {}, {"artifact": f"sha256:{name}"}, {})
    measures = {
        (group, metric): Measure(group, metric, value, rows=rows, users=5, skipped_users=1)
        for metric, value in values.items()
    }
    described = {"task": "ctr", "split": "test", "warm": "seen", **about}
    return Run(name, Artifact(Path(f"/nowhere/{name}"), manifest), described, measures)


def comparison(*runs: Run, p_values: Mapping[str, float] | None = None) -> Comparison:
    """Compared with the first run; `p_values` are those of the second run's metrics."""
    differences = {
        (runs[1].name, "all", metric): Difference(value=0.1, low=0.0, high=0.2, p_value=p_value, users=5)
        for metric, p_value in (p_values or {}).items()
    }
    return Comparison(runs, runs[0], compare.groups_of(runs), compare.metrics_of(runs), differences, 100, 0)


@pytest.mark.parametrize(
    ("metric", "base", "value", "expected"),
    [
        ("auc", 0.5, 0.6, 0.2),
        ("auc", 0.5, 0.4, -0.2),
        ("log_loss", 0.5, 0.4, 0.2),  # lower is better
        ("brier", 0.2, 0.3, -0.5),
        ("ece", 0.1, 0.05, 0.5),
        ("ndcg@10", 0.02, 0.03, 0.5),
        ("hr@5", 0.0, 0.1, None),  # no share of nothing
        ("auc", None, 0.6, None),
        ("auc", 0.5, None, None),
        ("popularity@10", 10.0, 20.0, None),  # neither end is the better one
        ("gauc", 0.5, 0.6, None),  # another program's: nobody knows
    ],
)
def test_relative_improvement(metric: str, base: float | None, value: float | None, expected: float | None) -> None:
    compared = comparison(run("base", {metric: base}), run("other", {metric: value}))
    found = compared.improvement(compared.runs[1], "all", metric)
    assert found == (None if expected is None else pytest.approx(expected))
    assert compared.improvement(compared.runs[0], "all", metric) is None


def test_mean_improvement_is_that_of_auc_and_uauc_alone() -> None:
    base = {"auc": 0.6, "uauc": 0.5, "log_loss": 0.7}
    compared = comparison(
        run("base", base),
        run("better", {"auc": 0.66, "uauc": 0.6, "log_loss": 0.1}),  # +10 % and +20 %
        run("half", {"auc": 0.66, "uauc": None}),
    )
    means = [compared.mean_improvement(each, "all") for each in compared.runs]
    assert means == [None, pytest.approx(0.15), None]


def test_the_best_is_the_highest_or_the_lowest_or_none() -> None:
    values = {"auc": 0.6, "log_loss": 0.5, "popularity@10": 3.0, "f1": None}
    compared = comparison(run("a", values), run("b", {**values, "auc": 0.7, "log_loss": 0.4, "f1": 0.5}))
    best = {metric: compared.best("all", metric) for metric in compared.metrics}
    assert best == {"auc": 0.7, "log_loss": 0.4, "popularity@10": None, "f1": None}  # f1 has no rival


def test_equal_bests_are_all_bold() -> None:
    compared = comparison(run("a", {"auc": 0.7}), run("b", {"auc": 0.7}), run("c", {"auc": 0.69999}))
    (grid,) = tables.grids(compared, ["all"], ["auc"])
    assert [(row[1].text.split()[0], row[1].best) for row in grid.rows] == [
        ("0.7000", True),
        ("0.7000", True),
        ("0.7000", False),
    ]


def test_marks_stand_where_p_is_below_five_percent() -> None:
    values = {"auc": 0.6, "uauc": 0.6, "f1": 0.6}
    compared = comparison(run("base", values), run("other", values), p_values={"auc": 0.049, "uauc": 0.05, "f1": 0.001})
    (grid,) = tables.grids(compared, ["all"], compared.metrics)
    assert ["*" in cell.text for cell in grid.rows[1][1:4]] == [True, False, True]
    assert "paired bootstrap over users, 100 draws, two-sided p < 0.05" in " ".join(tables.notes(compared))


def test_notes_say_how_many_users_uauc_leaves_out() -> None:
    compared = compare.compare([run("a", {"uauc": 0.6})])
    assert tables.notes(compared)[-1] == "UAUC is over 4 of 5 users: those with rows of both classes."


def test_groups_come_in_a_stated_order_and_metrics_as_they_are() -> None:
    runs = [run("a", {"uauc": 0.5}, "cold-item"), run("b", {"auc": 0.5}, "mine"), run("c", {"uauc": 0.5}, rows=1)]
    assert compare.groups_of(runs) == ["all", "cold-item", "mine"]
    assert compare.metrics_of(runs) == ["uauc", "auc"]
    compared = compare.compare(runs)
    assert [grid.title for grid in tables.grids(compared, compared.groups, compared.metrics)] == [
        "all (1 row)",
        "cold-item (10 rows)",
        "mine (10 rows)",
    ]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/mf", "y/mf", "y/din"], ["x/mf", "y/mf", "din"]),
        (["s1/x/mf", "s2/x/mf", "s2/y/mf"], ["s1/x/mf", "s2/x/mf", "y/mf"]),
    ],
)
def test_names(paths: list[str], names: list[str], tmp_path: Path) -> None:
    assert names_of([tmp_path / path for path in paths]) == names


def test_names_that_cannot_be_told_apart_when_written_are_numbered() -> None:
    assert names_of([Path("/a\nb"), Path("/a\tb"), Path("/c")]) == ["a?b", "a?b (2)", "c"]


def test_mean_and_spread_over_seeds() -> None:
    seeds = Seeds("mf", [run(str(value), {"auc": value, "f1": None}) for value in (0.5, 0.6, 0.7)])
    assert seeds.mean("all", "auc") == pytest.approx(0.6)
    assert seeds.spread("all", "auc") == pytest.approx(0.1)  # (.01 + 0 + .01) / 2, its root
    assert seeds.mean("all", "f1") is None
    assert seeds.spread("warm", "auc") is None


def test_csv_keeps_every_digit_and_any_name() -> None:
    value = 0.1 + 0.2
    compared = comparison(run('a "quoted", name\nof lines', {"auc": value}), run("b", {"auc": None}))
    rows = list(csv.DictReader(io.StringIO(records.to_csv([compared]))))
    assert [row["run"] for row in rows] == ['a "quoted", name\nof lines', "b"]
    assert float(rows[0]["auc"]) == value
    assert rows[1]["auc"] == ""
    assert all(row["rows"] == "10" for row in rows)


def test_the_document_is_json_and_can_be_recalled() -> None:
    compared = comparison(run("a", {"auc": 0.6}), run("b", {"auc": 0.7}), p_values={"auc": 0.01})
    document = json.loads(json.dumps(records.document([compared]), allow_nan=False))
    assert document["data"] == {"users": "u", "items": "i", "interactions": "x"}
    assert [line["best"] for line in document["metrics"]] == [False, True]
    assert records.recall(document, Peers("ctr", compared.runs, compared.baseline)) == compared


def test_large_values_are_written_without_digits_that_mean_nothing() -> None:
    compared = compare.compare([run("a", {"popularity@10": 12345.678, "auc": 0.65432})])
    (grid,) = tables.grids(compared, ["all"], compared.metrics)
    assert [cell.text for cell in grid.rows[0]] == ["a", "12,345.7", "0.6543"]


def test_a_single_run_has_its_table_and_figures(tmp_path: Path) -> None:
    compared = compare.compare([run("only", {"auc": 0.6, "uauc": 0.6, "f1": 0.5})])
    assert "**" not in tables.markdown(compared)
    assert figures.draw(compared, tmp_path / "figures") == ["auc-uauc", "radar"]


def test_a_result_without_any_figure_draws_none(tmp_path: Path) -> None:
    compared = compare.compare([run("only", {"auc": None}), run("other", {})])
    assert figures.draw(compared, tmp_path / "figures") == []
    assert tables.markdown(compared).count("\n| ") == 4  # header, ruler and two runs


def test_a_radar_of_many_runs_shows_the_best(tmp_path: Path) -> None:
    runs = [run(f"run-{place}", {"auc": 0.5 + place / 100, "uauc": 0.5, "f1": 0.5}) for place in range(12)]
    figures.draw(compare.compare(runs), tmp_path)
    written = (tmp_path / "radar.svg").read_text()
    assert [place for place in range(12) if f">run-{place}<" in written] == list(range(4, 12))
    assert "the 8 best of 12 runs by AUC" in written


def test_figures_call_metrics_as_papers_do() -> None:
    said = [figures.label(metric) for metric in ("auc", "uauc", "log_loss", "ndcg@10", "macro_f1", "something_new")]
    assert said == ["AUC", "UAUC", "log loss", "NDCG@10", "macro F1", "something new"]
