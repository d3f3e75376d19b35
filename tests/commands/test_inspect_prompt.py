"""`rectool inspect DATA --prompt NAME --row N --llm PATH`: what a prompt is, to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

Command = Callable[..., Any]

LOG = """user_id,item_id,timestamp,label,split
u,a,1,1,train
u,b,2,0,train
v,a,3,1,train
u,c,4,1,train
u,d,5,1,test
"""
ITEMS = 'item_id,title,text\na,Alien (1979),In space\nb,"Heat, Story",\nc,日本 {target} </s>,\nd,"The ""Matrix""",Wow\n'


@pytest.fixture
def data(tmp_path: Path, rectool: Command) -> Path:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text(ITEMS)
    done = rectool("prep", "table", tmp_path / "log.csv", "--items", tmp_path / "items.csv", "--out", tmp_path / "data")
    assert done.code == 0, done.stderr
    return tmp_path / "data"


def test_a_prompt_for_people(data: Path, rectool: Command, tiny_llm: Callable[..., Path]) -> None:
    done = rectool("inspect", data, "--prompt", "tallrec", "--row", 3, "--llm", tiny_llm(), "--noun", "movies")
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert said[:6] == [
        "prompt tallrec of row 3: split test, user 0, item 3, label 1",
        "history, oldest first",
        "  liked  item 0: Alien (1979)",
        "  not liked  item 1: Heat, Story",
        "  liked  item 2: 日本 {target} </s>",
        "",
    ]
    assert 'User Preference: "Alien (1979)", "日本 {target} </s>"' in said
    assert 'Whether the user will like the target item "The "Matrix""?' in said
    assert all(len(line) <= 100 for line in said)
    (counted,) = [line for line in said if " tokens of at most " in line]
    assert counted.endswith(f" tokens of at most 1,024, by {tiny_llm()}")
    tokens = said[said.index(counted) + 1 :]
    assert tokens[0].split() == ["0", "special", "<s>:0"]
    labels = [line[7:19].strip() for line in tokens[:-1]]
    assert [label for label in labels if label not in ("", "text")] == [
        *("special", "history", "history 1", "history", "history 2", "history"),
        *("disliked", "disliked 1", "disliked", "target"),
    ]
    (line,) = [line for line in tokens if "disliked 1" in line]
    assert [word.split(":")[0] for word in line[21:].split()] == ["Heat", ",", "▁Story"]
    assert tokens[-1].startswith("answers: 'Yes' is token ")


def test_a_prompt_as_json(data: Path, rectool: Command, tiny_llm: Callable[..., Path]) -> None:
    asked = ("inspect", data, "--prompt", "collm", "--row", 3, "--llm", tiny_llm(), "--history", 1, "--json", "--quiet")
    done = rectool(*asked, "--tokens", "user,item")
    assert done.code == 0, done.stderr
    value = done.json
    assert (value["prompt"], value["task"], value["row"], value["split"]) == ("collm", "ctr", 3, "test")
    assert (value["user"], value["item"], value["label"], value["left_out"]) == (0, 3, 1, 0)
    assert value["history"] == [{"item": 2, "title": "日本 {target} </s>", "liked": True}]
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm())
    ids = [token["id"] for token in value["tokens"]]
    assert value["text"].startswith("<s>#Question: A user has given high ratings to the following items: ")
    assert tokenizer.decode([id for id in ids if id >= 0]) == value["text"].replace("{user}", "").replace("{item}", "")
    assert [token["part"] for token in value["tokens"] if token["id"] < 0] == ["user", "item"]
    title = [token for token in value["tokens"] if token["item"] == 2]
    assert {(token["part"], token["nth"]) for token in title} == {("history", 1)}
    assert tokenizer.decode([token["id"] for token in title]) == "日本 {target} </s>"
    assert [tokenizer.decode([id]) for id in value["answers"]["ids"]] == [" Yes", " No"]


def test_places_of_embeddings(data: Path, rectool: Command, tiny_llm: Callable[..., Path]) -> None:
    asked = ("inspect", data, "--prompt", "llara-ctr", "--row", 3, "--llm", tiny_llm())
    shown = rectool(*asked, "--tokens", "user, history", "--tokens-per-id", 2)
    assert shown.code == 0, shown.stderr
    said = shown.stdout.splitlines()
    (text,) = [line for line in said if line.startswith("<s>This")]
    assert text.startswith(
        '<s>This user {user}{user} has interacted with "Alien (1979)" {history}{history}, "日本 {target} </s>" '
    )
    assert any(line.split()[1:] == ["user", "{user}:-1", "{user}:-1"] for line in said)
    places = [line.split()[1:] for line in said if "{history}:-4" in line]
    assert places == [["history", str(nth), "{history}:-4", "{history}:-4"] for nth in (1, 2)]
    tokens = rectool(*asked, "--tokens", "history", "--json", "--quiet").json["tokens"]
    told = [(token["part"], token["item"], token["nth"]) for token in tokens if token["id"] < 0]
    assert told == [("history", 0, 1), ("history", 2, 2)]
    assert {token["part"] for token in tokens if token["item"] == 2} == {"history"}
    alone = rectool(*asked, "--json", "--quiet").json
    assert all(token["id"] >= 0 for token in alone["tokens"])
    assert '<s>This user has interacted with "Alien (1979)", "日本 {target} </s>" in the' in alone["text"]


def test_what_did_not_fit_is_said(data: Path, rectool: Command, tiny_llm: Callable[..., Path]) -> None:
    asked = ("inspect", data, "--prompt", "collm-text", "--row", 3, "--llm", tiny_llm(), "--json", "--quiet")
    whole = len(rectool(*asked).json["tokens"])
    less = rectool(*asked, "--max-tokens", whole - 1)
    assert less.json["left_out"] == 1
    assert [told["item"] for told in less.json["history"]] == [2]
    assert len(less.json["tokens"]) < whole
    said = rectool(*asked[:-2], "--max-tokens", whole - 1).stdout
    assert "history, oldest first (1 older left out: too long)" in said
    assert f"tokens of at most {whole - 1}," in said


def test_a_chat_and_an_item(data: Path, rectool: Command, tiny_llm: Callable[..., Path]) -> None:
    llm = tiny_llm(chat=True)
    asked = ("inspect", data, "--prompt", "item-description", "--row", 1, "--llm", llm)
    said = rectool(*asked)
    assert said.code == 0, said.stderr
    assert said.stdout.splitlines()[0] == "prompt item-description of row 1: item 1"
    assert "<s>user\nHere is one of the items that users may like. Title: Heat, Story." in said.stdout
    assert "answers" not in said.stdout
    parts = [token["part"] for token in rectool(*asked, "--json", "--quiet").json["tokens"]]
    assert (parts.count("special"), parts[0], parts[-1]) == (3, "special", "text")
    plain = rectool(*asked, "--chat-template", "off", "--json", "--quiet").json
    assert [token["part"] for token in plain["tokens"]].count("special") == 1


def test_a_prompt_of_ones_own_is_checked_at_once(
    data: Path, rectool: Command, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text('+++\ntask = "ctr"\nanswers = ["Nevermore", "No"]\n+++\nHow is {target}?\n')
    asked = ("inspect", data, "--prompt", mine, "--row", 0, "--llm", tiny_llm())
    assert "the answer 'Nevermore' is 7 tokens" in rectool(*asked).error
    mine.write_text('+++\ntask = "ctr"\n+++\nHow is {titel}?\n')
    assert rectool(*asked).error.startswith(
        f"{mine}, line 4: there is no slot {{titel}} here; the slots are {{history}}"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "collm-text", "--row", "0"], "--llm is missing"),
        (["--prompt", "collm-text"], "--row is missing"),
        (["--row", "0", "--llm", "x"], "--prompt is missing"),
        (["--prompt", "collm-text", "--row", "5", "--llm", "x"], "interactions.parquet, which has 5, from 0"),
        (["--prompt", "collm-text", "--row", "-1", "--llm", "x"], "--row -1 is not a row of"),
        (["--prompt", "item-title", "--row", "4", "--llm", "x"], "items.parquet, which has 4, from 0"),
        (["--prompt", "none", "--row", "0", "--llm", "x"], "--prompt none is neither a file nor a prompt"),
        (["--prompt", "collm-text", "--row", "0", "--llm", "x", "--verify"], "leave --verify and --script out"),
        (
            ["--prompt", "collm-text", "--row", "0", "--llm", "nowhere"],
            "there is no folder nowhere, and the hub cannot be asked",
        ),
        (["--prompt", "collm", "--row", "0", "--llm", "x", "--tokens-per-id", "0"], "--tokens-per-id 0 must be at"),
        (["--prompt", "collm-text", "--row", "0", "--llm", "x", "--history", "-1"], "--history -1 must be at least 0"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], said: str, data: Path, rectool: Command) -> None:
    done = rectool("inspect", data, *arguments)
    assert done.code == 2
    assert said in done.error
    assert done.stdout == ""


def test_only_data_has_prompts(rectool: Command, tiny_llm: Callable[..., Path]) -> None:
    done = rectool("inspect", tiny_llm(), "--prompt", "collm-text", "--row", 0, "--llm", tiny_llm())
    assert "is not a rectool artifact" in done.error
