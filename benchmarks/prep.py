"""`rectool prep` side by side with pandas and pyarrow + numpy scripts that give the same tables.

    python benchmarks/prep.py                              # 20 million rows, two cores
    python benchmarks/prep.py --rows 60000000 --only rectool --memory-limit 2GB

Each runs in a process of its own, on the same generated `::` file; wall time, CPU time and peak memory
are those of that process. The tables are compared value by value. Histories are timed on the result.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

ITEMS = 27_000
ROWS_PER_USER = 145
HISTORY = 10


@dataclass(frozen=True)
class Cost:
    wall: float
    cpu: float
    peak_gb: float


def generate(folder: Path, rows: int) -> None:
    """A log in the form of MovieLens-10M: skewed users and items, times in no order. The same on every machine."""
    folder.mkdir(parents=True)
    users = max(rows // ROWS_PER_USER, 1)

    def uniform(stream: int) -> str:
        return f"(hash(i * 8 + {stream}) / 18446744073709551616.0)"

    duckdb.connect().execute(
        f"COPY (SELECT CAST(floor(power({uniform(1)}, 2) * {users}) AS INT) + 1, "
        f"CAST(floor(power({uniform(2)}, 3) * {ITEMS}) AS INT) + 1, "
        f"CAST(floor({uniform(3)} * 10) + 1 AS INT) / 2, "
        f"CAST(800000000 + floor({uniform(4)} * 600000000) AS BIGINT) FROM range({rows}) AS t(i)) "
        f"TO '{folder / 'ratings.dat'}' (FORMAT csv, HEADER false, DELIMITER '::')"
    )
    with (folder / "movies.dat").open("w", encoding="utf-8") as file:
        file.writelines(f"{item}::Film {item} (1999)::Drama\n" for item in range(1, ITEMS + 1))


def with_pandas(source: Path, target: Path) -> None:
    """What a careful pandas user writes."""
    import pandas as pd

    log = pd.read_csv(
        source / "ratings.dat",
        sep=":",
        header=None,
        usecols=[0, 2, 4, 6],
        names=["user_id", "1", "item_id", "3", "rating", "5", "timestamp"],
        dtype={"user_id": "int32", "item_id": "int32", "rating": "float32", "timestamp": "int64"},
    )
    for name in ("user", "item"):
        first = log.groupby(f"{name}_id")["timestamp"].min().reset_index()
        first["text"] = first[f"{name}_id"].astype(str)
        first = first.sort_values(["timestamp", "text"], kind="stable").reset_index(drop=True)
        log[name] = log[f"{name}_id"].map(pd.Series(first.index, index=first[f"{name}_id"])).astype("int32")
    log["label"] = (log["rating"] >= 4).astype("int8")
    order = log["timestamp"].argsort(kind="stable").to_numpy()
    split = np.empty(len(log), dtype="int8")
    train, valid = len(log) * 8 // 10, len(log) * 9 // 10
    split[order[:train]], split[order[train:valid]], split[order[valid:]] = 0, 1, 2
    log["split"] = pd.Categorical.from_codes(split, ["train", "valid", "test"]).astype(str)
    log = log.sort_values(["user", "timestamp"], kind="stable")
    columns = ["user", "item", "timestamp", "rating", "label", "split"]
    log[columns].to_parquet(target / "interactions.parquet", index=False, compression="zstd")


def with_pyarrow(source: Path, target: Path) -> None:
    """pyarrow reads, numpy does the rest."""
    import pyarrow as pa
    import pyarrow.csv as csv

    log = csv.read_csv(
        source / "ratings.dat",
        read_options=csv.ReadOptions(column_names=["user_id", "1", "item_id", "3", "rating", "5", "timestamp"]),
        parse_options=csv.ParseOptions(delimiter=":"),
        convert_options=csv.ConvertOptions(
            include_columns=["user_id", "item_id", "rating", "timestamp"],
            column_types={
                "user_id": pa.int32(),
                "item_id": pa.int32(),
                "rating": pa.float32(),
                "timestamp": pa.int64(),
            },
        ),
    )
    timestamp = log.column("timestamp").to_numpy()
    by_time = np.argsort(timestamp, kind="stable")
    numbers = {}
    for name in ("user", "item"):
        ids = log.column(f"{name}_id").to_numpy()
        distinct, codes = np.unique(ids, return_inverse=True)
        first = np.full(len(distinct), np.iinfo(np.int64).max)
        np.minimum.at(first, codes, timestamp)
        order = np.lexsort((distinct.astype(str), first))
        dense = np.empty(len(distinct), dtype=np.int32)
        dense[order] = np.arange(len(distinct), dtype=np.int32)
        numbers[name] = dense[codes]
    split = np.empty(len(timestamp), dtype=np.int8)
    train, valid = len(split) * 8 // 10, len(split) * 9 // 10
    split[by_time[:train]], split[by_time[train:valid]], split[by_time[valid:]] = 0, 1, 2
    order = by_time[np.argsort(numbers["user"][by_time], kind="stable")]
    rating = log.column("rating").to_numpy()[order]
    table = pa.table(
        {
            "user": numbers["user"][order],
            "item": numbers["item"][order],
            "timestamp": timestamp[order],
            "rating": rating,
            "label": (rating >= 4).astype(np.int8),
            "split": pa.DictionaryArray.from_arrays(split[order], ["train", "valid", "test"]).dictionary_decode(),
        }
    )
    pq.write_table(table, target / "interactions.parquet", compression="zstd")


def measured(command: list[str]) -> Cost:
    """Run a command; its cost is that of the process and of all it started."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status != 0:
        sys.exit(f"{' '.join(command)} failed")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6)


def same(left: Path, right: Path) -> bool:
    """Whether two interaction tables hold the same values, column by column."""
    for column in ("user", "item", "timestamp", "rating", "label", "split"):
        a, b = (pq.read_table(path / "interactions.parquet", columns=[column]).column(0) for path in (left, right))
        if not pc.all(pc.equal(a, b.cast(a.type))).as_py():
            return False
    return True


def time_histories(folder: Path) -> None:
    from rectool.data.histories import Histories

    table = pq.read_table(folder / "interactions.parquet", columns=["user", "item", "label"])
    user, item, label = (np.asarray(table.column(name)) for name in table.column_names)
    started = time.perf_counter()
    histories = Histories(user, item, label == 1)
    built = time.perf_counter() - started
    print(f"histories: view of {len(user):,} rows built in {built:.2f} s")
    in_order = np.arange(len(user))
    for how, rows in (("in order", in_order), ("at random", np.random.default_rng(0).permutation(in_order))):
        rates = []
        for _ in range(3):
            started = time.perf_counter()
            for start in range(0, len(rows), 1 << 20):
                histories.padded(rows[start : start + (1 << 20)], HISTORY)
            rates.append(len(rows) / (time.perf_counter() - started) / 1e6)
        print(f"  the last {HISTORY} liked items of every row, rows {how}: {max(rates):.1f} million rows/s on one core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--memory-limit", default=None, help="for rectool, such as 2GB")
    parser.add_argument("--only", default="rectool,rectool-limited,pandas,pyarrow")
    parser.add_argument("--repeats", type=int, default=1, help="the quickest run of each counts")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder by default")
    parser.add_argument("--run", choices=["pandas", "pyarrow"], help=argparse.SUPPRESS)
    parser.add_argument("paths", type=Path, nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        {"pandas": with_pandas, "pyarrow": with_pyarrow}[arguments.run](*arguments.paths)
        return
    work = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        generate(work / "raw", arguments.rows)
        size = (work / "raw/ratings.dat").stat().st_size
        print(f"{arguments.rows:,} rows, {size / 1e6:,.0f} MB of text, {os.cpu_count()} cores")
        compare(work, arguments.only.split(","), arguments.memory_limit, arguments.repeats)
    finally:
        shutil.rmtree(work)


def compare(work: Path, names: list[str], memory_limit: str | None, repeats: int) -> None:
    prep = [sys.executable, "-m", "rectool", "prep", "movielens", "--variant", "10m", "--source", str(work / "raw")]
    prep += ["--quiet", "--overwrite"]
    limit = ["--memory-limit", memory_limit] if memory_limit else []
    costs: dict[str, Cost] = {}
    for name in names:
        target = work / name
        if name == "rectool":
            command = [*prep, *limit, "--out", str(target)]
        elif name == "rectool-limited":
            command = [*prep, "--memory-limit", "2GB", "--out", str(target)]
        else:
            target.mkdir()
            command = [sys.executable, __file__, "--run", name, str(work / "raw"), str(target)]
        costs[name] = min((measured(command) for _ in range(repeats)), key=lambda cost: cost.wall)
    base = costs["pandas"] if "pandas" in costs else costs[names[0]]
    print(f"{'':16} {'wall s':>8} {'CPU s':>8} {'peak GB':>8} {'wall ratio':>11} {'CPU ratio':>10}")
    for name, cost in costs.items():
        ratios = f"{cost.wall / base.wall:>11.2f} {cost.cpu / base.cpu:>10.2f}"
        print(f"{name:16} {cost.wall:>8.1f} {cost.cpu:>8.1f} {cost.peak_gb:>8.2f} {ratios}")
    for name in names[1:]:
        print(f"{name} gives the same table as {names[0]}: {same(work / names[0], work / name)}")
    if names[0] == "rectool" and "rectool-limited" in names:
        files = [(work / name / "interactions.parquet").read_bytes() for name in ("rectool", "rectool-limited")]
        print(f"the file under the memory limit is the same, byte for byte: {files[0] == files[1]}")
    time_histories(work / names[0])


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
