"""How every command that makes an artifact behaves, whatever it makes: run for real through `rectool prep`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from rectool.artifacts import open_artifact

Command = Callable[..., Any]


@pytest.fixture
def prep(raw: Path, rectool: Command) -> Command:
    """Run `rectool prep table` on the raw files, into `data`."""
    return lambda *more: rectool(
        "prep", "table", raw / "ratings.csv", "--items", raw / "items.csv", "--out", raw.parent / "data", *more
    )


@pytest.fixture
def data(raw: Path, prep: Command) -> Path:
    assert prep("--quiet").code == 0
    return raw.parent / "data"


# What stands there


def test_an_artifact_that_exists_is_refused(data: Path, prep: Command, state: Command) -> None:
    before = state(data.parent)
    for flags in ([], ["--dry-run"]):
        done = prep(*flags)
        assert done.code == 2
        assert done.error == (
            f"{data} exists already; --update keeps it if nothing changed, --overwrite replaces it, "
            "or choose another --out"
        )
    assert state(data.parent) == before


def test_overwrite_replaces_it(data: Path, prep: Command) -> None:
    (data / "left.txt").write_text("of the old one")
    assert prep("--overwrite", "--like-at-least", 3).code == 0
    assert open_artifact(data, verify=True).manifest.settings["like_at_least"] == 3
    assert sorted(os.listdir(data)) == ["interactions.parquet", "items.parquet", "rectool.json", "users.parquet"]
    assert sorted(os.listdir(data.parent)) == ["data", "raw"]


def test_overwrite_mends_what_is_damaged(data: Path, prep: Command) -> None:
    (data / "rectool.json").write_text("{")
    assert prep("--overwrite").code == 0
    assert open_artifact(data, verify=True).manifest.kind == "dataset"


def test_overwrite_and_update_contradict_each_other(data: Path, prep: Command, state: Command) -> None:
    before = state(data.parent)
    done = prep("--overwrite", "--update")
    assert done.code == 2
    assert done.error == "--overwrite and --update contradict each other; give one"
    assert state(data.parent) == before


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--update"], ["--dry-run"]])
def test_what_is_no_artifact_is_never_touched(flags: list[str], raw: Path, rectool: Command, state: Command) -> None:
    foreign, file = raw.parent / "foreign", raw.parent / "file"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    file.write_text("more of it")
    before = state(raw.parent)
    for out in (foreign, file):
        done = rectool("prep", "table", raw / "ratings.csv", "--out", out, *flags)
        assert done.code == 2
        assert done.error == f"{out} exists and is not a rectool artifact; choose another --out"
    below = rectool("prep", "table", raw / "ratings.csv", "--out", file / "x", *flags)
    assert below.code == 2
    assert below.error == f"{file / 'x'} cannot be a folder: {file} is a file; choose another --out"
    assert state(raw.parent) == before


def test_an_input_that_would_be_replaced_is_refused(data: Path, rectool: Command, state: Command) -> None:
    before = state(data)
    for flags in (["--overwrite"], ["--update"], ["--overwrite", "--dry-run"]):
        done = rectool("prep", "table", data / "interactions.parquet", "--user-column", "user", "--item-column", "item",
                       "--out", data, *flags)  # fmt: skip
        assert done.code == 2
        assert done.error == (
            f"{data / 'interactions.parquet'} lies in {data}, which is to be replaced; choose another --out"
        )
    assert state(data) == before


def test_an_empty_folder_and_a_new_one_in_a_new_one_are_taken(raw: Path, rectool: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "not/yet/there"):
        assert rectool("prep", "table", raw / "ratings.csv", "--out", out).code == 0
        assert open_artifact(out).manifest.kind == "dataset"


def test_a_link_stays_a_link(raw: Path, rectool: Command, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk/data")
    for seed in (1, 2):
        command = ["prep", "table", raw / "ratings.csv", "--out", tmp_path / "link", "--seed", seed, "--overwrite"]
        assert rectool(*command).code == 0
        assert (tmp_path / "link").is_symlink()
        assert open_artifact(tmp_path / "disk/data").manifest.seed == seed
    assert os.listdir(tmp_path / "disk") == ["data"]


# Updating


def test_update_keeps_what_nothing_has_changed_for(data: Path, prep: Command, state: Command) -> None:
    before = state(data)
    done = prep("--update", "--json")
    assert done.code == 0
    assert f"{data} is up to date\n" in done.stderr
    assert done.json["skipped"] is True
    assert done.json["digest"] == open_artifact(data).manifest.digests["artifact"]
    assert state(data) == before


def test_update_keeps_it_where_only_the_way_changed(data: Path, prep: Command, state: Command) -> None:
    before = state(data)
    done = prep("--update", "--threads", 1, "--memory-limit", "1GB")
    assert "is up to date" in done.stderr
    assert state(data) == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--like-at-least", 3], "like_at_least was 4.0, is 3.0"),
        (["--k-core", 2], "k_core was 1, is 2"),
        (["--split", "leave-one-out"], "split was ratio:8,1,1, is leave-one-out"),
        (["--from", "1970"], "from was None, is 1970"),
        (["--seed", 1], "seed was 0, is 1"),
    ],
)
def test_update_makes_it_again_where_a_setting_changed(
    flags: list[Any], said: str, data: Path, prep: Command, state: Command
) -> None:
    before = state(data)
    done = prep("--update", *flags, "--json")
    assert done.code == 0
    assert f"{data} is made again: {said}\n" in done.stderr
    assert done.json["skipped"] is False
    assert state(data)[str(data / "rectool.json")] != before[str(data / "rectool.json")]
    assert "is up to date" in prep("--update", *flags).stderr


def test_update_makes_it_again_where_a_raw_file_changed(data: Path, raw: Path, prep: Command) -> None:
    text = (raw / "items.csv").read_text()
    (raw / "items.csv").write_text(text.replace("Heat", "Cold"))  # of the same size
    done = prep("--update")
    assert f"{data} is made again: items is another one" in done.stderr
    assert open_artifact(data, verify=True).manifest.counts["items"] == 3
    assert "is up to date" in prep("--update").stderr


def test_update_makes_it_again_where_a_raw_file_is_new_or_gone(data: Path, raw: Path, rectool: Command) -> None:
    done = rectool("prep", "table", raw / "ratings.csv", "--out", data, "--update")
    assert "is made again: items is another one" in done.stderr
    assert [parent.role for parent in open_artifact(data).manifest.parents] == ["interactions"]


def test_update_keeps_it_where_a_raw_file_was_only_touched_or_moved(
    data: Path, raw: Path, rectool: Command, state: Command
) -> None:
    before = state(data)
    os.utime(raw / "ratings.csv", ns=(1, 1))
    (raw / "items.csv").rename(raw / "moved.csv")
    done = rectool("prep", "table", raw / "ratings.csv", "--items", raw / "moved.csv", "--out", data, "--update")
    assert "is up to date" in done.stderr
    assert state(data) == before


def test_update_says_what_is_damaged(data: Path, prep: Command) -> None:
    with (data / "items.parquet").open("ab") as file:
        file.write(b"0")
    done = prep("--update")
    assert done.code == 2
    assert f"{data / 'items.parquet'} has" in done.error


def test_update_makes_what_is_not_there(raw: Path, prep: Command) -> None:
    assert prep("--update").code == 0
    assert open_artifact(raw.parent / "data").manifest.kind == "dataset"
    assert "--update" not in open_artifact(raw.parent / "data").manifest.command


# Only saying what would be done


@pytest.mark.parametrize("source", ["movielens", "downloaded", "amazon", "category", "table", "synthetic"])
def test_a_dry_run_writes_nothing(source: str, raw: Path, rectool: Command, state: Command) -> None:
    (raw / "u.data").write_text("1\t1\t5\t10\n")
    (raw / "u.item").write_text("1|Alien|01-Jan-1979||\n")
    (raw / "reviews.json").write_text('{"reviewerID": "u", "asin": "a", "overall": 5, "unixReviewTime": 10}\n')
    (raw / "meta.json").write_text('{"asin": "a", "title": "Alien"}\n')
    arguments, reads = {
        "movielens": (["movielens", "--variant", "100k", "--source", raw], str(raw / "u.data")),
        "downloaded": (["movielens", "--variant", "latest-small"], "ml-latest-small.zip (to be downloaded)"),
        "amazon": (
            ["amazon", "--reviews", raw / "reviews.json", "--metadata", raw / "meta.json"],
            str(raw / "meta.json"),
        ),
        "category": (["amazon", "--category", "Video_Games"], "reviews_Video_Games_5.json.gz"),
        "table": (["table", raw / "ratings.csv"], str(raw / "ratings.csv")),
        "synthetic": (["synthetic"], "nothing"),
    }[source]
    out = raw.parent / "new/data"
    before = state(raw.parent)

    done = rectool("prep", *arguments, "--out", out, "--dry-run")
    assert done.code == 0, done.stderr
    assert any(line.startswith("would read ") and reads in line for line in done.stdout.splitlines())
    assert f"would write  {out} (dataset, about " in done.stdout
    machine = rectool("prep", *arguments, "--out", out, "--dry-run", "--json").json
    assert machine["dry_run"] is True
    assert machine["artifact"] == str(out)
    assert any(reads in name for name in machine["reads"])
    assert machine["memory_bytes"] > 0
    assert state(raw.parent) == before


def test_a_dry_run_over_what_is_there_changes_nothing(data: Path, prep: Command, state: Command) -> None:
    before = state(data.parent)
    for flag in ("--overwrite", "--update"):
        assert prep("--dry-run", flag).code == 0
    assert state(data.parent) == before


def test_a_dry_run_checks_the_input(raw: Path, rectool: Command) -> None:
    done = rectool("prep", "table", raw / "none.csv", "--out", raw.parent / "data", "--dry-run")
    assert done.code == 2
    assert done.error == f"{raw / 'none.csv'} does not exist"


def test_a_parent_that_is_not_read_is_refused(
    raw: Path, prep: Command, data: Path, rectool: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rectool.data.sources.movielens import Source

    monkeypatch.setattr(Source, "inputs", lambda _: pytest.fail("is downloaded"))
    given = ("--parent", f"moon={data}", "--out", raw.parent / "new")
    for words, those, real in (
        (("prep", "table", raw / "ratings.csv"), "it reads none at all", True),
        (("prep", "movielens", "--variant", "latest-small"), "it reads none at all", False),
        (("train-cf", data, "--model", "popularity"), "those that it reads are: dataset", True),
    ):
        command = " ".join(map(str, words[: 2 if words[0] == "prep" else 1]))
        for more in ([], ["--dry-run"]) if real else (["--dry-run"],):
            done = rectool(*words, *given, *more)
            said = f"--parent moon: rectool {command} reads no artifact in this role; {those}"
            assert (done.code, done.error) == (2, said)
    assert not (raw.parent / "new").exists()


# Settings from a file


@pytest.fixture
def settings(raw: Path) -> Path:
    path = raw.parent / "run.toml"
    path.write_text('like_at_least = 3\n"k-core" = 2\nsplit = "leave-one-out"\nseed = 5\nfrom = 1970-01-01\n')
    return path


def test_settings_stand_in_for_flags(raw: Path, prep: Command, settings: Path) -> None:
    assert prep("--settings", settings, "--seed", 6, "--like-at-least", 2).code == 0
    made = open_artifact(raw.parent / "data").manifest
    assert made.seed == 6
    expected = {"like_at_least": 2.0, "k_core": 2, "split": "leave-one-out", "from": "1970-01-01"}
    assert {name: made.settings[name] for name in expected} == expected


def test_the_recorded_command_needs_no_settings(
    raw: Path, prep: Command, rectool: Command, settings: Path, state: Command
) -> None:
    assert prep("--settings", settings).code == 0
    made = open_artifact(raw.parent / "data").manifest
    settings.unlink()
    assert "--settings" not in made.command
    before = state(raw.parent / "data")
    assert "is up to date" in rectool(*made.command[1:], "--update").stderr
    assert state(raw.parent / "data") == before
    assert rectool(*made.command[1:], "--overwrite").code == 0
    again = open_artifact(raw.parent / "data").manifest
    assert (again.command, again.settings, again.digests) == (made.command, made.settings, made.digests)


def test_all_can_stand_in_settings(raw: Path, rectool: Command, settings: Path) -> None:
    settings.write_text(
        f"interactions = {json.dumps(str(raw / 'ratings.csv'))}\nout = {json.dumps(str(raw.parent / 'data'))}\n"
        "quiet = true\n"
    )
    done = rectool("prep", "table", "--settings", settings)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert open_artifact(raw.parent / "data").manifest.kind == "dataset"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("k_cores = 2", "rectool prep table has no setting k_cores; did you mean k_core?"),
        ("settings = 'x'", "rectool prep table has no setting settings"),
        ("help = true", "rectool prep table has no setting help"),
        ("[k_core]\nx = 1", "k_core is a table; write all settings at the top level"),
        ("k_core = ", "is not TOML"),
        ("k_core = 2\nk_core = 3", "is not TOML"),
        ("k_core = 'many'", "--k-core many is not a whole number"),
        ("k_core = 0", "--k-core 0 must be at least 1"),
        ("quiet = 'perhaps'", "--quiet is on or off: true or false"),
        ("k_core = [2]", "--k-core [2] is not a whole number"),
        ("timestamp_unit = 'h'", "--timestamp-unit h is none of s, ms"),
    ],
)
def test_settings_that_are_wrong_are_one_line(text: str, said: str, raw: Path, prep: Command, settings: Path) -> None:
    settings.write_text(text)
    done = prep("--settings", settings)
    assert done.code == 2
    assert said in done.error
    assert not (raw.parent / "data").exists()


def test_settings_that_cannot_be_read_are_one_line(raw: Path, prep: Command, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\0")
    for path, said in (
        ("none.toml", "cannot be read: No such file"),
        (".", "is not a file of settings"),
        ("binary", "is not TOML"),
    ):
        done = prep("--settings", tmp_path / path)
        assert done.code == 2
        assert f"--settings {tmp_path / path} {said}" in done.error
    assert not (raw.parent / "data").exists()


# Speaking


def test_quiet_says_nothing(raw: Path, prep: Command) -> None:
    done = prep("--quiet")
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    refused = prep("--quiet")
    assert (refused.code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_json_prints_one_object(raw: Path, prep: Command) -> None:
    done = prep("--json")
    assert done.code == 0
    assert done.stdout.count("\n") == 1
    made = open_artifact(raw.parent / "data").manifest
    assert done.json == {
        "artifact": str(raw.parent / "data"),
        "kind": "dataset",
        "skipped": False,
        "digest": made.digests["artifact"],
        "counts": made.counts,
        "metrics": made.metrics,
        "wall_seconds": made.run["wall_seconds"],
    }
    assert "train" in done.stderr  # the tables are for people
    silent = prep("--json", "--quiet", "--update")
    assert silent.json["skipped"] is True
    assert silent.stderr == ""


def test_without_json_the_answer_is_on_stdout_and_the_progress_is_not(raw: Path, prep: Command) -> None:
    done = prep()
    assert "interactions" in done.stdout
    assert "reading: 8 rows" in done.stderr
    assert "reading" not in done.stdout


def test_names_that_look_like_markup_are_shown_as_they_are(raw: Path, rectool: Command) -> None:
    out = raw.parent / "[bold]x[/bold] :smile:"
    done = rectool("prep", "table", raw / "ratings.csv", "--out", out, "--dry-run")
    assert f"would write  {out} (" in done.stdout
    assert rectool("prep", "table", raw / "ratings.csv", "--out", out).code == 0
    assert str(out) in rectool("inspect", out).stdout


# Being stopped


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of two million rows."""
    rows = 2_000_000
    choose = np.random.default_rng(0)
    table = pa.table(
        {
            "user_id": choose.integers(0, 50_000, rows),
            "item_id": choose.integers(0, 5_000, rows),
            "timestamp": choose.integers(10**9, 2 * 10**9, rows),
            "rating": choose.integers(1, 6, rows),
        }
    )
    path = tmp_path_factory.mktemp("large") / "ratings.csv"
    pyarrow.csv.write_csv(table, path)
    return path


@pytest.fixture
def stop(data: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """Run a command that replaces `data`, and send it a signal once a file of the new one is there."""
    processes = []

    def run(source: list[Any], once: str, number: signal.Signals) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rectool", "prep", *map(str, source), "--out", data, "--overwrite", "--quiet"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        processes.append(process)
        while process.poll() is None and not (data.parent / ".data.partial" / once).exists():
            time.sleep(0.005)
        process.send_signal(number)
        shown, said = process.communicate(timeout=60)
        assert shown == ""
        return process.returncode, said

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("once", [".scratch/prepare.duckdb", "interactions.parquet", "items.parquet"])
def test_a_signal_leaves_the_old_one(
    once: str, number: signal.Signals, stop: Command, large: Path, data: Path, state: Command
) -> None:
    before = state(data)
    code, said = stop(["table", large], once, number)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert code == (130 if number == signal.SIGINT else 143)
    assert said == f"error: {word}; no artifact was written\n"
    assert state(data) == before
    assert sorted(os.listdir(data.parent)) == ["data", "raw"]
    open_artifact(data, verify=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_generator(number: signal.Signals, stop: Command, data: Path, state: Command) -> None:
    before = state(data)
    code, said = stop(["synthetic", "--users", 60_000], ".scratch/prepare.duckdb", number)
    assert code == (130 if number == signal.SIGINT else 143)
    assert said.count("\n") == 1
    assert state(data) == before
    assert sorted(os.listdir(data.parent)) == ["data", "raw"]
