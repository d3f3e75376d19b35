"""What a newcomer is told: each wrong command line is one line that names what is wrong, and what was meant."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rectool import cli
from rectool.artifacts import manifest

Command = Callable[..., Any]
SHORT = ("--epochs", 1, "--batch-size", 64)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Callable[..., Path]) -> Path:
    """A folder with one artifact of each kind, each under the name of its kind, and things that are none."""
    import torch

    desk = tmp_path_factory.mktemp("desk")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made: list[tuple[object, ...]] = [
        ("prep", "synthetic", "--users", 60, "--items", 60, "--out", "dataset"),
        ("prep", "synthetic", "--users", 60, "--items", 60, "--seed", 1, "--out", "another"),
        ("train-cf", "dataset", "--model", "mf", "--embedding-size", 8, *SHORT, "--out", "cf"),
        ("prep", "backbone", "dataset", "--steps", 1, "--exercises", 20, "--vocabulary", 600, "--out", "backbone"),
        ("tune-lora", "dataset", "--llm", tiny_llm("llama"), "--steps", 1, "--out", "llm"),
        ("distill", "dataset", "--llm", tiny_llm("llama"), "--out", "semantic"),
        ("align", "dataset", "--semantic", "semantic", "--embedding-size", 8, *SHORT, "--out", "aligned"),
        ("eval", "dataset", "cf", "--draws", 0, "--out", "result"),
        ("recommend", "dataset", "cf", "--out", "recommendations"),
        ("compare", "result", "--out", "comparison"),
        ("plot", "curves", "cf", "--out", "figure"),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(desk)
        for words in made:
            patched.setattr(sys, "argv", ["rectool", *map(str, words), "--quiet"])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            assert stopped.value.code == 0, words
    torch.set_num_threads(threads)
    (desk / "projector").symlink_to(desk / "aligned" / "projector")
    (desk / "empty").mkdir()
    (desk / ".stopped.partial").mkdir()
    (desk / "log.csv").write_text("user_id,item_id,timestamp,rating\nann,a,1,5\n")
    return desk


@pytest.fixture
def refused(rectool: Command, desk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Run a command that must be refused: the line it says, once nothing is found to be written."""
    monkeypatch.chdir(desk)
    before = sorted(path for path in desk.rglob("*"))

    def run(*words: object) -> str:
        outcome = rectool(*words)
        assert (outcome.code, outcome.stdout) == (2, ""), (words, outcome)
        assert len(outcome.error) < 600, outcome.error
        return str(outcome.error)

    yield run
    assert sorted(path for path in desk.rglob("*")) == before


# Artifacts in the wrong place

KINDS = (
    *("dataset", "cf", "backbone", "llm", "semantic", "projector", "aligned"),
    *("result", "recommendations", "comparison", "figure"),
)
NEITHER = ("empty", "log.csv", "nowhere", "stopped", ".stopped.partial")
MET_BY = ("train-cf @ --model mf", "tune-lora dataset --llm @", "eval dataset @", "compare @", "plot cosine @")
"""The places that are given what is no artifact: each opens it in a way of its own."""
DATASET = ("dataset", "rectool prep")
RESULT = ("result", "rectool eval")
MODEL = ("cf", "llm", "backbone", "rectool train-cf")
LANGUAGE = ("backbone", "rectool prep backbone")

PLACES: dict[str, tuple[str, ...]] = {
    # the command with @ in the place in question: the kinds that fit, and the command that makes one
    "prep backbone @": DATASET,
    "train-cf @ --model mf": DATASET,
    "train-cf dataset --model mf --init-items @": ("semantic", "cf", "name a semantic or cf artifact"),
    "tune-lora @ --llm LLM": DATASET,
    "tune-lora dataset --llm @": LANGUAGE,
    "distill @ --llm LLM": DATASET,
    "distill dataset --llm @": LANGUAGE,
    "distill dataset --adapter @": ("llm", "rectool tune-lora"),
    "align @ --semantic semantic": DATASET,
    "align dataset --semantic @": ("semantic", "rectool distill"),
    "train-proj @ --llm LLM --cf cf --prompt collm": DATASET,
    "train-proj dataset --llm @ --cf cf --prompt collm": LANGUAGE,
    "train-proj dataset --llm LLM --cf @ --prompt collm": ("cf", "rectool train-cf"),
    "train-proj dataset --llm LLM --aligned @ --prompt collm": ("aligned", "rectool align"),
    "eval @ cf": DATASET,
    "eval dataset @": MODEL,
    "eval dataset --llm @": LANGUAGE,
    "recommend @ cf": DATASET,
    "compare @": RESULT,
    "compare result @": RESULT,
    "compare result --baseline @": RESULT,
    "plot bars @": RESULT,
    "plot radar @": RESULT,
    "plot improvement result --baseline @": RESULT,
    "plot classes @": RESULT,
    "plot sensitivity @": RESULT,
    "plot embeddings @": ("aligned", "rectool align"),
    "plot cosine @ --cf cf --semantic semantic": ("aligned", "rectool align"),
    "plot cosine aligned --cf @ --semantic semantic": ("cf", "rectool train-cf"),
    "plot cosine aligned --cf cf --semantic @": ("semantic", "rectool distill"),
}


@pytest.mark.parametrize("line", PLACES)
def test_an_artifact_of_the_wrong_kind(
    line: str, refused: Callable[..., str], tiny_llm: Callable[..., Path], subtests: pytest.Subtests
) -> None:
    """Each command, each of its places, each kind that does not fit, and what is no artifact at all."""
    *fitting, made_by = PLACES[line]
    for wrong in (*KINDS, *(NEITHER if line.startswith(MET_BY) else ())):
        if wrong in fitting:
            continue
        words = [str(tiny_llm("llama")) if word == "LLM" else wrong if word == "@" else word for word in line.split()]
        with subtests.test(wrong):
            said = refused(*words, "--out", "out")
            assert wrong in said, said
            if wrong in KINDS:
                assert "is a" in said or "holds three artifacts" in said, said
                inside = [f"aligned/{kind}" for kind in fitting]
                assert any(word in said for word in (made_by, "name the model it was made from", *inside)), said
            elif wrong == "log.csv":
                assert "is a file" in said, said
            elif wrong in ("stopped", ".stopped.partial") and "--llm @" not in line:
                assert "is not finished" in said or made_by in said, said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("eval cf dataset", "cf is a cf artifact, but a dataset is needed; .*; dataset is one: were the two swapped"),
        ("recommend cf dataset", "dataset is one: were the two swapped"),
        ("eval dataset result", "result is a result artifact, but a model is needed"),
        ("eval another cf", "cf was made from a dataset whose users .* the one it was made from stood at dataset"),
        ("train-cf log.csv --model mf", "log.csv is a file.*rectool prep table log.csv --out DIR"),
        ("train-cf stopped --model mf", "stopped is not finished; .* --resume"),
        ("train-cf .stopped.partial --model mf", "is not finished; .* --resume"),
        ("plot cosine aligned --cf aligned --semantic semantic", "name the cf in it: aligned/cf"),
        ("prep table dataset", "dataset is a folder"),
        ("prep table nowhere.csv", "nowhere.csv does not exist"),
        ("prep movielens --variant 100k --source log.csv", "log.csv"),
        ("prep movielens --variant 100k --source empty", "empty has no u.data"),
    ],
)
def test_things_in_the_wrong_order(line: str, said: str, refused: Callable[..., str]) -> None:
    assert re.search(said, refused(*line.split(), "--out", "out"))


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("dataset", "dataset exists already; --update keeps it"),
        ("dataset/model", "would lie in the artifact .*dataset; choose an --out beside it"),
        ("cf/deep/down", "would lie in the artifact .*cf; choose an --out beside it"),
        ("log.csv", "log.csv exists and is not a rectool artifact"),
        ("log.csv/model", "log.csv is a file; choose another --out"),
        ("/", "/ exists and is not a rectool artifact"),
        (".", "exists and is not a rectool artifact"),
        ("x" * 300, "File name too long"),
        ("a\x00b", "null"),
    ],
)
def test_an_out_that_cannot_be(out: str, said: str, refused: Callable[..., str]) -> None:
    assert re.search(said, refused("train-cf", "dataset", "--model", "mf", "--out", out))


# Words of the command line

TRAIN = "train-cf dataset --model mf --out out"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian-cf", "rectool has no command trian-cf; did you mean rectool train-cf?"),
        ("train", "did you mean rectool train-cf or rectool train-proj?"),
        ("lora", "did you mean rectool tune-lora?"),
        ("movielens --out out", "rectool has no command movielens; did you mean rectool prep movielens?"),
        ("plot curvs", "rectool plot has no command curvs; did you mean rectool plot curves?"),
        ("plot synthetic", "did you mean rectool prep synthetic?"),
        ("help", "did you mean rectool --help?"),
        ("frobnicate", "rectool has no command frobnicate; see rectool --help"),
        ("--frobnicate", "rectool has no flag --frobnicate; see rectool --help"),
        (f"{TRAIN} --learnig-rate 1", "rectool train-cf has no flag --learnig-rate; did you mean --learning-rate?"),
        (f"{TRAIN} --learning_rate 1", "did you mean --learning-rate?"),
        (f"{TRAIN} --lr 1", "did you mean --learning-rate?"),
        (f"{TRAIN} --epoch 1", "did you mean --epochs?"),
        (f"{TRAIN} --semantic x", "has no flag --semantic, which is one of rectool tune-lora, rectool align"),
        (f"{TRAIN} -o x", "has no flag -o; did you mean --out or"),
        ("train-cf -data --model mf --out out", "a path that starts with - is written ./-d"),
        (
            "eval --data dataset --out out",
            "has no flag --data: its value stands alone: rectool eval DATA [MODEL]",
        ),
        ("train-cf dataset --model mf", "--out DIR is missing (folder of the new artifact); see rectool train-cf --h"),
        (
            "train-cf --model mf --out out",
            "DATA is missing (the data set, made by rectool prep): rectool train-cf",
        ),
        ("prep movielens --out out", "--variant is missing (the release): 100k, 1m, 10m"),
        ("align dataset --out out", "--semantic DIR is missing"),
        ("train-cf my data --model mf --out out", "data is too much: it is rectool train-cf DATA [FLAGS]; a name with"),
        (f"{TRAIN} --epochs", "--epochs"),
        (f"{TRAIN} --quiet=3", "--quiet"),
        (f"{TRAIN} --task next_item", "--task next_item is none of ctr, next-item; did you mean next-item?"),
        (f"{TRAIN} --schedule cosin", "--schedule cosin is none of constant, cosine, linear; did you mean cosine?"),
        ("train-cf dataset --model sasrce --out out", "--model sasrce is none of popularity, bias, mf"),
        ("prep movielens --variant 1M --out out", "did you mean 1m?"),
        (f"{TRAIN} --overwrite --update", "--overwrite and --update contradict each other; give one"),
        (f"{TRAIN} --resume", "--resume: out has no checkpoint to continue from; start it without --resume"),
        (f"{TRAIN} --resume --update", "--resume and --update contradict each other"),
        (f"{TRAIN} --heads 2", "--heads means nothing to --model mf, which has"),
        (f"{TRAIN} --loss bpr", "bpr"),
        ("eval dataset cf --k 5 --out out", "--k is for --task next-item, but this is --task ctr"),
        ("eval dataset cf --llm x --out out", "--llm: cf is a collaborative model"),
        ("eval dataset --out out", "name a model"),
        ("tune-lora dataset --llm LLM --head item --out out", "--head item is for --task next-item"),
        ("tune-lora dataset --llm LLM --prompt collm-txt --out out", "collm-text"),
        ("inspect dataset --row 3", "--prompt is missing"),
        ("inspect nowhere", "nowhere does not exist"),
        ("adopt empty --kind semantc --data dataset", "there is no artifact kind 'semantc'; the kinds are"),
    ],
)
def test_words_that_are_wrong(line: str, said: str, refused: Callable[..., str], tiny_llm: Callable[..., Path]) -> None:
    words = [str(tiny_llm("llama")) if word == "LLM" else word for word in line.split()]
    assert said in refused(*words)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("epochs", "many", "--epochs many is not a whole number, such as 10"),
        ("epochs", "1.5", "--epochs 1.5 is not a whole number"),
        ("epochs", "-1", "--epochs -1 must be at least 1"),
        ("learning-rate", "0,1", "--learning-rate 0,1 is not a number, such as 0.5"),
        ("learning-rate", "nan", "--learning-rate nan must be a number, at least 0"),
        ("learning-rate", "1e400", "--learning-rate inf must be a number, at least 0"),
        ("learning-rate", "-1", "--learning-rate -1.0 must be at least 0"),
        ("embedding-size", "0", "--embedding-size 0 must be at least 1"),
        ("dropout", "2", "--dropout 2.0 must be from 0 to below 1"),
        ("seed", "-1", "--seed must not be negative"),
        ("seed", "9" * 30, "--seed 999999999999999999999999999999 must be below 4294967296"),
        ("keep", "0", "--keep 0 must be at least 1"),
        ("checkpoint-minutes", "nan", "--checkpoint-minutes nan must be more than 0"),
        ("max-time", "8", "--max-time 8 is not a time such as 8h30m"),
        ("device", "gpu", "--device gpu: rectool computes on cpu and cuda"),
    ],
)
def test_values_that_are_none(flag: str, value: str, said: str, refused: Callable[..., str]) -> None:
    assert said in refused(*TRAIN.split(), f"--{flag}", value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = [1,", "run.toml is not TOML"),
        ("epoch = 3", "run.toml: rectool train-cf has no setting epoch; did you mean epochs?"),
        ('epochs = "many"', "run.toml: --epochs many is not a whole number"),
        ("epochs = true", "run.toml: --epochs True is not a whole number"),
        ("epochs = [1, 2]", "run.toml: --epochs [1, 2] is not a whole number"),
        ("epochs = 2020-01-01", "run.toml: --epochs 2020-01-01 is not a whole number"),
        ("quiet = 3", "run.toml: --quiet"),
        ('schedule = "cosin"', "run.toml: --schedule cosin is none of constant, cosine, linear; did you mean cosine?"),
        ("[training]\nepochs = 3", "run.toml: training is a table; write all settings at the top level"),
        ("[model]\nname = 3", "run.toml: model is a table"),
    ],
)
def test_settings_files(text: str, said: str, refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert said in refused(*TRAIN.split(), "--settings", path)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a\nb", "a b does not exist"),
        ("a b 😀", "a b 😀 does not exist"),
        ("a\x1b[2Jb", "a?[2Jb does not exist"),
        ("a\u202eb", "a?b does not exist"),
        ("x" * 300, "File name too long"),
    ],
)
def test_odd_paths(path: str, shown: str, refused: Callable[..., str]) -> None:
    assert shown in refused("inspect", path)


def test_the_home_folder(refused: Callable[..., str], rectool: Command, desk: Path, tmp_path: Path) -> None:
    """Shells leave `~` as it is after `--out=`: it must not become a folder of that name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(tmp_path))
        assert f"{tmp_path}/nowhere does not exist" in refused("inspect", "~/nowhere")
        done = rectool("train-cf", "dataset", "--model", "bias", "--out=~/bias", "--quiet")
    assert done.code == 0
    assert manifest.read(tmp_path / "bias").kind == "cf"


def test_paths_that_are_odd_but_good(rectool: Command, desk: Path, tmp_path: Path) -> None:
    for name in ("with space", "😀", "-dash", "line\nbreak"):
        done = rectool("train-cf", desk / "dataset", "--model", "bias", "--quiet", "--out", tmp_path / name)
        assert done.code == 0, done.stderr
        assert rectool("inspect", tmp_path / name, "--json").json["kind"] == "cf"


def test_refusals_are_quick(refused: Callable[..., str]) -> None:
    """No model is loaded to find that a flag or a place is wrong."""
    refused("train-cf", "cf", "--model", "mf", "--out", "out")  # libraries are imported once
    before = os.times()
    for line in ("eval cf dataset", "tune-lora cf --llm backbone", "train-proj dataset --llm backbone --cf llm"):
        refused(*line.split(), "--out", "out")
    spent = os.times()
    assert spent.user + spent.system - before.user - before.system < 3
