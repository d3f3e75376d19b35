"""`rectool recommend`: equal to scoring every item one by one and sorting, for known users and new ones."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from rectool.artifacts import open_artifact
from rectool.artifacts.shards import Work
from rectool.data.dataset import Dataset
from rectool.evaluation import recommend
from rectool.evaluation.language import LanguageScorer
from rectool.evaluation.recommend import Audience, Recommending
from rectool.evaluation.recommend_settings import Asked
from rectool.evaluation.scorer import CollaborativeScorer
from rectool.llm import backbone, soft_parts
from rectool.llm.recommender import Recommender, assemble
from rectool.models import saved
from rectool.models.model import Sequences
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting

Command = Callable[..., Any]
Lists = dict[Any, list[tuple[int, float]]]


@pytest.fixture
def trained(rectool: Command, data: Path, shelf: Path) -> Callable[[str], Path]:
    """A model that has been trained a little."""

    def train(name: str) -> Path:
        out = shelf / name
        if not out.exists():
            done = rectool("train-cf", data, "--model", name, "--epochs", 1, "--quiet", "--out", out)
            assert done.code == 0, done.stderr
        return out

    return train


@pytest.fixture
def dataset(data: Path) -> Dataset:
    return Dataset(open_artifact(data))


def read(out: Path) -> Lists:
    """Items and scores of each user, best first, by raw id, or by number for new ones."""
    lists: Lists = {}
    for row in pq.read_table(out / "recommendations.parquet").to_pylist():
        assert (row["user"] is None) == (row["user_id"] is None) == (row["new_user"] is not None)
        found = lists.setdefault(row["new_user"] if row["user_id"] is None else row["user_id"], [])
        found.append((row["item"], row["score"]))
        assert row["rank"] == len(found)
    return lists


def sorted_naively(scores: NDArray[Any], met: Sequence[int], k: int) -> list[tuple[int, float]]:
    items = [item for item in range(len(scores)) if item not in met]
    return [(item, float(scores[item])) for item in sorted(items, key=lambda item: (-scores[item], item))[:k]]


def same(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    assert [item for item, _ in found] == [item for item, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-5)


@torch.no_grad()
def scores_of_all(model: Path, user: int, liked: Sequence[int], everything: Sequence[int], items: int) -> NDArray[Any]:
    """A collaborative model's scores (I,), item by item, from a whole history."""
    found = saved.load(open_artifact(model))
    history: Sequence[int] = []
    if found.history is not None:
        history = (liked if found.history.liked_only else everything)[-found.history.length :]
    sequences = Sequences(torch.tensor([history], dtype=torch.int64), torch.tensor([len(history)]))
    each = [found.model.score(torch.tensor([user]), torch.tensor([item]), sequences) for item in range(items)]
    return torch.cat(each).numpy()


@pytest.mark.parametrize("name", ["popularity", "mf", "ncf", "sasrec", "din", "markov"])
@pytest.mark.parametrize("exclude", ["history", "none"])
def test_collaborative_models_rank_the_catalogue(
    rectool: Command, data: Path, dataset: Dataset, trained: Any, tmp_path: Path, name: str, exclude: str
) -> None:
    out, ids = tmp_path / "out", dataset.user_ids().to_pylist()
    done = rectool("recommend", data, trained(name), "--k", 7, "--exclude", exclude, "--out", out)
    assert done.code == 0, done.stderr
    found = read(out)
    assert list(found) == ids
    for user in (0, 1, 17, len(ids) - 1):
        rows = np.flatnonzero(dataset.user == user)
        met = dataset.item[rows].tolist()
        liked = dataset.item[rows[dataset.label[rows] == 1]].tolist()
        scores = scores_of_all(trained(name), user, liked, met, dataset.items)
        same(found[ids[user]], sorted_naively(scores, met if exclude == "history" else [], 7))
    table = pq.read_table(out / "recommendations.parquet")
    assert table["title"].to_pylist() == dataset.titles().take(table["item"].combine_chunks()).to_pylist()
    assert table["item_id"].to_pylist() == dataset.item_ids().take(table["item"].combine_chunks()).to_pylist()
    made = open_artifact(out, "recommendations", verify=True).manifest
    assert (made.metrics["users"], made.metrics["k"], made.counts["recommendations"]) == (len(ids), 7, table.num_rows)


def test_ties_go_to_the_lower_number(
    rectool: Command, data: Path, dataset: Dataset, trained: Any, tmp_path: Path
) -> None:
    assert rectool("recommend", data, trained("popularity"), "--k", 60, "--out", tmp_path / "out").code == 0
    ties = 0
    for user, found in enumerate(read(tmp_path / "out").values()):
        assert len(found) == 60 - len(set(dataset.item[dataset.user == user].tolist()))
        for (item, score), (after, less) in pairwise(found):
            assert score >= less
            assert item < after or score > less
            ties += score == less
    assert ties > 50


def test_some_users_by_id_and_from_a_file(
    rectool: Command, data: Path, dataset: Dataset, trained: Any, tmp_path: Path
) -> None:
    ids = dataset.user_ids().to_pylist()
    words = ("recommend", data, trained("mf"), "--k", 3)
    assert rectool(*words, "--out", tmp_path / "all").code == 0
    (tmp_path / "users.txt").write_text(f"{ids[9]}\n\n  {ids[4]}\n{ids[9]}\n")
    done = rectool(*words, "--users", tmp_path / "users.txt", "--users", ids[30], "--out", tmp_path / "some")
    assert done.code == 0, done.stderr
    everything, some = read(tmp_path / "all"), read(tmp_path / "some")
    assert list(some) == [ids[user] for user in (4, 9, 30)]
    for user, found in some.items():
        same(found, everything[user])
    parents = open_artifact(tmp_path / "some").manifest.parents
    assert {parent.role for parent in parents} == {"dataset", "model", "users:1"}
    again = rectool(
        *words, "--users", tmp_path / "users.txt", "--users", ids[30], "--update", "--out", tmp_path / "some"
    )
    assert "up to date" in again.stderr
    (tmp_path / "users.txt").write_text(f"{ids[9]}\n")
    again = rectool(
        *words, "--users", tmp_path / "users.txt", "--users", ids[30], "--update", "--out", tmp_path / "some"
    )
    assert "is made again" in again.stderr


@pytest.mark.parametrize("name", ["sasrec", "din", "markov", "popularity"])
def test_new_users_by_what_they_like(
    rectool: Command, data: Path, dataset: Dataset, trained: Any, tmp_path: Path, name: str
) -> None:
    titles, ids, out = dataset.titles().to_pylist(), dataset.item_ids().to_pylist(), tmp_path / "out"
    likes = ("--likes", f"{titles[7]}; id:{ids[3]}; {titles[11]}", "--likes", f"id:{ids[0]}")
    done = rectool("recommend", data, trained(name), *likes, "--k", 5, "--out", out)
    assert done.code == 0, done.stderr
    found = read(out)
    assert list(found) == [1, 2]
    for new, liked in ((1, [7, 3, 11]), (2, [0])):
        scores = scores_of_all(trained(name), dataset.users + new - 1, liked, liked, dataset.items)
        same(found[new], sorted_naively(scores, liked, 5))


def test_users_without_rows_have_met_nothing(data: Path, dataset: Dataset, trained: Any) -> None:
    popularity = CollaborativeScorer(saved.load(open_artifact(trained("popularity"))), torch.device("cpu"))
    others = ~np.isin(dataset.user, [0, 7, dataset.users - 1])
    log = Unsaved(dataset.artifact)
    log.__dict__.update(user=dataset.user[others], item=dataset.item[others], label=dataset.label[others])
    users = np.array([0, 7, dataset.users - 1], np.int32)
    found = Recommending(popularity, None, 0, Audience(log, users, ()), Asked(k=dataset.items)).run(Work())
    assert found is not None
    assert (np.sort(found.items, axis=1) == np.arange(dataset.items)).all()
    assert (found.items == found.items[0]).all()


class Unsaved(Dataset):
    """A log that is made in a test."""

    @property
    def digest(self) -> None:
        return None


def asked_last(dataset: Dataset, user: int, item: int) -> tuple[Dataset, NDArray[np.int64]]:
    """A log that ends with one more row, and that row."""
    before = dataset.user == user
    log = Unsaved(dataset.artifact)
    log.__dict__.update(
        user=np.append(dataset.user[before], user).astype(np.int32),
        item=np.append(dataset.item[before], item).astype(np.int32),
        label=np.append(dataset.label[before], 0).astype(np.int8),
    )
    return log, np.array([before.sum()])


def rated_naively(model: Path, prompts: Prompts, dataset: Dataset, user: int, items: Sequence[int]) -> dict[int, float]:
    """The margins of a language model for a user's items: each whole prompt by itself."""
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    scores = {}
    for item in items:
        ids = torch.from_numpy(prompts.rows(*asked_last(dataset, user, item)).ids.astype(np.int64))[None]
        with torch.no_grad():
            yes, no = plain(input_ids=ids).logits[0, -1, list(prompts.answers.ids)].tolist()
        scores[item] = yes - no
    return scores


def test_a_language_model_puts_candidates_in_order(
    rectool: Command,
    data: Path,
    dataset: Dataset,
    trained: Any,
    tiny_llm: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recommend, "PAIRS", 24)  # two users together
    model, ids, titles = tiny_llm("llama"), dataset.user_ids().to_pylist(), dataset.titles().to_pylist()
    asked = ("--users", ids[2], "--users", ids[5], "--users", ids[40], "--likes", f"{titles[4]}; {titles[8]}")
    found, few = tmp_path / "found", tmp_path / "few"
    assert rectool("recommend", data, trained("sasrec"), *asked, "--k", 12, "--out", found).code == 0
    flags = ("--retriever", trained("sasrec"), "--candidates", 12, "--history", 4, "--k", 5)
    done = rectool("recommend", data, model, *asked, *flags, "--out", few)
    assert done.code == 0, done.stderr
    prompts = Prompts.chosen(
        Prompting(history=4), backbone.find(str(model)).tokenizer(), default="collm-text", context=512
    )
    candidates, chosen = read(found), read(few)
    assert list(chosen) == list(candidates) == [ids[2], ids[5], ids[40], 1]
    for user in (2, 5, 40):
        items = sorted(item for item, _ in candidates[ids[user]])
        scores = rated_naively(model, prompts, dataset, user, items)
        same(chosen[ids[user]], sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:5])
    assert {item for item, _ in chosen[1]} <= {item for item, _ in candidates[1]}
    made = open_artifact(few, "recommendations").manifest
    assert (made.metrics["retriever"], made.metrics["candidates"], made.metrics["new_users"]) == ("sasrec", 12, 1)
    assert {"dataset", "retriever"} < {parent.role for parent in made.parents}


@pytest.mark.parametrize("name", ["mf", "sasrec"])
def test_soft_tokens_are_of_the_whole_history(
    data: Path, dataset: Dataset, trained: Any, tiny_llm: Callable[..., Path], name: str
) -> None:
    """A hybrid rates candidates as it would rate rows at the end of the log; new users are rated, too."""
    base = backbone.find(str(tiny_llm("llama")))
    kinds = {"user": 1, "item": 1}
    prompts = Prompts.chosen(
        Prompting(prompt="sasrecllm", history=3), base.tokenizer(), default="plain", context=512, soft=kinds
    )
    parts = soft_parts.Parts(collaborative=saved.load(open_artifact(trained(name))))
    soft = soft_parts.build(dataset, kinds, 32, parts)
    model = base.model(device=torch.device("cpu"), dtype=torch.float32)
    hybrid = assemble(base, model, prompts, device=torch.device("cpu"), soft=soft)
    retriever = CollaborativeScorer(saved.load(open_artifact(trained("sasrec"))), torch.device("cpu"))
    audience = Audience(dataset, np.array([3, 30], np.int32), (np.array([5, 9], np.int32),))
    asked = Asked(k=4)
    scorer = LanguageScorer("hybrid", lambda: hybrid, torch.device("cpu"))
    found = Recommending(scorer, retriever, 4, audience, asked).run(Work())
    assert found is not None
    assert found.users.tolist() == [3, 30, dataset.users]
    assert np.isfinite(found.scores).all()
    for user, items, scores in zip(found.users[:2], found.items, found.scores, strict=False):
        slowly = [float(hybrid.score(*asked_last(dataset, user, item))[0]) for item in items]
        np.testing.assert_allclose(scores, slowly, atol=1e-5)


def test_a_stopped_run_goes_on(
    rectool: Command,
    data: Path,
    dataset: Dataset,
    trained: Any,
    tiny_llm: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_pieces: Callable[[int], None],
) -> None:
    monkeypatch.setattr(recommend, "PAIRS", 40)
    small_pieces(1000)
    ids = dataset.user_ids().to_pylist()[:10]
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = ("recommend", data, tiny_llm("llama"), "--retriever", trained("mf"), "--candidates", 10, "--history", 2)
    words += tuple(word for user in ids for word in ("--users", user))
    assert rectool(*words, "--out", whole).code == 0
    real, calls = Recommender.score_tokens, [0]

    def stopping(self: Recommender, *arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == 8:
            signal.raise_signal(signal.SIGTERM)
        return real(self, *arguments, **named)

    monkeypatch.setattr(Recommender, "score_tokens", stopping)
    stopped = rectool(*words, "--out", out)
    assert stopped.code == 75
    assert "rating candidates of users 1 to 4 of 10: 40 rows" in stopped.stderr
    assert "(terminated); the same command with --resume goes on" in stopped.error
    assert not out.exists()
    assert "k was 10, is 9" in rectool(*words, "--k", 9, "--resume", "--out", out).error
    before = calls[0]
    resumed = rectool(*words, "--resume", "--out", out)
    assert resumed.code == 0, resumed.stderr
    assert "users 1 to 4 of 10: 0 rows" in resumed.stderr
    total = calls[0]
    assert rectool(*words, "--overwrite", "--out", tmp_path / "again").code == 0
    assert total - before < calls[0] - total
    assert (out / recommend.FILE).read_bytes() == (whole / recommend.FILE).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("MODEL", "--retriever", "MODEL"), "--retriever: MODEL is a collaborative model, which ranks the catalogue"),
        (("MODEL", "--candidates", 9), "--candidates: MODEL is a collaborative model"),
        (("MODEL", "--shots", 2), "--shots: MODEL is a collaborative model"),
        (("LLM",), "a language model that answers questions rates items one by one; name a model of rectool train-cf"),
        (("LLM", "--retriever", "LLM"), "LLM"),
        (("LLM", "--retriever", "MODEL", "--candidates", 9), "--candidates 9 must not be fewer than --k 10"),
        (("LLM", "--retriever", "MODEL", "--candidates", 0), "--candidates 0 must be at least 1"),
        (("LLM", "--retriever", "MODEL", "--likes", "id:i1"), "--likes: mf knows its users from training only"),
        (("MODEL", "--likes", "id:i1"), "--likes: mf knows its users from training only"),
        (("--llm", "LLM", "--revision", "main"), "revision main is of a model of the hub, but LLM is a folder"),
        (("MODEL", "--k", 0), "--k 0 must be at least 1"),
        (("MODEL", "--users", "nobody"), "--users nobody: DATA has no user 'nobody'"),
        (("MODEL", "--users", "EMPTY"), "--users EMPTY is empty; write the id of a user on each line"),
        (("MODEL", "--users", "BINARY"), "--users BINARY is no file of lines of text"),
        (("MODEL", "--users", "WRONG"), "WRONG, line 3: DATA has no user 'u1x'; it has 'u1'"),
        (("MODEL", "--likes", "nothing"), "--likes 'nothing': DATA has no item 'nothing'"),
        (("RESULT",), "RESULT is a recommendations artifact, but a model is needed"),
        ((), "name a model: a folder made by rectool train-cf, tune-lora or train-proj"),
    ],
)
def test_bad_input_is_one_line(
    rectool: Command,
    data: Path,
    trained: Any,
    tiny_llm: Callable[..., Path],
    shelf: Path,
    tmp_path: Path,
    words: Sequence[Any],
    said: str,
) -> None:
    result = shelf / "recommended"
    if not result.exists():
        assert rectool("recommend", data, trained("mf"), "--users", "u1", "--out", result).code == 0
    paths = {"MODEL": trained("mf"), "LLM": tiny_llm("llama"), "DATA": data, "RESULT": result}
    for name, content in {"EMPTY": b"\n \n", "BINARY": b"\xff\xfe\x00", "WRONG": b"u1\n\nu1x\n"}.items():
        paths[name] = tmp_path / name
        paths[name].write_bytes(content)
    done = rectool("recommend", data, *(paths.get(word, word) for word in words), "--out", tmp_path / "out")
    assert done.code == 2
    for name, path in paths.items():
        said = said.replace(name, str(path))
    assert said in done.error
    assert not (tmp_path / "out").exists()


def test_a_terminal_shows_lists_with_titles(
    rectool: Command, data: Path, dataset: Dataset, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rectool("recommend", data, trained("sasrec"), "--k", 3, "--out", tmp_path / "one").stdout == ""
    monkeypatch.setattr("rectool.commands.recommend.on_terminal", lambda: True)
    done = rectool("recommend", data, trained("sasrec"), "--k", 3, "--out", tmp_path / "two")
    titles = dataset.titles().to_pylist()
    lists = read(tmp_path / "two")
    for user in list(lists)[:5]:
        assert f"user {user} " in done.stdout
        for rank, (item, score) in enumerate(lists[user], start=1):
            assert any(
                f" {rank}  {titles[item]} " in line and f"{score:.4f}" in line for line in done.stdout.splitlines()
            )
    assert done.stdout.count(" 1  ") == 5
    assert f"{len(lists) - 5} users more are in {tmp_path / 'two' / 'recommendations.parquet'}" in done.stdout
    new = rectool("recommend", data, trained("sasrec"), "--likes", titles[0], "--out", tmp_path / "new")
    assert "new user 1" in new.stdout


def test_a_dry_run_checks_and_writes_nothing(rectool: Command, data: Path, trained: Any, tmp_path: Path) -> None:
    done = rectool("recommend", data, trained("mf"), "--dry-run", "--json", "--out", tmp_path / "out")
    assert done.code == 0, done.stderr
    assert done.json["kind"] == "recommendations"
    assert str(data) in done.json["reads"]
    assert not (tmp_path / "out").exists()
