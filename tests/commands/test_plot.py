"""`rectool plot`, run for real."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file

from rectool.artifacts import Input, Making, open_artifact, schemas, write
from rectool.models import projector as projectors
from rectool.models.projector import Projector

Command = Callable[..., Any]
WIDTH, HIDDEN = 8, 12


def texts(path: Path) -> list[str]:
    """What stands written in an SVG."""
    return ["".join(node.itertext()).strip() for node in ElementTree.parse(path).iter() if node.tag.endswith("}text")]


def done(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.stderr
    return outcome


@pytest.fixture
def models(rectool: Command, shelf: Path, data: Path) -> dict[str, Path]:
    """Two trained models of three epochs."""
    made = {name: shelf / name for name in ("mf", "other")}
    for seed, out in enumerate(made.values()):
        flags = ["--embedding-size", WIDTH, "--epochs", 3, "--seed", seed, "--quiet"]
        if not out.exists():
            done(rectool("train-cf", data, "--model", "mf", *flags, "--out", out))
    return made


@pytest.fixture
def results(rectool: Command, shelf: Path, data: Path, models: dict[str, Path]) -> dict[str, Path]:
    """A result of each model."""
    made = {name: shelf / "results" / name for name in models}
    for name, out in made.items():
        if not out.exists():
            done(rectool("eval", data, models[name], "--draws", 20, "--quiet", "--out", out))
    return made


@pytest.fixture
def aligned(shelf: Path, data: Path, models: dict[str, Path]) -> Path:
    """Semantic embeddings that are exactly what the projector makes of the collaborative ones."""
    out, semantic = shelf / "aligned", shelf / "semantic"
    if out.exists():
        return out
    with torch.random.fork_rng():
        torch.manual_seed(3)
        projector = Projector(WIDTH, 16, HIDDEN, "gelu")
    vectors = load_file(models["mf"] / "embeddings.safetensors")
    vectors["item"] = np.random.default_rng(0).normal(size=vectors["item"].shape).astype(np.float32)
    with torch.no_grad():
        item = projector(torch.from_numpy(vectors["item"])).numpy()
    opened = Input("dataset", data, artifact=open_artifact(data))
    with write(
        semantic, "semantic", Making(["rectool", "distill"], {}, 0, [opened.parent(semantic, "semantic")])
    ) as to:
        save_file({"item": item}, to.path / "embeddings.safetensors")
        (to.path / "config.json").write_text("{}")
    with write(out, "aligned", Making(["rectool", "align"], {}, 0, [opened.parent(out, "aligned")])) as draft:
        for name, kind, source in (("cf", "cf", models["mf"]), ("semantic", "semantic", semantic)):
            part = draft.part(name, kind)
            for file in source.glob("*[ns]"):  # .json, .safetensors
                if file.name != "rectool.json":
                    shutil.copy(file, part.path)
        save_file(vectors, draft.path / "cf/embeddings.safetensors")
        projectors.save(projector, draft.part("projector", "projector").path)
        points = pa.table([[1], [1.0], ["train"], ["loss"], [2.0]], schema=schemas.CURVE)
        pq.write_table(points, draft.path / "curve.parquet")
    return out


def test_every_figure_is_an_artifact_with_its_data(
    rectool: Command, tmp_path: Path, results: dict[str, Path], models: dict[str, Path]
) -> None:
    out = tmp_path / "figure"
    shown = done(rectool("plot", "curves", *models.values(), "--out", out))
    assert shown.stdout.strip() == f"{out / 'curves.png'}"
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.parquet", "curves.png", "curves.svg", "rectool.json"
    ]  # fmt: skip
    made = open_artifact(out, "figure", verify=True)
    assert [parent.role for parent in made.manifest.parents] == ["stage-1", "stage-2"]
    assert "is up to date" in rectool("plot", "curves", *models.values(), "--out", out, "--update").stderr
    again = rectool("plot", "curves", *reversed(models.values()), "--out", out, "--update")
    assert "is made again" in again.stderr
    assert "would write" in rectool("plot", "bars", *results.values(), "--out", tmp_path / "b", "--dry-run").stdout
    assert not (tmp_path / "b").exists()


def test_curves_keep_the_order_of_the_stages(rectool: Command, tmp_path: Path, models: dict[str, Path]) -> None:
    out = tmp_path / "figure"
    names = ["--name", "first", "--name", "then"]
    done(rectool("plot", "curves", models["other"], models["mf"], *names, "--out", out))
    data = pq.read_table(out / "curves.parquet")
    assert data["stage"].unique().to_pylist() == ["first", "then"]
    points = pq.read_table(models["other"] / "curve.parquet")
    assert data.filter(pc.equal(data["stage"], "first"))["value"].to_pylist() == points["value"].to_pylist()
    best = data.filter(data["best"])
    kept = [open_artifact(models[name]).manifest.metrics["best_step"] for name in ("other", "mf")]
    assert best["step"].unique().to_pylist() == list(dict.fromkeys(kept))
    written = texts(out / "curves.svg")
    assert {"first", "then", "loss", "AUC", "train", "valid"} <= set(written)
    assert written.index("first") < written.index("then")


def test_results_have_bars_radar_and_improvement(rectool: Command, tmp_path: Path, results: dict[str, Path]) -> None:
    both = list(results.values())
    done(rectool("plot", "bars", *both, "--out", tmp_path / "bars"))
    done(rectool("plot", "radar", results["mf"].parent, "--out", tmp_path / "radar"))
    done(rectool("plot", "improvement", *both, "--baseline", both[1], "--out", tmp_path / "improvement"))
    assert {path.stem for path in (tmp_path / "bars").glob("*.png")} == {"auc-uauc", "warm-cold"}
    assert {"mf", "other", "AUC", "UAUC"} <= set(texts(tmp_path / "bars/auc-uauc.svg"))
    data = pq.read_table(tmp_path / "improvement/improvement.parquet").to_pylist()
    values = {(line["run"], line["metric"]): line for line in data if line["group"] == "all"}
    mine, base = (values[name, "auc"]["value"] for name in ("mf", "other"))
    assert values["mf", "auc"]["improvement"] == pytest.approx((mine - base) / base)
    assert values["other", "auc"]["improvement"] is None
    lines = json.loads((both[0] / "metrics.json").read_text())["metrics"]
    assert values["mf", "auc"]["low"] == next(line["low"] for line in lines if line["metric"] == "auc")


def test_class_strips_show_the_same_rows_of_every_run(
    rectool: Command, tmp_path: Path, results: dict[str, Path]
) -> None:
    out = tmp_path / "figure"
    done(rectool("plot", "classes", *results.values(), "--rows", 40, "--seed", 5, "--out", out))
    data = pq.read_table(out / "classes.parquet")
    assert data.num_rows == 80
    rows = np.asarray(data["row"]).reshape(2, 40)
    assert (rows[0] == rows[1]).all()
    labels = np.asarray(data["label"])[:40]
    assert (np.diff(labels) >= 0).all()
    table = pq.read_table(results["mf"] / "predictions.parquet").to_pandas().set_index("row")
    shown = table.loc[rows[0]]
    assert shown["label"].tolist() == labels.tolist()
    assert (shown["probability"] >= 0.5).astype(int).tolist() == data["predicted"].to_pylist()[:40]
    summary = open_artifact(out).manifest.metrics["classes"]["mf"]
    assert summary["accuracy"] == pytest.approx(((table["probability"] >= 0.5) == (table["label"] == 1)).mean())
    assert f"{summary['accuracy']:.1%} right" in texts(out / "classes.svg")


def test_aligned_pairs_lie_together_and_others_do_not(
    rectool: Command, tmp_path: Path, shelf: Path, aligned: Path, models: dict[str, Path]
) -> None:
    without = ["--cf", models["other"], "--semantic", shelf / "semantic"]
    done(rectool("plot", "cosine", aligned, *without, "--items", 40, "--out", tmp_path / "cosine"))
    data = pq.read_table(tmp_path / "cosine/cosine.parquet").to_pandas()
    assert data.groupby(["panel", "pair"]).size().tolist() == [40] * 4
    means = data.groupby(["panel", "pair"])["cosine"].mean()
    assert means["aligned", "matched"] == pytest.approx(1, abs=1e-5)
    assert means["aligned", "unmatched"] < 0.99
    assert means["without alignment (random projector)", "matched"] < 0.9
    summary = open_artifact(tmp_path / "cosine").manifest.metrics["cosine"]
    assert summary["aligned"]["retrieval@1"] == 1
    done(rectool("plot", "cosine", aligned, "--out", tmp_path / "alone"))
    assert pq.read_table(tmp_path / "alone/cosine.parquet")["panel"].unique().to_pylist() == ["aligned"]


def test_neighbours_in_the_plane_are_the_same_for_a_seed(
    rectool: Command, tmp_path: Path, shelf: Path, aligned: Path, models: dict[str, Path]
) -> None:
    without = ["--cf", models["mf"], "--semantic", shelf / "semantic", "--projector", aligned / "projector"]
    for out in ("one", "two"):
        done(rectool("plot", "embeddings", aligned, *without, "--items", 30, "--seed", 2, "--out", tmp_path / out))
    for form in ("parquet", "png", "svg"):
        first, second = (tmp_path / out / f"embeddings.{form}" for out in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    data = pq.read_table(tmp_path / "one/embeddings.parquet").to_pandas()
    panel = data[data["panel"] == "aligned"]
    one, other = (panel[panel["embedding"] == name][["x", "y"]].to_numpy() for name in ("collaborative", "semantic"))
    nearest = np.linalg.norm(one[:, None] - other[None], axis=-1).argmin(1)
    assert (nearest == np.arange(30)).mean() > 0.9


def test_attention_of_a_language_model(
    rectool: Command, tmp_path: Path, data: Path, tiny_llm: Callable[..., Path]
) -> None:
    row = int(np.flatnonzero(np.asarray(pq.read_table(data / "interactions.parquet")["label"]) >= 0)[-1])
    out = tmp_path / "figure"
    done(rectool("plot", "attention", data, tiny_llm(), "--row", row, "--out", out))
    shown = pq.read_table(out / "attention.parquet").to_pandas()
    sums = shown.groupby(["layer", "from"])["weight"].sum()
    assert sorted(shown["layer"].unique()) == [1, 2]
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert shown["from_name"].iloc[-1].endswith("→ answer")
    assert not shown["to_soft"].any()
    one = tmp_path / "tokens"
    done(rectool("plot", "attention", data, tiny_llm(), "--row", row, "--tokens", "--layers", "2", "--out", one))
    tokens = pq.read_table(one / "attention.parquet").to_pandas()
    assert set(tokens["layer"]) == {2}
    assert (tokens["tokens"] == 1).all()
    sizes = shown.drop_duplicates("to")["tokens"].sum()
    assert tokens["to"].max() + 1 == sizes == open_artifact(out).manifest.metrics["attention"]["tokens"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["curves", "{data}"], "has no training curve"),
        (["curves", "{mf}", "--name", "a", "--name", "b"], "--name: 2 names for 1 folders"),
        (["classes", "{result}", "--rows", "0"], "--rows 0"),
        (["improvement", "{result}"], "--baseline RESULT is missing"),
        (["improvement", "{result}", "--baseline", "{result}"], "plot improvement needs two results or more"),
        (["cosine", "{mf}"], "is a cf artifact, but an aligned is needed"),
        (["cosine", "{aligned}", "--cf", "{mf}"], "name the other with --semantic"),
        (["embeddings", "{aligned}", "--projector", "{aligned}/projector"], "--projector is for embeddings without"),
        (["embeddings", "{aligned}", "--items", "1"], "--items 1"),
        (["attention", "{data}", "{mf}", "--row", "0"], "is no language model"),
        (["attention", "{data}", "{llm}", "--row", "1000000"], "--row 1000000: the log has"),
        (["attention", "{data}", "{llm}", "--row", "0", "--layers", "3"], "the model has 2 layers"),
        (["attention", "{data}", "{llm}", "--row", "0", "--layers", "last"], "is no list of layers"),
        (["attention", "{data}", "{llm}"], "say which prompt with --row N"),
        (["attention", "{data}", "{llm}", "{llm}", "--row", "0"], "show several with --within-across"),
        (["attention", "{data}", "{llm}", "--row", "0", "--pairs", "9"], "--pairs is for --within-across"),
        (["attention", "{data}", "{llm}", "--row", "0", "--name", "a"], "--name is for --within-across"),
        (["attention", "{data}", "{llm}", "--within-across", "--row", "0"], "--row is for one prompt"),
        (["attention", "{data}", "{llm}", "--within-across", "--rows", "0"], "--rows 0"),
        (["attention", "{data}", "--within-across"], "name a model"),
        (["attention", "{data}", "{mf}", "--within-across"], "mf is no language model"),
        (["sensitivity", "{result}"], "is of models that rectool tune-lora or train-proj made"),
        (["sensitivity", "{result}", "--metric", "hr@5"], "has no hr@5 of group all; it has auc of all"),
    ],
)
def test_mistakes_are_one_line(
    rectool: Command,
    tmp_path: Path,
    data: Path,
    models: dict[str, Path],
    results: dict[str, Path],
    aligned: Path,
    tiny_llm: Callable[..., Path],
    arguments: list[str],
    said: str,
) -> None:
    known = {"data": data, "mf": models["mf"], "result": results["mf"], "aligned": aligned, "llm": tiny_llm()}
    out = tmp_path / "figure"
    outcome = rectool("plot", *(word.format(**known) for word in arguments), "--out", out)
    assert outcome.code == 2
    assert said in outcome.error
    assert not out.exists()


def test_embeddings_of_other_items_are_refused(
    rectool: Command, tmp_path: Path, shelf: Path, aligned: Path, models: dict[str, Path]
) -> None:
    other, mf = tmp_path / "data", tmp_path / "mf"
    done(rectool("prep", "synthetic", "--users", 60, "--items", 60, "--seed", 9, "--quiet", "--out", other))
    done(rectool("train-cf", other, "--model", "mf", "--epochs", 1, "--quiet", "--out", mf))
    refused = rectool("plot", "cosine", aligned, "--cf", mf, "--semantic", shelf / "semantic", "--out", tmp_path / "f")
    assert f"--cf {mf} is of other items than {aligned}" in refused.error


@pytest.fixture
def tuned(rectool: Command, shelf: Path, data: Path, tiny_llm: Callable[..., Path]) -> dict[str, Path]:
    """Models that hardly differ but for their masks, by these; the last one is tuned as a whole."""
    made = {"causal": shelf / "causal", "in:1,cr:1": shelf / "masked", "in:1,or:1": shelf / "shallow"}
    for mask, out in made.items():
        flags = ["--steps", 1, "--history", 3, "--prompt", "tallrec", "--mask", mask, "--quiet"]
        if not out.exists():
            flags += ["--full"] * (mask == "in:1,or:1")
            done(rectool("tune-lora", data, "--llm", tiny_llm(), *flags, "--out", out))
    return made


def test_attention_inside_items_and_across_them_of_several_models(
    rectool: Command, tmp_path: Path, data: Path, tuned: dict[str, Path], tiny_llm: Callable[..., Path]
) -> None:
    out = tmp_path / "figure"
    what = [tuned["causal"], tuned["in:1,cr:1"], "--llm", tiny_llm(), "--within-across", "--rows", 9, "--pairs", 30]
    names = [word for name in ("before", "causal", "masked") for word in ("--name", name)]
    shown = done(rectool("plot", "attention", data, *what, *names, "--out", out))
    assert shown.stdout.split() == [f"{out / 'within-across.png'}", f"{out / 'token-pairs.png'}"]
    table = pq.read_table(out / "within-across.parquet").to_pandas()
    assert table["model"].unique().tolist() == ["before", "causal", "masked"]
    assert set(table["tokens"][table["looks"] == "answer"]) == {9}
    pairs = table.groupby(["layer", "looks", "at"])["pairs"]
    assert (pairs.nunique() == 1).all()  # all are asked with the same prompts
    lines = table.set_index(["model", "layer", "looks", "at"])
    assert lines.loc[("masked", 1, "item", "across"), "share"] == 0
    assert lines.loc[("causal", 1, "item", "across"), "share"] > 0
    assert lines.loc[("masked", 2, "item", "inside"), "share"] == 0
    tokens = pq.read_table(out / "token-pairs.parquet").to_pylist()
    assert [(line["pair"], line["prompts"], line["training_prompts"]) for line in tokens] == [
        ("inside", 9, 30), ("across", 9, 30)
    ]  # fmt: skip
    assert tokens[0]["distance"] < tokens[1]["distance"]
    roles = [parent.role for parent in open_artifact(out, "figure", verify=True).manifest.parents]
    assert {"dataset", "model-1:config.json", "model-2", "model-3"} <= set(roles)
    assert "is up to date" in rectool("plot", "attention", data, *what, *names, "--out", out, "--update").stderr
    refused = rectool("plot", "attention", data, tuned["causal"], "--within-across", "--history", 2, "--out", out)
    assert "--history: all of these models are asked as they were tuned" in refused.error


@pytest.mark.parametrize("what", [("--row", 7), ("--within-across", "--rows", 3, "--llm")], ids=["one", "several"])
def test_the_recorded_line_makes_the_figure_of_attention_again(
    what: tuple[Any, ...], rectool: Command, tmp_path: Path, data: Path, tiny_llm: Callable[..., Path]
) -> None:
    out = tmp_path / "figure"
    more = (*what, tiny_llm("gpt2")) if what[-1] == "--llm" else what
    done(rectool("plot", "attention", data, tiny_llm(), *more, "--out", out))
    line = open_artifact(out).manifest.command
    assert line[1:5] == ["plot", "attention", str(data), str(tiny_llm())]
    again = done(rectool(*line[1:], "--update"))
    assert "is up to date" in again.stderr


def test_sensitivity_to_the_depths_of_masks(
    rectool: Command, tmp_path: Path, data: Path, tuned: dict[str, Path], tiny_llm: Callable[..., Path]
) -> None:
    out, results = tmp_path / "figure", tmp_path / "depths"
    for name in ("causal", "in:1,cr:1", "in:1,or:1"):
        made = results / tuned[name].name
        done(rectool("eval", data, tuned[name], "--draws", 20, "--quiet", "--out", made))
        if name == "in:1,cr:1":
            early = rectool("plot", "sensitivity", results, "--out", out)
            assert "needs results whose masks differ in depth at one end" in early.error
    done(rectool("plot", "sensitivity", results, "--metric", "auc", "--out", out))
    points = {line["run"]: line for line in pq.read_table(out / "sensitivity.parquet").to_pylist()}
    assert {name: (line["shallow"], line["deep"]) for name, line in points.items()} == {
        "causal": (0, 0), "masked": (1, 1), "shallow": (1, 0)
    }  # fmt: skip
    assert {line["backbone"] for line in points.values()} == {tiny_llm().name}
    lines = json.loads((results / "shallow/metrics.json").read_text())["metrics"]
    auc = next(line for line in lines if (line["metric"], line["group"]) == ("auc", "all"))
    assert [points["shallow"][name] for name in ("value", "low", "high")] == [auc[n] for n in ("value", "low", "high")]
    assert {"in layers beside no deep layers", "cr layers beside in:1"} <= set(texts(out / "sensitivity.svg"))


def test_attention_to_soft_tokens(
    rectool: Command, tmp_path: Path, data: Path, models: dict[str, Path], tiny_llm: Callable[..., Path]
) -> None:
    hybrid, out = tmp_path / "hybrid", tmp_path / "figure"
    flags = [
        "--tokens",
        "user,item",
        "--tokens-per-id",
        2,
        "--train",
        "projector",
        "--steps",
        1,
        "--prompt",
        "sasrecllm",
    ]
    what = ["--llm", tiny_llm(), "--cf", models["mf"]]
    done(rectool("train-proj", data, *what, *flags, "--quiet", "--out", hybrid))
    done(rectool("plot", "attention", data, hybrid, "--row", 5, "--out", out))
    shown = pq.read_table(out / "attention.parquet").to_pandas()
    soft = shown[shown["to_soft"]]
    assert soft.drop_duplicates("to")[["to_name", "tokens"]].to_numpy().tolist() == [["{user}", 2], ["{item}", 2]]
    answer = soft[(soft["layer"] == 2) & (soft["from"] == shown["from"].max())]["weight"].sum()
    summary = open_artifact(out).manifest.metrics["attention"]["answer_to_soft"]
    assert summary["layer 2"] == pytest.approx(answer)
    across = tmp_path / "across"
    done(rectool("plot", "attention", data, hybrid, "--within-across", "--rows", 5, "--out", across))
    table = pq.read_table(across / "within-across.parquet").to_pandas()
    to_soft = table[(table["looks"] == "answer") & (table["at"] == "soft")]
    assert (to_soft["pairs"] == 5 * 4).all()
    assert (to_soft["share"] > 0).all()
    assert "share on soft tokens" in texts(across / "within-across.svg")
