"""The page of a comparison: all of it there, nothing that runs or loads but our own, the same bytes again."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from rectool.artifacts import open_artifact
from rectool.evaluation.page import origins, report, svg
from rectool.evaluation.truth import best_reachable

HOSTILE = [
    "<script>alert(1)</script>",
    "\" onclick='x' &amp; </table>",
    "\u202etxt.\u2066exe \x1b[31m",
    "{{ 7 * 7 }} {% raw %} \u05e9\u05dc\u05d5\u05dd",
]
VOID = {"meta", "input"}


class Page(html.parser.HTMLParser):
    """What a browser would find: tags with their attributes, texts by the tag that they stand in."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def inside(self, tag: str) -> list[str]:
        return [text for within, text in self.texts if within == tag]


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def test_it_shows_every_run_table_figure_and_command(results: Any) -> None:
    page = read(results.compared / "report.html")
    assert not page.open
    assert {"bias (baseline)", "mf", "popularity (baseline)", "markov"} <= set(page.inside("bdi"))
    tasks = json.loads((results.compared / "comparison.json").read_text())["tasks"]
    for task in tasks:
        assert {f"{line['value']:.4f}" for line in task["metrics"] if line["best"]} <= set(page.inside("strong"))
    groups = [attributes["data-group"] for tag, attributes in page.tags if "data-group" in attributes]
    assert groups == [group for task in tasks for group in groups_of(task)]
    drawn = {path.relative_to(results.compared).as_posix() for path in results.compared.rglob("*.svg")}
    assert {name.split("/")[1] for name in drawn} == {"ctr", "next-item"}
    assert set(page.inside("figcaption")) == drawn
    assert sum(tag == "svg" for tag, _ in page.tags) == len(drawn)
    shown = "".join(page.inside("code"))
    assert "rectool train-cf data/ctr --model mf --task ctr --epochs 1 --metric auc --out models/mf --update" in shown
    assert "rectool eval data/next-item models/markov --draws 20 --out results/markov --update" in shown
    notes = " ".join(page.inside("li"))
    assert "paired bootstrap over users, 20 draws" in notes
    assert "95% intervals" in notes


def groups_of(task: Any) -> list[str]:
    return list(dict.fromkeys(line["group"] for line in task["metrics"]))


def test_the_best_reachable_score_stands_beside_the_models(results: Any) -> None:
    page = read(results.compared / "report.html")
    document = json.loads((results.compared / "comparison.json").read_text())
    for task, metric in (("ctr", "auc"), ("ctr", "uauc"), ("next-item", "hr@10"), ("next-item", "ndcg@10")):
        (found,) = [each for each in document["tasks"] if each["task"] == task]
        reached = {(line["group"], line["metric"]): line["value"] for line in found["reachable"]}
        expected = best_reachable(results.folder / "data" / task)["test"][metric]
        assert reached["all", metric] == pytest.approx(expected)
        assert f"{expected:.4f}" in page.inside("td")
        every = [line["value"] for line in found["metrics"] if (line["group"], line["metric"]) == ("all", metric)]
        assert max(every) < reached["all", metric]
    assert page.inside("th").count("best reachable") >= 4
    assert "best reachable" in (results.compared / "comparison.md").read_text()


def test_nothing_runs_or_loads_but_what_the_policy_names(results: Any) -> None:
    path = results.compared / "report.html"
    page, text = read(path), path.read_text("utf-8")
    (policy,) = [found["content"] for _, found in page.tags if found.get("http-equiv") == "Content-Security-Policy"]
    hashes = {}
    for tag in ("script", "style"):
        (source,) = page.inside(tag)
        hashes[tag] = "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert sum(name == tag for name, _ in page.tags) == 1
    assert policy == (
        f"default-src 'none'; script-src '{hashes['script']}'; style-src '{hashes['style']}'; "
        "base-uri 'none'; form-action 'none'"
    )
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "image", "foreignobject", "base")
        assert not {name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset")}
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"(?:https?:)?//|url\((?!#)|@import", text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 50
    used = {attributes["href"][1:] for _, attributes in page.tags if "href" in attributes}
    used |= {found[1] for found in re.finditer(r"url\(#([^)]+)\)", text)}
    assert used <= set(ids)


def test_hostile_names_are_text(results: Any, tmp_path: Path) -> None:
    names = [word for name in HOSTILE for word in ("--name", name)]
    path = results.compare(tmp_path / "compared", *names)
    page, text = read(path), path.read_text("utf-8")
    for name in (HOSTILE[0], HOSTILE[1], "?txt.?exe ?[31m", HOSTILE[3]):
        assert any(shown.startswith(name) for shown in page.inside("bdi"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not {character for character in text if not character.isprintable()} - {"\n"}
    assert "\u05e9" in text  # a language that is written from the right is text like any other


def test_the_same_results_give_the_same_bytes(results: Any, tmp_path: Path) -> None:
    first = (results.compared / "report.html").read_bytes()
    assert results.compare(tmp_path / "again", "--metrics", "auc,hr@10", "--groups", "all").read_bytes() == first


def test_update_writes_a_page_that_was_not_there(results: Any, tmp_path: Path) -> None:
    line = ["compare", "results", "--no-figures", "--out", tmp_path / "compared", "--update"]
    assert results.rectool(*line).code == 0
    assert not (tmp_path / "compared/report.html").exists()
    done = results.rectool(*line, "--report")
    assert "is made again: report was False, is True" in done.stderr
    assert (tmp_path / "compared/report.html").exists()
    assert "report.html" in open_artifact(tmp_path / "compared", verify=True).manifest.files
    again = results.rectool(*line, "--report")
    assert "is up to date" in again.stderr
    assert again.stdout == done.stdout
    assert "report.html shows" in again.stderr


def test_a_run_whose_model_and_data_are_gone_is_still_told_of(results: Any, tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree("results/bias", tmp_path / "away/bias")
    monkeypatch.chdir(tmp_path)
    assert results.rectool("compare", "away/bias", "--report", "--no-figures", "--out", "compared").code == 0
    page = read(tmp_path / "compared/report.html")
    assert "The data set is not there any more." in page.inside("p")
    assert any("cf, not there any more" in text for text in page.inside("small"))


def test_commands_name_other_folders_from_here(results: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (origin,) = [origins.of(run) for run in read_runs([results.folder / "results/mf"])]
    there = shlex.quote(str(Path("..", results.folder.relative_to(tmp_path.parent))))
    assert origin.commands[0] == (
        f"(cd {there} && rectool prep synthetic --users 60 --items 60 --out data/ctr --update)"
    )
    assert len(origin.commands) == 3
    made = [open_artifact(results.folder / name).manifest for name in ("data/ctr", "models/mf", "results/mf")]
    assert origin.seconds == pytest.approx(sum(each.run["wall_seconds"] for each in made))
    monkeypatch.chdir(results.folder)
    assert [stage.path for stage in origins.stages([origin])] == ["data/ctr", "models/mf", "results/mf"]
    assert [stage.command for stage in origins.stages([origin])] == [
        "rectool prep synthetic",
        "rectool train-cf",
        "rectool eval",
    ]


def read_runs(paths: list[Path]) -> Any:
    from rectool.evaluation import runs

    return runs.read(paths, runs.names_of(paths))


def test_settings_that_differ_are_told_and_others_are_not(results: Any) -> None:
    found = origins.differing([origins.of(run) for run in read_runs([Path("results/bias"), Path("results/mf")])])
    values = {setting.name: list(setting.values) for setting in found}
    assert values["model model"] == ["bias", "mf"]
    assert "eval draws" not in values  # 20 in both
    assert all(len(set(each)) > 1 for each in values.values())


def test_a_large_figure_is_named_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name, more in (("small", ""), ("large", " " * 2_000_000)):
        source = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M 1 2"/>{more}</svg>'
        (tmp_path / f"figures/{name}.svg").write_text(source)
    large, small = report._figures(tmp_path, "figures")
    assert (large.file, large.size, large.drawing) == ("figures/large.svg", "2.0 MB", None)
    assert small.drawing is not None
    assert '<path d="M 1 2">' in small.drawing


def test_a_figure_keeps_what_draws_and_nothing_else() -> None:
    source = """<?xml version="1.0"?>
    <svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 10 20">
    <script>alert(1)</script><style>* {fill: red}</style><metadata>x</metadata>
    <defs><clipPath id="c"><rect width="3" height="4" onload="x"/></clipPath></defs>
    <a xlink:href="http://a.example/"><text>in a link</text></a>
    <image xlink:href="http://a.example/a.png"/><foreignObject><b>x</b></foreignObject>
    <use xlink:href="#c"/><use xlink:href="http://a.example/#x"/>
    <path d="M 1.23456 2" clip-path="url(#c)" style="fill: url(http://a.example); stroke: #fff; behavior: x"/>
    <text style="font: bold 9px 'DejaVu Sans', serif; text-anchor: middle" class="x">a &lt; &amp; "b"</text></svg>"""
    drawn = svg.inline(source, "f-", 'a "figure"')
    page = Page(drawn)
    assert not page.open
    assert [tag for tag, _ in page.tags] == ["svg", "defs", "clippath", "rect", "use", "use", "path", "text"]
    found = dict(zip([tag for tag, _ in page.tags], [attributes for _, attributes in page.tags], strict=True))
    assert found["svg"]["aria-label"] == 'a "figure"'
    assert found["clippath"] == {"id": "f-c"}
    assert found["rect"] == {"width": "3", "height": "4"}
    assert [attributes for tag, attributes in page.tags if tag == "use"] == [{"href": "#f-c"}, {}]
    assert found["path"] == {"d": "M 1.23 2", "clip-path": "url(#f-c)", "stroke": "#fff"}
    looks = {"font-size": "9px", "font-family": "'DejaVu Sans', serif", "font-weight": "bold", "text-anchor": "middle"}
    assert found["text"] == looks
    assert "".join(page.inside("text")) == 'a < & "b"'


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3.14, "3.1 s"), (59.94, "59.9 s"), (59.97, "1 min 00 s"), (725, "12 min 05 s"), (7380, "2 h 03 min"), (None, "")],
)
def test_times_are_said_in_words(seconds: float | None, said: str) -> None:
    assert report._time(seconds) == said
