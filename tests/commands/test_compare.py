"""`rectool compare`, run for real on results made by hand."""

from __future__ import annotations

import csv
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from safetensors.numpy import save_file

from rectool.artifacts import Input, Making, digests, open_artifact, schemas, write
from rectool.errors import RectoolError
from rectool.evaluation import runs
from rectool.evaluation.bootstrap import differences
from rectool.evaluation.compare import Seeds, compare
from rectool.evaluation.predictions import Predictions

Command = Callable[..., Any]
USERS, ROWS_EACH = 30, 6
ROWS = USERS * ROWS_EACH
LABELS = np.tile([0, 1, 0, 1, 0, 1], USERS)
NOISE = np.random.default_rng(0).random(ROWS)
GROUPS = np.where(np.arange(ROWS) % 3 < 2, "warm", "cold-item")  # each has rows of both labels

CTR = {
    "bias": {"auc": 0.70, "uauc": 0.60, "log_loss": 0.60, "f1": 0.5},
    "mf": {"auc": 0.63, "uauc": 0.66, "log_loss": 0.66, "f1": 0.5},
    "sasrec": {"auc": 0.77, "uauc": 0.75, "log_loss": None, "f1": 0.4},
}
"""Of all rows; those of warm rows are .01 more, of cold ones .1 less."""
RANKING = {
    "pop": {"hr@5": 0.01, "hr@10": 0.02, "ndcg@5": 0.005, "ndcg@10": 0.01, "coverage@10": 0.1, "popularity@10": 900.0},
    "sasrec": {"hr@5": 0.02, "hr@10": 0.03, "ndcg@5": 0.01, "ndcg@10": 0.02, "coverage@10": 0.5, "popularity@10": 80.0},
}


@dataclass
class Bench:
    """Makes data sets, models and results."""

    root: Path
    data: dict[str, Path] = field(default_factory=dict)

    def dataset(self, name: str = "data", users: int = USERS, title: str = "Alien") -> Path:
        if name not in self.data:
            self.data[name] = self.root / name
            user = np.repeat(np.arange(users, dtype=np.int32), ROWS_EACH)
            rows = len(user)
            columns = [user, np.zeros(rows, np.int32), np.arange(rows), [None] * rows, [1] * rows, ["test"] * rows]
            with write(self.data[name], "dataset", Making(["rectool", "prep"], {}, 0, [])) as draft:
                pq.write_table(pa.table(columns, schema=schemas.INTERACTIONS), draft.path / "interactions.parquet")
                items = pa.table([["i"], [title], [None]], schema=schemas.ITEMS)
                pq.write_table(items, draft.path / "items.parquet")
                ids = pa.table([[f"u{user}" for user in range(users)]], schema=schemas.USERS)
                pq.write_table(ids, draft.path / "users.parquet")
                draft.digests.update(digests.of_dataset(draft.path))
        return self.data[name]

    def model(
        self, name: str, *, seed: int = 0, settings: Mapping[str, Any] | None = None, start: Path | None = None
    ) -> Path:
        """A model with a training curve; `start`: what its items start from."""
        out = self.root / "models" / name
        parents = [self.parent("dataset", out, "cf")]
        if start is not None:
            parents.append(Input("init-items", start, artifact=open_artifact(start)).parent(out, "cf"))
        making = Making(["rectool", "train-cf"], settings or {"model": name}, seed, parents)
        with write(out, "cf", making) as draft:
            tables = {"user": np.ones((USERS, 2), np.float32), "item": np.ones((1, 2), np.float32)}
            save_file(tables, draft.path / "embeddings.safetensors")
            save_file({"bias": np.zeros(1, np.float32)}, draft.path / "weights.safetensors")
            (draft.path / "config.json").write_text("{}")
            points = [(10 * e, float(e), split, "loss", 1 / e) for e in (1, 2, 3) for split in ("train", "valid")]
            points += [(10 * e, float(e), "valid", "uauc", 0.5 + e / 10) for e in (1, 2, 3)]
            columns = list(map(list, zip(*points, strict=True)))
            pq.write_table(pa.table(columns, schema=schemas.CURVE), draft.path / "curve.parquet")
        return out

    def result(
        self,
        name: str,
        values: Mapping[str, float | None],
        *,
        skill: float = 0.0,
        rows: Sequence[int] | None = None,
        data: str = "data",
        model: Path | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Path:
        """A result with these metrics of all rows.

        Args:
            skill: how far its scores follow the labels, 0 to 1.
        """
        out = self.root / name
        task = "next-item" if any("@" in metric for metric in values) else "ctr"
        parents = [self.parent("dataset", out, "result", data)]
        if model is not None:
            parents.append(Input("model", model, artifact=open_artifact(model)).parent(out, "result"))
        with write(out, "result", Making(["rectool", "eval"], {}, 0, parents)) as draft:
            pq.write_table(predictions(skill, rows, task), draft.path / "predictions.parquet")
            (draft.path / "metrics.json").write_text(json.dumps(metrics(task, values) | (about or {})))
        return out

    def parent(self, role: str, out: Path, kind: str, data: str = "data") -> Any:
        path = self.dataset(data)
        return Input(role, path, artifact=open_artifact(path)).parent(out, kind)

    def ctr(self, **more: Any) -> dict[str, Path]:
        """The three results of CTR; sasrec's scores are much better than bias's, those of mf the same."""
        return {
            name: self.result(f"results/{name}", values, skill=0.9 if name == "sasrec" else 0.1, **more)
            for name, values in CTR.items()
        }


def predictions(skill: float, rows: Sequence[int] | None, task: str) -> pa.Table:
    chosen = np.arange(ROWS) if rows is None else np.asarray(rows)
    probability = ((skill * LABELS + (1 - skill) * NOISE)[chosen] * 0.98 + 0.01).astype(np.float32)
    columns: dict[str, Any] = {
        "row": pa.array(chosen, pa.int64()),
        "user": pa.array(chosen // ROWS_EACH, pa.int32()),
        "item": pa.array(np.zeros(len(chosen)), pa.int32()),
        "label": pa.array(LABELS[chosen], pa.int8()),
        "score": pa.array(probability),
        "probability": pa.array(probability) if task == "ctr" else pa.nulls(len(chosen), pa.float32()),
        "group": pa.array(GROUPS[chosen]),
    }
    if task == "next-item":
        columns["rank"] = pa.array(1 + (100 * (1 - skill) * NOISE[chosen]).astype(np.int64))
    return pa.table(columns)


def metrics(task: str, values: Mapping[str, float | None]) -> dict[str, Any]:
    lines = []
    for group, shift, rows in (("all", 0, ROWS), ("warm", 0.01, 120), ("cold", -0.1, 60), ("cold-item", -0.1, 60)):
        for metric, value in values.items():
            shifted = None if value is None else value + (shift if task == "ctr" else 0)
            ends = {"low": shifted and shifted - 0.02, "high": shifted and shifted + 0.03}
            counts = {"users": USERS, "rows": rows, "skipped_users": 0}
            lines.append({"group": group, "metric": metric, "value": shifted, **ends, **counts})
    return {
        "task": task,
        "split": "test",
        "warm": "seen",
        "threshold": 0.5 if task == "ctr" else None,
        "threshold_from": "given" if task == "ctr" else None,
        "exclude": "none" if task == "next-item" else None,
        "k": [5, 10] if task == "next-item" else None,
        "repeats": 1,
        "draws": 1000,
        "confidence": 0.95,
        "model": "made-up",
        "metrics": lines,
    }


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


def lines_of(text: str) -> list[list[str]]:
    """The cells of each line of tables on the terminal."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    """The tables of a Markdown document by their headings: header and body, without the ruler."""
    tables: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        heading = line.lstrip("# ") if line.startswith("#") else heading
        if line.startswith("|") and not set(line) <= set("| -:"):
            tables.setdefault(heading, []).append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return tables


def svg_texts(path: Path) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ElementTree.parse(path).iter() if node.tag.endswith("}text")]


def test_the_table_is_right_to_the_digit(bench: Bench, rectool: Command) -> None:
    """bias .70/.60, mf .63/.66: -10 % and +10 %; sasrec .77/.75: +10 % and +25 %, 17.5 % in the mean."""
    results = bench.ctr()
    done = rectool(
        "compare", *results.values(), "--baseline", results["bias"], "--out", "compared", "--draws", 200, "--no-figures"
    )
    assert done.code == 0, done.stderr
    table = markdown_tables(Path("compared/comparison.md").read_text())
    assert list(table) == ["all (180 rows)", "warm (120 rows)", "cold (60 rows)", "cold-item (60 rows)"]
    assert table["all (180 rows)"] == [
        ["run", "auc", "uauc", "log\\_loss ↓", "f1", "auc+uauc"],
        ["bias (baseline)", "0.7000", "0.6000", "**0.6000**", "**0.5000**", ""],
        ["mf", "0.6300 (-10.0%)", "0.6600 (+10.0%)", "0.6600 (-10.0%)", "**0.5000** (+0.0%)", "+0.0%"],
        ["sasrec", "**0.7700**\\* (+10.0%)", "**0.7500**\\* (+25.0%)", "", "0.4000\\* (-20.0%)", "+17.5%"],
    ]
    shown = lines_of(done.stdout)
    assert ["sasrec", "0.7700* (+10.0%)", "0.7500* (+25.0%)", "", "0.4000* (-20.0%)", "+17.5%"] in shown
    assert "two-sided p < 0.05" in done.stdout
    assert "differs from bias beyond chance" in done.stdout


def test_csv_and_json_say_the_same(bench: Bench, rectool: Command) -> None:
    results = bench.ctr()
    rectool(
        "compare", *results.values(), "--baseline", results["bias"], "--out", "compared", "--draws", 200, "--no-figures"
    )
    with open("compared/comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["run"]) for row in rows] == [
        (group, run) for group in ("all", "warm", "cold", "cold-item") for run in CTR
    ]
    document = json.loads(Path("compared/comparison.json").read_text())
    assert document["baseline"] == "bias"
    assert document["test"]["draws"] == 200
    assert [run["name"] for run in document["runs"]] == list(CTR)
    by_place = {(line["group"], line["run"], line["metric"]): line for line in document["metrics"]}
    assert len(by_place) == len(document["metrics"]) == 4 * 3 * 4
    for row in rows:
        for metric in ("auc", "uauc", "log_loss", "f1"):
            line = by_place[row["group"], row["run"], metric]
            for column, value in (
                (metric, line["value"]),
                (f"{metric}_low", line["low"]),
                (f"{metric}_high", line["high"]),
                (f"{metric}_improvement", line["improvement"]),
                (f"{metric}_p_value", line["difference"] and line["difference"]["p_value"]),
            ):
                assert row[column] == ("" if value is None else str(value))
    sasrec = by_place["all", "sasrec", "auc"]
    assert sasrec["best"]
    assert sasrec["improvement"] == pytest.approx(0.1)
    assert sasrec["difference"]["beyond_chance"]
    assert sasrec["difference"]["p_value"] < 0.05
    same = by_place["all", "mf", "auc"]["difference"]  # the same scores as the baseline's
    assert (same["value"], same["beyond_chance"]) == (0, False)
    means = {(line["group"], line["run"]): line["value"] for line in document["mean_improvement"]}
    assert means["all", "sasrec"] == pytest.approx(0.175)
    assert means["cold", "mf"] == pytest.approx((0.53 / 0.6 - 1 + 0.56 / 0.5 - 1) / 2)


def test_tests_are_those_of_the_bootstrap_on_the_rows_of_the_group(bench: Bench, rectool: Command) -> None:
    a = bench.result("a", CTR["bias"], skill=0.0, about={"threshold": 0.4})
    b = bench.result("b", CTR["bias"], skill=0.1, about={"threshold": 0.6})
    flags = ["--draws", 100, "--seed", 7, "--out", "compared", "--no-figures"]
    assert rectool("compare", a, b, "--baseline", a, *flags).code == 0
    found = {
        (line["group"], line["metric"]): line["difference"]
        for line in json.loads(Path("compared/comparison.json").read_text())["metrics"]
        if line["run"] == "b"
    }
    first, second = (Predictions.read(open_artifact(path)) for path in (b, a))
    rows = {"all": np.ones(ROWS, bool), "warm": GROUPS == "warm", "cold": GROUPS != "warm"}
    for group, mask in rows.items():
        for metric in ("auc", "uauc", "log_loss", "f1"):
            expected = differences([metric], first, second, mask, threshold=(0.6, 0.4), draws=100, seed=7)[metric]
            assert found[group, metric] == pytest.approx({**asdict(expected), "beyond_chance": expected.p_value < 0.05})
    assert found["cold-item", "auc"] == found["cold", "auc"]
    assert found["warm", "auc"] != found["all", "auc"]


def test_a_metric_that_predictions_do_not_tell_is_not_tested(bench: Bench, rectool: Command) -> None:
    values = {"auc": 0.6, "coverage@10": 0.1, "gauc": 0.5, "log_loss": 0.4}
    bench.result("a", values)
    bench.result("b", {**values, "gauc": 0.7}, skill=0.9)  # as next-item: without probabilities
    done = rectool("compare", "a", "b", "--baseline", "a", "--draws", 100, "--out", "compared", "--no-figures")
    assert done.code == 0, done.stderr
    lines = json.loads(Path("compared/comparison.json").read_text())["metrics"]
    tested = {
        line["metric"]: bool(line["difference"]) for line in lines if (line["run"], line["group"]) == ("b", "all")
    }
    assert tested == {"auc": True, "coverage@10": False, "gauc": False, "log_loss": False}
    row = markdown_tables(Path("compared/comparison.md").read_text())["all (180 rows)"][2]
    assert row[3] == "0.7000"  # nobody knows whether more of it is better


def test_without_a_baseline_nothing_is_tested(bench: Bench, rectool: Command) -> None:
    results = bench.ctr()
    done = rectool("compare", *results.values(), "--out", "compared", "--no-figures")
    table = markdown_tables(Path("compared/comparison.md").read_text())["all (180 rows)"]
    assert table[1:] == [
        ["bias", "0.7000", "0.6000", "**0.6000**", "**0.5000**"],
        ["mf", "0.6300", "0.6600", "0.6600", "**0.5000**"],
        ["sasrec", "**0.7700**", "**0.7500**", "", "0.4000"],
    ]
    assert "*" not in done.stdout
    assert "improvement" not in done.stdout
    document = json.loads(Path("compared/comparison.json").read_text())
    assert document["test"] is None
    assert not any(line["difference"] or line["improvement"] for line in document["metrics"])
    assert not Path("compared/figures").exists()


def test_figures_are_drawn_and_named_in_the_manifest(bench: Bench, rectool: Command) -> None:
    results = bench.ctr(model=bench.model("mf"))
    rectool("compare", *results.values(), "--baseline", results["bias"], "--out", "compared", "--draws", 50)
    figures = Path("compared/figures")
    names = {"auc-uauc", "radar", "warm-cold", "improvement", "curves"}
    assert {path.name for path in figures.iterdir()} == {f"{name}.{form}" for name in names for form in ("png", "svg")}
    assert {f"figures/{name}.svg" for name in names} <= set(open_artifact(Path("compared"), verify=True).manifest.files)
    for name in names:
        pixels = imread(figures / f"{name}.png")
        assert min(pixels.shape[:2]) > 400
        assert pixels[..., :3].std() > 0.05
    written = {name: svg_texts(figures / f"{name}.svg") for name in names}
    assert [text for text in written["auc-uauc"] if text in CTR] == ["sasrec", "bias", "mf"]  # sorted by AUC
    assert {"AUC", "UAUC", "negative log loss (nats)"} <= set(written["auc-uauc"])
    assert "data, test: AUC and UAUC, sorted by AUC; error bars: 95% intervals" in " ".join(written["auc-uauc"])
    assert {*CTR, "F1", "0.400 to 0.500", "0.660 to 0.600", "best", "worst"} <= set(written["radar"])
    assert {*CTR, "warm", "cold", "AUC", "UAUC"} <= set(written["warm-cold"])
    assert {"mf", "sasrec", "AUC", "log loss", "relative improvement (%)"} <= set(written["improvement"])
    assert "bias" not in written["improvement"]
    assert {*CTR, "train", "valid", "loss", "UAUC", "epochs"} <= set(written["curves"])


def test_next_item_results_have_bars_of_hr_and_ndcg(bench: Bench, rectool: Command) -> None:
    for name, values in RANKING.items():
        bench.result(f"results/{name}", values, skill=0.95 if name == "sasrec" else 0.0)
    done = rectool("compare", "results", "--baseline", "results/pop", "--out", "compared", "--draws", 200)
    assert done.code == 0, done.stderr
    table = markdown_tables(Path("compared/comparison.md").read_text())["all (180 rows)"]
    header, pop, sasrec = (dict(zip(table[0], row, strict=True)) for row in table)
    assert list(header) == ["run", *RANKING["pop"]]
    assert sasrec["coverage@10"] == "**0.5000** (+400.0%)"  # not of rows, so that it cannot be tested
    assert (pop["popularity@10"], sasrec["popularity@10"]) == ("900.0", "80.0")  # neither end is better
    assert sasrec["hr@10"] == "**0.0300**\\* (+50.0%)"
    figures = {path.stem for path in Path("compared/figures").iterdir()}
    assert figures == {"ranking", "radar", "warm-cold", "improvement"}
    written = svg_texts(Path("compared/figures/ranking.svg"))
    assert {"HR", "NDCG", "@5", "@10", "pop", "sasrec"} <= set(written)
    assert {"HR@10", "NDCG@10"} <= set(svg_texts(Path("compared/figures/warm-cold.svg")))


def test_a_folder_of_results_is_searched_and_other_artifacts_passed_over(bench: Bench, rectool: Command) -> None:
    for name in ("runs/results/b", "runs/results/a", "runs/c"):
        bench.result(name, CTR["mf"])
    bench.model("mf")
    shutil.copytree("models", "runs/models")
    (bench.root / "runs/.b.partial").mkdir()
    done = rectool("compare", "runs/c", "runs", "--out", "compared", "--no-figures", "--json")
    assert done.code == 0, done.stderr
    assert list(done.json["metrics"]["runs"]) == ["c", "a", "b"]
    command = open_artifact(Path("compared")).manifest.command
    assert command[:5] == ["rectool", "compare", "runs/c", "runs/results/a", "runs/results/b"]


def test_results_of_a_sweep_come_by_the_size_of_the_numbers_in_their_names(bench: Bench, rectool: Command) -> None:
    names = ["mf", "mf-8-0.001", "mf-8-0.003", "mf-8-0.01", "mf-16-0.001"]
    for name in sorted(names):
        bench.result(f"results/{name}", {"auc": 0.6})
    done = rectool("compare", "results", "--out", "compared", "--no-figures", "--json")
    assert list(done.json["metrics"]["runs"]) == names


def test_a_result_in_the_middle_of_a_swap_is_found(bench: Bench, rectool: Command) -> None:
    bench.result("runs/a", CTR["mf"]).rename("runs/.a.old")
    done = rectool("compare", "runs", "--out", "compared", "--no-figures", "--json")
    assert list(done.json["metrics"]["runs"]) == ["a"]


def test_names_are_made_unique_by_the_folders_above(bench: Bench, rectool: Command) -> None:
    for name in ("seed-1/mf", "seed-2/mf", "other"):
        bench.result(name, CTR["mf"])
    done = rectool("compare", "seed-1/mf", "seed-2/mf", "other", "--out", "compared", "--no-figures", "--json")
    assert list(done.json["metrics"]["runs"]) == ["seed-1/mf", "seed-2/mf", "other"]


def test_a_baseline_that_is_not_among_the_results_comes_first(bench: Bench, rectool: Command) -> None:
    results = bench.ctr()
    done = rectool(
        "compare", results["mf"], "--baseline", results["bias"], "--out", "compared", "--json", "--draws", 50
    )
    assert list(done.json["metrics"]["runs"]) == ["bias", "mf"]
    assert done.json["metrics"]["baseline"] == "bias"
    parents = {parent.role: parent.path for parent in open_artifact(Path("compared")).manifest.parents}
    assert parents == {"baseline": "../results/bias", "result-2": "../results/mf"}


def test_given_names_stand_in_tables_and_figures(bench: Bench, rectool: Command) -> None:
    results = bench.ctr()
    names = ["Item | mean", "$MF$", "*SAS_Rec*"]
    flags = [word for name in names for word in ("--name", name)]
    done = rectool("compare", *results.values(), *flags, "--out", "compared")
    assert done.code == 0, done.stderr
    table = markdown_tables(Path("compared/comparison.md").read_text())["all (180 rows)"]
    assert [row[0] for row in table[1:]] == ["Item \\| mean", "$MF$", "\\*SAS\\_Rec\\*"]
    assert all(len(row) == len(table[0]) for row in table)
    assert set(names) <= set(svg_texts(Path("compared/figures/radar.svg")))
    refused = rectool("compare", *results.values(), "--name", "a", "--name", "b", "--out", "other")
    assert refused.error.startswith("--name: 2 names for 3 folders: ")
    assert "stands twice" in rectool("compare", "results", *["--name", "a"] * 3, "--out", "other").error


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"split": "valid"}, "split is test in one and valid in the other"),
        ({"warm": "count>3"}, "warm is seen in one and count>3 in the other"),
        ({"exclude": "history"}, "exclude is not given in one and history in the other"),
        ({"k": [5, 10]}, "k is not given in one and 5,10 in the other"),
    ],
)
def test_results_of_different_conditions_are_refused(
    bench: Bench, rectool: Command, about: dict[str, Any], said: str
) -> None:
    bench.result("a", CTR["mf"])
    bench.result("b", CTR["mf"], about=about)
    done = rectool("compare", "a", "b", "--out", "compared")
    assert done.code == 2
    assert done.error == f"a and b cannot be compared: {said}"
    assert not Path("compared").exists()


@pytest.mark.parametrize(("what", "kind"), [({"title": "Heat"}, "items"), ({"users": USERS + 1}, "users")])
def test_results_of_different_data_are_refused(bench: Bench, rectool: Command, what: dict[str, Any], kind: str) -> None:
    bench.dataset("other", **what)
    bench.result("a", CTR["mf"])
    bench.result("b", CTR["mf"], data="other")
    done = rectool("compare", "a", "b", "--out", "compared")
    assert done.code == 2
    assert done.error.startswith(f"a and b cannot be compared: the {kind} of their data sets differ (")
    assert done.error.endswith("; evaluate both on the same data")


def test_a_data_set_that_moved_still_compares(bench: Bench, rectool: Command) -> None:
    bench.ctr()
    shutil.rmtree("data")
    assert rectool("compare", "results", "--out", "compared", "--no-figures").code == 0


def test_seeds_that_cannot_be_paired_are_all_named(bench: Bench) -> None:
    """Of several seeds, the one with other labels need not be the last."""
    for name in ("base", "one", "two"):
        bench.result(name, CTR["mf"])
    path = Path("one/predictions.parquet")
    table = pq.read_table(path)
    labels = pa.array(1 - LABELS, pa.int8())
    pq.write_table(table.set_column(table.column_names.index("label"), "label", labels), path)
    base, *seeds = runs.read([Path("base"), Path("one"), Path("two")], ["base", "one", "two"])
    with pytest.raises(RectoolError, match=r"^one, two and base cannot be paired: .* the same labels"):
        compare([base], base, seeds=[Seeds("mf", seeds)], draws=10)


def test_a_model_that_is_gone_leaves_no_curve(bench: Bench, rectool: Command) -> None:
    bench.ctr(model=bench.model("mf"))
    shutil.rmtree("models")
    assert rectool("compare", "results", "--out", "compared").code == 0
    assert not Path("compared/figures/curves.svg").exists()
    assert Path("compared/figures/radar.svg").exists()


def test_predictions_of_other_rows_cannot_be_paired(bench: Bench, rectool: Command) -> None:
    bench.result("a", CTR["mf"])
    bench.result("b", CTR["mf"], rows=range(ROWS - 6))
    done = rectool("compare", "a", "b", "--baseline", "a", "--out", "compared")
    assert done.code == 2
    assert done.error == (
        "b and a cannot be paired: they predict different rows (174 and 180); evaluate both on the same rows"
    )
    assert not Path("compared").exists()
    assert rectool("compare", "a", "b", "--baseline", "a", "--draws", 0, "--out", "compared").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist; make one with: rectool eval"),
        (["data"], "data is a dataset artifact, but a result is needed; make one with: rectool eval"),
        (["models"], "models is no result, nor is there one up to 2 levels below it; make one with: rectool eval"),
        (["results", "--baseline", "results"], "--baseline results is a folder of 3 results; name one, such as"),
        (["results", "--metrics", "auc,nothing"], "--metrics auc,nothing: no result has nothing; there are auc, uauc,"),
        (["results", "--groups", "cold-user"], "no result has cold-user; there are all, warm, cold, cold-item"),
        (["results", "--draws", "-1"], "--draws -1 must not be negative"),
        (["results", "--parent", "dataset=data"], "--parent dataset"),
    ],
)
def test_mistakes_are_one_line(bench: Bench, rectool: Command, arguments: list[str], said: str) -> None:
    bench.ctr()
    bench.model("mf")
    done = rectool("compare", *arguments, "--out", "compared")
    assert done.code == 2
    assert said in done.error
    assert not Path("compared").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.pop("split"), "does not say its split"),
        (lambda found: found.pop("metrics"), "has no list of metrics"),
        (lambda found: found.update(threshold="half"), "threshold is 'half', not a number"),
        (lambda found: found.update(model="\ud800"), "has half of a character in it"),
        (lambda found: found["metrics"].append(3), "metrics[16] is not an object"),
        (lambda found: found["metrics"][1].pop("group"), "metrics[1] has no group"),
        (lambda found: found["metrics"][1].pop("value"), "metrics[1] has no value"),
        (lambda found: found["metrics"][1].update(metric="a\x1b[2J"), "metrics[1].metric is 'a\\x1b[2J', which cannot"),
        (lambda found: found.update(warm="\u202eseen"), "warm is '\\u202eseen', which cannot be printed"),
        (lambda found: found["metrics"][1].update(value="high"), "metrics[1].value is 'high', not a number"),
        (lambda found: found["metrics"][1].update(low=float("nan")), "metrics[1].low is nan, not a number"),
        (lambda found: found["metrics"][1].update(users=1.5), "metrics[1].users is 1.5, not a number"),
        (lambda found: found["metrics"].append(found["metrics"][0]), "metrics[16] is a second auc of group all"),
    ],
)
def test_metrics_of_another_program_are_read_strictly(
    bench: Bench, rectool: Command, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    found = metrics("ctr", CTR["mf"])
    change(found)
    Path("foreign").mkdir()
    Path("foreign/metrics.json").write_text(json.dumps(found))
    pq.write_table(predictions(0.5, None, "ctr"), "foreign/predictions.parquet")
    assert rectool("adopt", "foreign", "--kind", "result", "--data", bench.dataset()).code == 0
    done = rectool("compare", "foreign", "--out", "compared")
    assert done.code == 2
    assert "foreign/metrics.json" in done.error
    assert said in done.error


def test_update_keeps_what_is_up_to_date(bench: Bench, rectool: Command) -> None:
    results = bench.ctr()
    line = ["compare", *results.values(), "--out", "compared", "--draws", 50, "--no-figures", "--json"]
    assert not rectool(*line).json["skipped"]
    assert "exists already" in rectool(*line).error
    assert rectool(*line, "--update").json["skipped"]
    assert rectool(*line, "--update", "--metrics", "auc").json["skipped"]  # changes what is shown, not what is made
    for change, why in (
        (["--baseline", results["bias"]], "baseline is another one"),
        (["--baseline", results["mf"]], "baseline is another one"),
        (["--seed", 1], "seed was 0, is 1"),
        (["--name", "a", "--name", "b", "--name", "c"], "name was"),
    ):
        again = rectool(*line, "--update", *change)
        assert again.code == 0, again.stderr
        assert not again.json["skipped"]
        assert f"compared is made again: {why}" in again.stderr
    rectool(*line, "--update")
    shutil.rmtree(results["mf"])
    bench.result("results/mf", CTR["sasrec"])
    assert "compared is made again: result-2 is another one" in rectool(*line, "--update").stderr
    script = rectool("inspect", "compared", "--script").stdout
    assert "rectool compare " in script


def test_what_is_up_to_date_is_shown_again(bench: Bench, rectool: Command) -> None:
    bench.ctr()
    line = ["compare", "results", "--baseline", "results/bias", "--out", "compared", "--draws", 50, "--no-figures"]
    first, again = rectool(*line), rectool(*line, "--update")
    assert "compared is up to date" in again.stderr
    assert again.stdout == first.stdout
    assert "0.7700* (+10.0%)" in again.stdout


def test_the_recorded_command_rebuilds_it_byte_for_byte(bench: Bench, rectool: Command) -> None:
    bench.ctr(model=bench.model("mf"))
    line = ["compare", "results", "--baseline", "results/bias", "--draws", 50, "--seed", 3, "--group-seeds"]
    assert rectool(*line, "--out", "compared").code == 0
    first = {path.name: path.read_bytes() for path in Path("compared").rglob("*") if path.is_file()}
    made = open_artifact(Path("compared")).manifest
    assert rectool(*made.command[1:], "--update").code == 0
    assert open_artifact(Path("compared")).manifest == made
    assert rectool(*made.command[1:], "--overwrite").code == 0
    again = {path.name: path.read_bytes() for path in Path("compared").rglob("*") if path.is_file()}
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == ["rectool.json"]


def test_json_is_one_object_with_the_figures(bench: Bench, rectool: Command) -> None:
    results = bench.ctr()
    done = rectool("compare", "results", "--baseline", results["bias"], "--out", "compared", "--json", "--draws", 200)
    assert done.json["kind"] == "comparison"
    found = done.json["metrics"]
    assert found["runs"] == CTR
    assert found["mean_improvement"] == {"mf": pytest.approx(0), "sasrec": pytest.approx(0.175)}
    assert {"auc", "uauc"} <= set(found["beyond_chance"]["sasrec"])
    assert found["beyond_chance"]["mf"] == []


def test_quiet_says_nothing(bench: Bench, rectool: Command) -> None:
    bench.ctr()
    done = rectool("compare", "results", "--out", "compared", "--quiet", "--no-figures")
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


def test_a_dry_run_checks_and_writes_nothing(bench: Bench, rectool: Command) -> None:
    bench.ctr()
    done = rectool("compare", "results", "--out", "compared", "--dry-run")
    assert done.code == 0
    assert "would read   results/sasrec" in done.stdout
    assert "would write  compared (comparison, about" in done.stdout
    assert not Path("compared").exists()


def test_metrics_and_groups_choose_what_is_shown(bench: Bench, rectool: Command) -> None:
    bench.ctr()
    line = ["compare", "results", "--out", "compared", "--no-figures"]
    done = rectool(*line, "--metrics", "uauc, log_loss", "--groups", "cold,all")
    titles = [text for text in done.stdout.splitlines() if text.strip().endswith("rows)")]
    assert [title.strip() for title in titles] == ["cold (60 rows)", "all (180 rows)"]
    assert ["sasrec", "0.6500", ""] in lines_of(done.stdout)
    assert "0.7700" not in done.stdout
    assert "0.7700" in Path("compared/comparison.md").read_text()


def test_a_narrow_terminal_gets_the_table_in_parts(
    bench: Bench, rectool: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.ctr()
    monkeypatch.setenv("COLUMNS", "40")
    done = rectool("compare", "results", "--out", "compared", "--no-figures", "--groups", "all")
    assert max(map(len, done.stdout.splitlines()[:10])) <= 40
    assert done.stdout.count("all (180 rows)") > 1
    assert all(value in done.stdout for value in ("0.7700", "0.7500", "0.6000", "0.4000"))


def test_seeds_of_one_model_are_averaged(bench: Bench, rectool: Command) -> None:
    """Of .70 and .74, the mean is .72 and the standard deviation .04 / sqrt(2)."""
    for seed, auc in ((0, 0.70), (1, 0.74)):
        model = bench.model(f"mf-{seed}", seed=seed, settings={"model": "mf", "embedding_size": 64})
        bench.result(f"results/mf-64-seed-{seed}", {"auc": auc}, model=model)
    other = bench.model("mf-32", seed=2, settings={"model": "mf", "embedding_size": 32})
    bench.result("results/mf-32-seed-2", {"auc": 0.5}, model=other)
    done = rectool("compare", "results", "--group-seeds", "--out", "compared", "--no-figures")
    tables = markdown_tables(Path("compared/comparison.md").read_text())
    assert tables["all, over seeds"] == [["model", "auc"], ["mf-64 (2 seeds)", "0.7200 ± 0.0283"]]
    assert ["mf-64 (2 seeds)", "0.7200 ± 0.0283"] in lines_of(done.stdout)
    (group,) = json.loads(Path("compared/comparison.json").read_text())["seeds"]
    assert group["runs"] == ["mf-64-seed-0", "mf-64-seed-1"]
    assert group["metrics"][0]["spread"] == pytest.approx(0.04 / 2**0.5)
    alone = rectool("compare", "results/mf-32-seed-2", "--group-seeds", "--out", "alone", "--no-figures")
    assert "--group-seeds: no two results" in alone.stderr


def test_seeds_of_models_that_start_from_seeds_of_another_are_tested_together(bench: Bench, rectool: Command) -> None:
    results = bench.ctr()
    for seed in (0, 1):
        start = bench.model(f"next-{seed}", seed=seed, settings={"model": "next"})
        model = bench.model(f"din-{seed}", seed=seed, settings={"model": "din"}, start=start)
        bench.result(f"results/din-{seed}", {"auc": 0.77}, skill=0.9, model=model)
    other = bench.model("popular", settings={"model": "popularity"})
    model = bench.model("din-2", seed=2, settings={"model": "din"}, start=other)
    bench.result("results/din-2", {"auc": 0.77}, model=model)
    line = ["compare", "results", "--baseline", results["bias"], "--group-seeds", "--no-figures", "--draws", 200]
    assert rectool(*line, "--out", "compared").code == 0
    document = json.loads(Path("compared/comparison.json").read_text())
    (group,) = document["seeds"]
    assert group["runs"] == ["din-0", "din-1"]
    assert group["metrics"][0]["difference"]["beyond_chance"]
    shown = rectool(*line, "--out", "compared", "--update").stdout  # read back from comparison.json
    assert "0.7700* ± 0.0000" in shown


def both_tasks(bench: Bench) -> None:
    bench.ctr()
    for name, values in RANKING.items():
        bench.result(f"results/next-{name}", values, skill=0.95 if name == "sasrec" else 0.0)


def test_results_of_both_tasks_have_a_table_and_a_baseline_each(bench: Bench, rectool: Command) -> None:
    both_tasks(bench)
    line = ["compare", "results", "--baseline", "results/bias", "--baseline", "results/next-pop", "--draws", 100]
    done = rectool(*line, "--out", "compared")
    assert done.code == 0, done.stderr
    found = json.loads(Path("compared/comparison.json").read_text())["tasks"]
    assert [(task["task"], task["baseline"]) for task in found] == [("ctr", "bias"), ("next-item", "next-pop")]
    assert [[run["name"] for run in task["runs"]] for task in found] == [[*CTR], ["next-pop", "next-sasrec"]]
    assert ["sasrec", "0.7700* (+10.0%)", "0.7500* (+25.0%)", "", "0.4000* (-20.0%)", "+17.5%"] in lines_of(done.stdout)
    assert "0.0300* (+50.0%)" in done.stdout
    assert "data, test, ctr, warm: seen" in done.stdout
    assert "data, test, next-item, warm: seen, excluded: none" in done.stdout
    made = open_artifact(Path("compared"), verify=True).manifest
    assert {parent.role: parent.path for parent in made.parents} == {
        "baseline-ctr": "../results/bias",
        "result-2": "../results/mf",
        "baseline-next-item": "../results/next-pop",
        "result-4": "../results/next-sasrec",
        "result-5": "../results/sasrec",
    }
    assert list(made.metrics["tasks"]) == ["ctr", "next-item"]
    assert made.metrics["tasks"]["next-item"]["baseline"] == "next-pop"
    drawn = {path.relative_to("compared/figures").as_posix() for path in Path("compared/figures").rglob("*.svg")}
    ours = {"ctr": ("auc-uauc", "radar", "warm-cold", "improvement")}
    ours["next-item"] = ("ranking", "radar", "warm-cold", "improvement")
    assert drawn == {f"{task}/{name}.svg" for task, names in ours.items() for name in names}
    with open("compared/comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["task"], row["run"]) for row in rows if row["group"] == "all"] == [
        *(("ctr", name) for name in CTR),
        ("next-item", "next-pop"),
        ("next-item", "next-sasrec"),
    ]
    assert (rows[0]["auc"], rows[0]["hr@10"], rows[-1]["auc"]) == ("0.7", "", "")
    again = rectool(*line, "--out", "compared", "--update")
    assert "compared is up to date" in again.stderr
    assert again.stdout == done.stdout
    assert rectool(*made.command[1:], "--update").stderr.count("is up to date") == 1


def test_one_task_may_have_no_baseline(bench: Bench, rectool: Command) -> None:
    both_tasks(bench)
    done = rectool(
        "compare", "results", "--baseline", "results/next-pop", "--draws", 50, "--out", "compared", "--no-figures"
    )
    assert done.code == 0, done.stderr
    assert ["sasrec", "0.7700", "0.7500", "", "0.4000"] in lines_of(done.stdout)
    assert "0.0300* (+50.0%)" in done.stdout


@pytest.mark.parametrize(
    ("results", "baselines", "said"),
    [
        (
            ["results"],
            ["results/bias", "results/mf"],
            "--baseline results/bias and --baseline results/mf are both of task ctr; name one baseline for each task",
        ),
        (
            ["results/mf", "results/sasrec"],
            ["results/bias", "results/next-pop"],
            "--baseline results/next-pop is of task next-item, and no other result here is; the others are of task ctr",
        ),
    ],
)
def test_baselines_that_do_not_fit_are_refused(
    bench: Bench, rectool: Command, results: list[str], baselines: list[str], said: str
) -> None:
    both_tasks(bench)
    flags = [word for baseline in baselines for word in ("--baseline", baseline)]
    done = rectool("compare", *results, *flags, "--out", "compared")
    assert (done.code, done.error) == (2, said)
    assert not Path("compared").exists()
