"""What a data set is like: counts, label shares, splits, and who is warm or cold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rectool import console
from rectool.data.engine import Engine, literal

GROUPS = ("warm", "cold-user", "cold-item", "cold-both")


def describe(engine: Engine, directory: Path) -> dict[str, Any]:
    """Statistics of a data set's files, as they are kept in the manifest.

    Warm and cold are under `seen`: a user or item is seen if it occurs in a train row, or in the
    context that a train row has (an earlier `context` row of the same user).
    """
    engine.run(
        "CREATE VIEW dataset AS SELECT *, file_row_number AS place FROM read_parquet("
        f"{literal(str(directory / 'interactions.parquet'))}, file_row_number = true, hive_partitioning = false)"
    )
    engine.run(
        "CREATE TABLE trained AS SELECT user, max(place) AS last FROM dataset WHERE split = 'train' GROUP BY user; "
        "CREATE TABLE seen_items AS SELECT DISTINCT item FROM dataset JOIN trained USING (user) "
        "WHERE place <= last AND split IN ('train', 'context')"
    )
    users, items = engine.row("SELECT max(user) + 1, max(item) + 1 FROM dataset")
    rows, liked, labelled, first, last = engine.row(
        "SELECT count(*), sum(label), count(label), min(timestamp), max(timestamp) FROM dataset"
    )
    return {
        "users": users,
        "items": items,
        "interactions": rows,
        "density": rows / (users * items),
        "label_share": None if labelled == 0 else int(liked) / labelled,
        "first": _date(first),
        "last": _date(last),
        "splits": _splits(engine),
    }


def _splits(engine: Engine) -> dict[str, dict[str, Any]]:
    both = dict(
        engine.rows(
            "SELECT split, count(*) FROM (SELECT split, user FROM dataset GROUP BY split, user "
            "HAVING min(label) = 0 AND max(label) = 1) GROUP BY split"
        )
    )
    groups = _groups(engine)
    splits = {}
    for split, rows, users, items, liked, labelled, first, last, unseen in engine.rows(
        "SELECT split, count(*), count(DISTINCT user), count(DISTINCT item), sum(label), count(label), "
        "min(timestamp), max(timestamp), count(*) FILTER (item NOT IN (SELECT item FROM seen_items)) "
        "FROM dataset GROUP BY split ORDER BY min(timestamp), split"
    ):
        splits[split] = {
            "rows": rows,
            "users": users,
            "items": items,
            "label_share": None if labelled == 0 else int(liked) / labelled,
            "users_with_both_labels": both.get(split, 0),
            "rows_of_unseen_items": unseen,
            "first": _date(first),
            "last": _date(last),
        }
        if split != "context":
            splits[split]["groups"] = groups.get(split, dict.fromkeys(GROUPS, 0))
    return splits


def _groups(engine: Engine) -> dict[str, dict[str, int]]:
    groups: dict[str, dict[str, int]] = {}
    for split, warm_user, warm_item, rows in engine.rows(
        "SELECT split, user IN (SELECT user FROM trained) AS warm_user, "
        "item IN (SELECT item FROM seen_items) AS warm_item, "
        "count(*) FROM dataset WHERE split <> 'context' GROUP BY split, warm_user, warm_item"
    ):
        name = {(True, True): "warm", (False, True): "cold-user", (True, False): "cold-item"}.get(
            (warm_user, warm_item), "cold-both"
        )
        groups.setdefault(split, dict.fromkeys(GROUPS, 0))[name] = rows
    return groups


def show(metrics: Mapping[str, Any]) -> None:
    """Print the statistics as tables."""
    overall = [
        ("users", f"{metrics['users']:,}"),
        ("items", f"{metrics['items']:,}"),
        ("interactions", f"{metrics['interactions']:,}"),
        ("density", f"{metrics['density']:.4%}"),
        ("label share", _share(metrics["label_share"])),
        ("from", metrics["first"]),
        ("to", metrics["last"]),
    ]
    if metrics.get("filters"):
        kept = [(step["filter"], f"{step['rows']:,}") for step in metrics["filters"]]
        console.table("filters", ("", "rows left"), kept)
    console.table("data set", ("", ""), overall)
    splits = metrics["splits"]
    rows = [
        ("rows", [f"{split['rows']:,}" for split in splits.values()]),
        ("users", [f"{split['users']:,}" for split in splits.values()]),
        ("items", [f"{split['items']:,}" for split in splits.values()]),
        ("label share", [_share(split["label_share"]) for split in splits.values()]),
        ("users with both labels", [f"{split['users_with_both_labels']:,}" for split in splits.values()]),
        *(
            (group, [f"{split['groups'][group]:,}" if "groups" in split else "" for split in splits.values()])
            for group in GROUPS
        ),
        ("rows of unseen items", [f"{split['rows_of_unseen_items']:,}" for split in splits.values()]),
        ("from", [split["first"][:10] for split in splits.values()]),
        ("to", [split["last"][:10] for split in splits.values()]),
    ]
    console.table(
        "splits (warm: user and item are seen in training)",
        ("", *splits),
        [(name, *values) for name, values in rows],
    )
    if truth := metrics.get("truth"):
        names = [name for name in next(iter(truth.values())) if not name.endswith("users")]
        console.table(
            "best reachable (scores are the true probabilities)",
            ("", *truth),
            [(name.upper(), *(_figure(values[name]) for values in truth.values())) for name in names],
        )


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
