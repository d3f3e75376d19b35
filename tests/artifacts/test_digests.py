"""Content digests: the same for the same content however it is written, another one for any change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rectool.artifacts import digests
from rectool.artifacts.manifest import FileRecord
from rectool.errors import RectoolError

TABLE = pa.table(
    {
        "number": pa.array([1, None, 0, -5], pa.int32()),
        "real": pa.array([0.5, None, 0.0, -1.0], pa.float32()),
        "flag": pa.array([True, False, None, True]),
        "text": ["ü", None, "", "ab"],
        "words": pa.array([["a", "b"], None, [], ["c", None]], pa.list_(pa.string())),
        "nested": pa.array([[[1], [2, 3]], [[]], None, [None]], pa.list_(pa.list_(pa.int16()))),
        "day": pa.array([1, None, 0, 3], pa.date32()),
        "moment": pa.array([1, None, 0, 3], pa.timestamp("us")),
        "nothing": pa.nulls(4),
    }
)
DIFFERENT = [  # two columns that must not be taken for one another
    ([1, 2], [2, 1]),
    ([1, 2], [1, 3]),
    ([1], [1, 1]),
    (pa.array([0, 1]), pa.array([None, 1])),
    (pa.array([None, 0]), pa.array([0, None])),
    (["", "a"], [None, "a"]),
    (["ab", "c"], ["a", "bc"]),
    (["a", ""], ["", "a"]),
    ([["a", "b"], ["c"]], [["a"], ["b", "c"]]),
    ([["a"], []], [[], ["a"]]),
    ([[], ["a"]], [None, ["a"]]),
    ([[None]], [[""]]),
    ([[None], ["a"]], [["a"], [None]]),
    ([[["a"], ["b"]]], [[["a", "b"]]]),
    (pa.array([True, None]), pa.array([True, False])),
    (pa.array([0], pa.date32()), pa.array([None], pa.date32())),
    (pa.array([1], pa.int32()), pa.array([1], pa.int64())),
    (pa.array([1], pa.timestamp("s")), pa.array([1], pa.timestamp("ms"))),
    (pa.array([0.0]), pa.array([-0.0])),
    (["0"], [0]),
]


def digest(table: pa.Table, rows: int | None = None) -> str:
    return digests.of_batches(table.to_batches(max_chunksize=rows))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_where_batches_are_cut_does_not_matter(rows: int) -> None:
    assert digest(TABLE, rows) == digest(TABLE)


def test_slices_are_what_they_show() -> None:
    padded = pa.concat_tables([TABLE.slice(2), TABLE, TABLE.slice(0, 3)]).combine_chunks()
    assert digest(padded.slice(2, 4)) == digest(TABLE)
    assert digest(padded.slice(3, 4)) != digest(TABLE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "none", "row_group_size": 1},
        {"use_dictionary": True, "data_page_version": "2.0", "row_group_size": 3},
        {"use_compliant_nested_type": False},
        {"store_schema": False},
    ],
)
def test_how_a_file_is_written_does_not_matter(options: dict[str, Any], tmp_path: Path) -> None:
    table = TABLE.drop_columns(["nothing"])  # without Arrow's schema, Parquet takes its type for int32
    pq.write_table(table, tmp_path / "table.parquet", **options)
    with pq.ParquetFile(tmp_path / "table.parquet") as file:
        assert digests.of_batches(file.iter_batches(batch_size=3)) == digest(table)


def test_other_writers_agree(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    plain = TABLE.select(["number", "real", "flag", "text", "words", "nested", "day", "moment"])
    duckdb.sql("SELECT * FROM plain").write_parquet(str(tmp_path / "duckdb.parquet"))
    with pq.ParquetFile(tmp_path / "duckdb.parquet") as file:
        assert digests.of_batches(file.iter_batches()) == digest(plain)


def test_how_arrow_holds_values_does_not_matter() -> None:
    plain = pa.table({"text": ["a", None, "b", "a"], "words": [["a", "b"], None, [], ["a"]]})
    dictionary = plain.set_column(0, "text", plain.column("text").dictionary_encode())
    with_null = pa.DictionaryArray.from_arrays(pa.array([0, 2, 1, 0], pa.int8()), pa.array(["a", "b", None]))
    large = plain.cast(pa.schema({"text": pa.large_string(), "words": pa.large_list(pa.large_string())}))
    for other in (dictionary, plain.set_column(0, "text", with_null), large):
        assert other.schema != plain.schema
        assert digest(other) == digest(plain)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_any_other_value_is_seen(first: Any, second: Any) -> None:
    assert digest(pa.table({"x": first})) != digest(pa.table({"x": second}))


def test_names_are_seen_and_the_order_of_columns_is_not() -> None:
    table = pa.table({"a": [1], "b": [2]})
    assert digest(table) != digest(pa.table({"a": [2], "b": [1]}))
    assert digest(table) != digest(table.rename_columns(["a", "c"]))
    assert digest(table) != digest(table.append_column("c", [[3]]))
    assert digest(table) == digest(table.select(["b", "a"]))


@pytest.mark.parametrize(
    "column",
    [pa.array([b"x"]), pa.array([{"a": 1}]), pa.array([1], pa.decimal128(5)), pa.array([[1]], pa.list_(pa.int8(), 1))],
)
def test_a_type_without_a_digest_is_refused(column: pa.Array) -> None:
    with pytest.raises(RectoolError, match=r"column odd is .*, of which rectool takes no digest"):
        digest(pa.table({"odd": column}))


columns = st.lists(st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3), max_size=8)


@settings(deadline=None)
@given(first=columns, second=columns, rows=st.integers(1, 8))
def test_lists_of_text_are_the_same_only_if_they_are_equal(first: list[Any], second: list[Any], rows: int) -> None:
    kind = pa.list_(pa.string())
    one, other = (pa.table({"x": pa.array(values, kind)}) for values in (first, second))
    if first and second:  # of a table without rows nothing is fed, not even its columns
        assert (digest(one, rows) == digest(other)) == (first == second)
    assert digest(one, rows) == digest(one)


def interactions(rows: list[tuple[Any, ...]]) -> dict[str, str]:
    table = pa.table(list(map(list, zip(*rows, strict=True))), names=["user", "item", "label", "split"])
    results = []
    for size in (1, 2, None):
        stream = digests.InteractionsDigest()
        for batch in table.to_batches(max_chunksize=size):
            stream.update(batch)
        results.append(stream.digests())
    assert results[0] == results[1] == results[2]
    return results[0]


ROWS = [(0, 0, 1, "train"), (0, 1, 0, "test"), (0, 2, 1, "train"), (1, 0, None, "context"), (1, 1, 1, "valid")]


@pytest.mark.parametrize("row", range(len(ROWS)))
@pytest.mark.parametrize("column", range(3))
def test_training_changes_with_train_rows_alone(row: int, column: int) -> None:
    changed = [list(values) for values in ROWS]
    changed[row][column] = 7
    before, after = interactions(ROWS), interactions([tuple(values) for values in changed])
    assert before["interactions"] != after["interactions"]
    assert (before["training"] != after["training"]) == (ROWS[row][3] == "train")


def test_the_order_of_rows_of_different_splits_is_seen() -> None:
    before, after = interactions(ROWS), interactions([ROWS[1], ROWS[0], *ROWS[2:]])
    assert before["interactions"] != after["interactions"]
    assert before["training"] == after["training"]


def test_the_order_of_train_rows_is_seen() -> None:
    before, after = interactions(ROWS), interactions([ROWS[2], ROWS[1], ROWS[0], *ROWS[3:]])
    assert before["interactions"] != after["interactions"]
    assert before["training"] != after["training"]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_row_that_changes_its_split_is_seen(split: str) -> None:
    before, after = interactions(ROWS), interactions([*ROWS[:3], (1, 0, None, split), ROWS[4]])
    assert before["interactions"] != after["interactions"]
    assert (before["training"] != after["training"]) == (split == "train")


def test_a_log_without_train_rows_has_a_digest() -> None:
    without = interactions([row for row in ROWS if row[3] != "train"])
    assert without["training"] != interactions(ROWS)["training"]
    assert without["training"] == interactions(ROWS[1:2])["training"]


def test_the_digests_of_a_dataset_do_not_depend_on_its_files(workshop: Any, tmp_path: Path) -> None:
    plain = workshop.fill_dataset(tmp_path / "plain")
    other = tmp_path / "other"
    other.mkdir()
    for path in plain.iterdir():
        pq.write_table(pq.read_table(path), other / path.name, compression="gzip", row_group_size=2)
        assert (other / path.name).read_bytes() != path.read_bytes()
    found = digests.of_dataset(plain)
    assert found == digests.of_dataset(other)
    assert found.keys() == {"items", "users", "interactions", "training"}

    other = workshop.fill_dataset(tmp_path / "third", titles=["Alien", "Heat", "Down"])
    assert {name for name, value in digests.of_dataset(other).items() if value != found[name]} == {"items"}


def test_the_digest_of_an_artifact_stands_for_kind_names_and_bytes() -> None:
    files = {"a": FileRecord(1, "sha256:1"), "b": FileRecord(1, "sha256:2")}
    same = digests.of_artifact("cf", files)
    assert same == digests.of_artifact("cf", dict(reversed(files.items())))
    others = [
        digests.of_artifact("semantic", files),
        digests.of_artifact("cf", {"a": files["b"], "b": files["a"]}),
        digests.of_artifact("cf", {"a": files["a"]}),
        digests.of_artifact("cf", {"a": files["a"], "c": files["b"]}),
    ]
    assert len({same, *others}) == 5
    assert digests.of_artifact("cf", {**files, "part/rectool.json": FileRecord(1, "sha256:3")}) == same


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert digests.of_file(tmp_path / "file") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_digests_are_the_same_everywhere() -> None:
    """They are kept in manifests: they must not change from one version of rectool to the next."""
    table = TABLE.slice(0, 3).drop_columns(["nothing"])
    assert digest(table) == "sha256:d7bef6e207327fa668e643a6fdcd19044fa4d3a7ad8ad0f8c039f602badd4466"
    assert (
        digest(pa.table({"x": pa.array([0, 1, 2])}))
        == "sha256:1f12152bfbb0118a0c43a01afa6f77b31f07236f204faa1a763748dd399ad54f"
    )
