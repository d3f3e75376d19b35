"""`rectool inspect`, run for real on what `rectool prep` and `rectool adopt` made."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rectool.artifacts import open_artifact

Command = Callable[..., Any]


@pytest.fixture
def data(raw: Path, rectool: Command) -> Path:
    """A data set made from the raw files."""
    out = raw.parent / "data"
    done = rectool("prep", "table", raw / "ratings.csv", "--items", raw / "items.csv", "--k-core", 2, "--out", out)
    assert done.code == 0
    return out


@pytest.fixture
def semantic(data: Path, rectool: Command) -> Path:
    """Embeddings of another program for the items of the data set."""
    out = data.parent / "runs/minilm"
    out.mkdir(parents=True)
    save_file({"item": np.ones((3, 4), np.float32)}, out / "embeddings.safetensors")
    (out / "config.json").write_text("{}")
    assert rectool("adopt", out, "--kind", "semantic", "--data", data).code == 0
    return out


def rebuild(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would: made runnable, with this rectool on the path."""
    path = folder / "rebuild.sh"
    path.write_text(script)
    path.chmod(0o755)
    bin = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([path], cwd=folder, env=environment, capture_output=True, text=True)


def lines(text: str) -> list[str]:
    """What a table says, line by line, without its lines and columns."""
    return [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]


def test_it_says_what_an_artifact_is(data: Path, rectool: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    done = rectool("inspect", "data")
    manifest = open_artifact(data).manifest

    assert done.code == 0
    said = lines(done.stdout)
    assert said[0].startswith("data: dataset, made 20")
    assert said[1] == f"digest {manifest.digests['artifact']}"
    for line in (
        "interactions 8",
        "items 3",
        "users 3",
        "k_core 2",
        "like_at_least 4.0",
        "split ratio:8,1,1",
        "seed 0",
    ):
        assert line in said
    for name, record in manifest.files.items():
        assert f"{name} {record.bytes:,} {record.sha256[7:19]}" in said
    lineage = said[said.index("lineage") :]
    assert lineage[1] == f"data (dataset, {manifest.digests['artifact'][7:19]})"
    assert lineage[2:4] == [
        "├── interactions: raw/ratings.csv (raw, there)",
        "└── items: raw/items.csv (raw, there)",
    ]
    assert lineage[4:] == ["made by", shlex.join(manifest.command)]
    assert done.stderr == ""


def test_verify_says_so(data: Path, rectool: Command) -> None:
    done = rectool("inspect", data, "--verify")
    assert done.code == 0
    assert "(verified)" in done.stdout
    assert "ratings.csv (raw, unchanged)" in done.stdout


def test_verify_knows_a_real_release(tmp_path: Path, rectool: Command) -> None:
    """With a column of lists: their type is called otherwise once it is read from the file."""
    source = tmp_path / "ml"
    source.mkdir()
    ratings = [f"{user}\t{item}\t{1 + (user + item) % 5}\t{880000000 + user}" for user in range(9) for item in (1, 2)]
    (source / "u.data").write_text("\n".join(ratings) + "\n")
    (source / "u.item").write_text(
        "1|Toy Story (1995)|01-Jan-1995||u|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
        "2|GoldenEye (1995)|01-Jan-1995||u|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|1|0|0\n"
    )
    assert rectool("prep", "movielens", "--variant", "100k", "--source", source, "--out", tmp_path / "x").code == 0
    done = rectool("inspect", tmp_path / "x", "--verify")
    assert done.code == 0, done.stderr
    assert "(verified)" in done.stdout


def test_json_is_one_object_and_nothing_else(semantic: Path, data: Path, rectool: Command) -> None:
    done = rectool("inspect", semantic, "--verify", "--json")
    assert done.code == 0
    assert done.stdout.count("\n") == 1
    value = done.json
    on_disk = json.loads((semantic / "rectool.json").read_text())
    assert {name: value[name] for name in on_disk} == on_disk
    assert value["verified"] is True
    assert value["artifact"] == value["lineage"]["path"] == str(semantic)
    (dataset,) = value["lineage"]["parents"]
    assert (dataset["role"], dataset["path"]) == ("dataset", f"{semantic}/../../data")
    assert [(raw["role"], raw["state"]) for raw in dataset["parents"]] == [
        ("interactions", "unchanged"),
        ("items", "unchanged"),
    ]
    assert "lineage" in done.stderr  # people read it there


def test_json_and_quiet_is_the_object_alone(data: Path, rectool: Command) -> None:
    done = rectool("inspect", data, "--json", "--quiet")
    assert done.json["kind"] == "dataset"
    assert done.stderr == ""


def test_the_lineage_of_what_was_taken_in_reaches_the_raw_files(
    semantic: Path, raw: Path, rectool: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(raw.parent)

    def lineage(*flags: str) -> list[str]:
        done = rectool("inspect", semantic, *flags)
        assert done.code == 0
        said = lines(done.stdout)
        return said[said.index("lineage") + 3 : said.index("made by")]

    assert f"# {semantic} was adopted" in rectool("inspect", semantic).stdout
    assert lineage("--verify") == [
        "├── interactions: raw/ratings.csv (raw, unchanged)",
        "└── items: raw/items.csv (raw, unchanged)",
    ]
    (raw / "ratings.csv").write_text((raw / "ratings.csv").read_text().replace("ann,a,10,5", "ann,a,10,4"))
    (raw / "items.csv").unlink()
    assert lineage("--verify") == [
        "├── interactions: raw/ratings.csv (raw, CHANGED since)",
        "└── items: raw/items.csv (raw, not there any more)",
    ]
    assert lineage() == [
        "├── interactions: raw/ratings.csv (raw, there)",
        "└── items: raw/items.csv (raw, not there any more)",
    ]


def test_each_raw_file_is_hashed_once(data: Path, rectool: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from rectool.artifacts import digests

    hashed = []
    of_file = digests.of_file

    def count(path: Path) -> str:
        hashed.append(path.name)
        return of_file(path)

    monkeypatch.setattr(digests, "of_file", count)
    assert rectool("inspect", data, "--verify", "--json").code == 0
    assert hashed.count("ratings.csv") == hashed.count("items.csv") == 1


@pytest.mark.parametrize("folder", ["plain", "with space", 'it\'s "quoted" $HOME `x`; #é*'])
def test_the_script_rebuilds_what_was_deleted(folder: str, raw: Path, rectool: Command, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir()
    ratings = shutil.copy(raw / "ratings.csv", place / f"{folder} ratings.csv")
    out = place / f"{folder} data"
    command = ["prep", "table", ratings, "--out", out, "--like-at-least", 3, "--seed", 7, "--split", "leave-one-out"]
    assert rectool(*command).code == 0
    before = open_artifact(out).manifest

    shown = rectool("inspect", out, "--script")
    assert shown.code == 0
    assert shown.stderr == ""
    assert shown.stdout.startswith("#!/usr/bin/env bash\n")
    assert rectool("inspect", out, "--script", "--json").json == {"script": shown.stdout}
    shutil.rmtree(out)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = rebuild(shown.stdout, elsewhere)
    assert done.returncode == 0, done.stderr

    after = open_artifact(out, verify=True).manifest
    assert after.digests == before.digests
    assert (after.settings, after.seed, after.parents) == (before.settings, before.seed, before.parents)
    again = rebuild(shown.stdout, elsewhere)
    assert again.returncode == 0
    assert "is up to date" in again.stderr
    assert os.listdir(elsewhere) == ["rebuild.sh"]


def test_the_script_runs_where_the_command_ran(
    raw: Path, rectool: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(raw)
    assert rectool("prep", "table", "ratings.csv", "--items", "items.csv", "--out", "../out/data").code == 0
    before = open_artifact(tmp_path / "out/data").manifest
    (tmp_path / "all").mkdir()
    for name in ("raw", "out"):
        (tmp_path / name).rename(tmp_path / "all" / name)  # moved together

    monkeypatch.chdir(tmp_path)
    script = rectool("inspect", "all/out/data", "--script").stdout
    assert f"cd {tmp_path}/all/raw\n" in script
    shutil.rmtree(tmp_path / "all/out")
    assert rebuild(script, tmp_path).returncode == 0
    assert open_artifact(tmp_path / "all/out/data").manifest.digests == before.digests


def test_the_script_of_what_was_taken_in_rebuilds_its_data(semantic: Path, data: Path, rectool: Command) -> None:
    before = open_artifact(data).manifest.digests
    script = rectool("inspect", semantic, "--script").stdout
    assert f"# {semantic} was adopted" in script
    shutil.rmtree(data)

    done = rebuild(script, data.parent)
    assert done.returncode == 0, done.stderr
    assert open_artifact(data).manifest.digests == before
    assert open_artifact(semantic).parent("dataset").manifest.digests == before


@pytest.fixture
def model(data: Path, rectool: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the data set; both are made by relative paths."""
    monkeypatch.chdir(data.parent)
    for words in (
        ("prep", "table", "raw/ratings.csv", "--out", "data", "--overwrite", "--split", "leave-one-out"),
        ("train-cf", "data", "--model", "popularity", "--out", "model"),
    ):
        done = rectool(*words)
        assert done.code == 0, done.stderr
    return data.parent / "model"


@pytest.mark.parametrize("place", ["away", "elsewhere/data"])
def test_the_script_says_what_it_lacks(place: str, model: Path, data: Path, rectool: Command) -> None:
    """Whether the parent was moved out of reach, or another folder stands in its place."""
    (data.parent / place).parent.mkdir(exist_ok=True)
    data.rename(data.parent / place)
    for said in ("is not there any more", "is no artifact any more"):
        done = rectool("inspect", model, "--script")
        note = f"made by a command that is not known: {data} {said} (--parent dataset=PATH says where it is)"
        assert (done.code, done.stderr) == (0, f"{note}\n")
        assert done.stdout.splitlines()[3:] == [
            f"# {note}",
            f"cd {data.parent}",
            "rectool train-cf data --model popularity --out model --update",
        ]
        shown = rectool("inspect", model).stdout
        assert f"# {note}\n" in shown[shown.index("made by") :]
        assert said[3:] in shown[shown.index("lineage") : shown.index("made by")]
        data.mkdir(exist_ok=True)


def test_the_script_rebuilds_a_moved_parent_where_it_stood(
    model: Path, data: Path, rectool: Command, tmp_path: Path
) -> None:
    """Its raw files and its own command are found from there, too."""
    before = open_artifact(model).manifest
    (tmp_path / "away").mkdir()
    data.rename(tmp_path / "away/moved")
    done = rectool("inspect", model, "--script", "--parent", "dataset=away/moved")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[3:] == [
        f"# {tmp_path}/away/moved is made anew where it stood: {data}",
        f"cd {tmp_path}",
        "rectool prep table raw/ratings.csv --split leave-one-out --out data --update",
        "rectool train-cf data --model popularity --out model --update",
    ]
    assert (
        "interactions: raw/ratings.csv (raw, there)"
        in rectool("inspect", model, "--parent", "dataset=away/moved").stdout
    )
    shutil.rmtree(model)
    shutil.rmtree(tmp_path / "away")
    again = rebuild(done.stdout, tmp_path)
    assert again.returncode == 0, again.stderr
    assert open_artifact(model).manifest.digests == before.digests


def test_a_parent_that_was_moved_before_it_was_used_is_told_of(model: Path, data: Path, rectool: Command) -> None:
    data.rename(data.parent / "moved")
    assert rectool("train-cf", "moved", "--model", "popularity", "--out", "second").code == 0
    done = rectool("inspect", "second", "--script")
    assert (done.code, done.stderr) == (
        0,
        f"{data.parent}/moved was moved after it was made: its command makes {data}\n",
    )
    assert f"# {done.stderr}" in done.stdout


def test_the_script_stops_at_an_error(data: Path, raw: Path, rectool: Command) -> None:
    script = rectool("inspect", data, "--script").stdout
    (raw / "ratings.csv").unlink()
    done = rebuild(script + "echo went on\n", data.parent)
    assert done.returncode == 2
    assert "went on" not in done.stdout


def test_what_is_no_artifact_is_one_line(raw: Path, rectool: Command) -> None:
    for path, said in (
        (raw, "is not a rectool artifact"),
        (raw / "none", "does not exist"),
        (raw / "items.csv", "is a"),
    ):
        done = rectool("inspect", path)
        assert done.code == 2
        assert f"{path} {said}" in done.error
        assert done.stdout == ""
