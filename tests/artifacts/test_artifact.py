"""Opening artifacts and their parents, and taking in files of other programs."""

from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from rectool.artifacts import Input, Making, adopting, binding, lineage, open_artifact, write
from rectool.errors import RectoolError

ROWS = [
    (0, 0, 10, 5.0, 1, "train"),
    (0, 1, 20, 2.0, 0, "train"),
    (0, 2, 30, 4.0, 1, "test"),
    (1, 0, 11, 3.0, 0, "train"),
    (1, 2, 15, None, None, "context"),
    (1, 1, 21, 4.5, 1, "valid"),
]
OTHER_TRAINING = [*ROWS[:3], (1, 0, 11, 3.0, 0, "valid"), *ROWS[4:]]
OTHER_TEST = [*ROWS[:2], (0, 2, 30, 4.0, 1, "valid"), *ROWS[3:]]

# Parents


def test_parents_are_found_wherever_all_were_moved_to(workshop: Any, tmp_path: Path) -> None:
    workshop.child("a/runs/sem", "semantic", workshop.dataset("a/data/d"))
    (tmp_path / "a").rename(tmp_path / "b")

    moved = open_artifact(tmp_path / "b/runs/sem")
    assert moved.manifest.parents[0].path == "../../data/d"
    assert moved.parent("dataset").manifest.counts["items"] == 3


def test_a_colon_in_a_relative_path_makes_no_uri_of_it(
    rectool: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rectool("prep", "synthetic", "--users", 40, "--items", 60, "--out", "in:1/or:2", "--quiet")
    rectool("train-cf", "in:1/or:2", "--model", "bias", "--out", "cr:1", "--quiet")
    assert open_artifact(Path("cr:1"), "cf", verify=True).parent("dataset").file("items.parquet").is_file()


def test_a_link_to_an_artifact_finds_its_parents(workshop: Any, tmp_path: Path) -> None:
    workshop.child("runs/sem", "semantic", workshop.dataset("data"))
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/link").symlink_to(tmp_path / "runs/sem")

    assert open_artifact(tmp_path / "deep/er/link").parent("dataset").manifest.kind == "dataset"


def test_an_artifact_made_through_links_finds_its_parents(workshop: Any, tmp_path: Path) -> None:
    workshop.dataset("real/data")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/data").symlink_to(tmp_path / "real/data")
    (tmp_path / "links/out").symlink_to(tmp_path / "real/sem")

    workshop.child("links/out", "semantic", tmp_path / "links/data")
    assert open_artifact(tmp_path / "real/sem").parent("dataset").manifest.kind == "dataset"
    assert (tmp_path / "links/out").is_symlink()


def test_a_moved_parent_is_named_by_hand(workshop: Any, tmp_path: Path, rectool: Callable[..., Any]) -> None:
    child = workshop.child("sem", "semantic", workshop.dataset("data"))
    (tmp_path / "data").rename(tmp_path / "moved")

    alone = open_artifact(child)
    hint = r"was made from .*/data \(dataset\), which is not there; say where it is with --parent dataset=PATH"
    with pytest.raises(RectoolError, match=hint):
        alone.parent("dataset")
    assert open_artifact(child, elsewhere={"dataset": tmp_path / "moved"}).parent("dataset").path == tmp_path / "moved"

    assert "not there any more" in rectool("inspect", child).stdout
    found = rectool("inspect", child, "--parent", f"dataset={tmp_path / 'moved'}")
    assert found.code == 0
    assert "not there any more" not in found.stdout


def test_what_is_named_by_hand_must_be_there_and_be_asked_for(
    workshop: Any, tmp_path: Path, rectool: Callable[..., Any]
) -> None:
    child = workshop.child("sem", "semantic", workshop.dataset("data"))
    missing = rectool("inspect", child, "--parent", f"dataset={tmp_path / 'nowhere'}")
    assert missing.code == 2
    assert f"{tmp_path / 'nowhere'} (dataset), which is not there" in missing.error
    unknown = rectool("inspect", child, "--parent", f"data={tmp_path / 'data'}")
    assert unknown.code == 2
    assert unknown.error == "--parent data: nothing that is read here was made from a parent of this role"
    shapeless = rectool("inspect", child, "--parent", "data")
    assert shapeless.code == 2
    assert "--parent data is not of the form ROLE=PATH" in shapeless.error


def test_a_parent_that_is_named_by_hand_serves_grandchildren(workshop: Any, tmp_path: Path) -> None:
    data = workshop.dataset("data")
    semantic = workshop.child("sem", "semantic", data)
    grandchild = workshop.child("result", "result", data, semantic)
    data.rename(tmp_path / "moved")

    opened = open_artifact(grandchild, elsewhere={"dataset": tmp_path / "moved"})
    assert opened.parent("semantic").parent("dataset").path == tmp_path / "moved"


def test_a_changed_parent_is_refused_with_both_digests(workshop: Any) -> None:
    data = workshop.dataset("data")
    child = workshop.child("sem", "semantic", data)
    before = open_artifact(data).manifest.digests["items"]
    workshop.dataset("data", replace=True, titles=["Alien", "Heat", "Down"])
    after = open_artifact(data).manifest.digests["items"]

    with pytest.raises(RectoolError) as problem:
        open_artifact(child)
    text = str(problem.value)
    assert f"made from a dataset whose items is {before}, but {child / '../data'} has {after}" in text
    assert f"name that one (--parent dataset=PATH where no place is given to it), or make {child} again" in text


def test_a_parent_of_another_kind_is_refused(workshop: Any) -> None:
    data = workshop.dataset("data")
    child, other = workshop.child("sem", "semantic", data), workshop.child("other", "semantic", data)
    with pytest.raises(RectoolError, match="other is a semantic artifact, but a dataset is needed"):
        open_artifact(child, elsewhere={"dataset": other})


@pytest.mark.parametrize(
    ("kind", "rows", "opens"),
    [
        ("semantic", OTHER_TRAINING, True),
        ("semantic", OTHER_TEST, True),
        ("semantic", ROWS[:3], True),  # other filters, but the same items
        ("cf", OTHER_TEST, True),
        ("cf", OTHER_TRAINING, False),
        ("cf", [*ROWS[:3], (1, 0, 11, 3.0, 1, "train"), *ROWS[4:]], False),
        ("result", OTHER_TEST, False),
        ("result", OTHER_TRAINING, False),
    ],
)
def test_what_binds_is_what_matters(kind: str, rows: list[Any], opens: bool, workshop: Any) -> None:
    child = workshop.child("child", kind, workshop.dataset("a"))
    other = workshop.dataset("b", rows=rows)
    digests = [open_artifact(path).manifest.digests for path in (workshop.root / "a", other)]
    assert digests[0]["artifact"] != digests[1]["artifact"]
    assert digests[0]["items"] == digests[1]["items"]

    if opens:
        assert open_artifact(child, elsewhere={"dataset": other}).parent("dataset").path == other
    else:
        part = "training" if kind == "cf" else "interactions"
        with pytest.raises(RectoolError, match=f"made from a dataset whose {part} is"):
            open_artifact(child, elsewhere={"dataset": other})


def test_other_items_are_refused_by_all(workshop: Any) -> None:
    data = workshop.dataset("a")
    other = workshop.dataset("b", titles=["Alien", "Heat", "Down"])
    for kind in ("semantic", "cf", "result"):
        child = workshop.child(kind, kind, data)
        with pytest.raises(RectoolError, match="made from a dataset whose items is"):
            open_artifact(child, elsewhere={"dataset": other})


def test_an_artifact_binds_to_the_whole_of_what_is_no_dataset(workshop: Any) -> None:
    semantic = open_artifact(workshop.child("sem", "semantic", workshop.dataset("data")))
    assert binding(semantic, "cf") == {"artifact": semantic.manifest.digests["artifact"]}


def test_a_language_model_may_be_used_with_another_data_set_but_is_made_again_for_it(workshop: Any) -> None:
    data = workshop.dataset("data")
    llm = workshop.child("llm", "llm", data)
    parent = open_artifact(llm).manifest.parents[0]
    assert parent.digests.keys() == {"items", "interactions"}
    assert workshop.input(data).unchanged(parent, "llm")

    workshop.dataset("data", replace=True, titles=["Alien", "Heat", "Brazil"])
    assert open_artifact(llm).parent("dataset").path == llm / "../data"
    assert not workshop.input(data).unchanged(parent, "llm")


def test_a_model_of_a_hub_is_known_by_name_and_commit(workshop: Any, rectool: Callable[..., Any]) -> None:
    backbone = Input("backbone", Path("maker/model"), commit="abc123")
    out = workshop.root / "llm"
    with write(out, "llm", Making(["rectool", "made"], {}, 0, [backbone.parent(out, "llm")])) as draft:
        workshop.fill_llm(draft.path)
    (parent,) = open_artifact(out).manifest.parents
    assert (parent.kind, parent.path, parent.digests) == ("hub", "maker/model", {"commit": "abc123"})
    assert backbone.unchanged(parent, "llm")
    assert not Input("backbone", Path("maker/model"), commit="def456").unchanged(parent, "llm")
    with pytest.raises(RectoolError, match="its backbone maker/model is no artifact"):
        open_artifact(out).parent("backbone")
    assert "backbone: maker/model (hub, commit abc123)" in rectool("inspect", out).stdout
    assert rectool("inspect", out, "--verify").code == 0


def test_a_dataset_without_its_digests_binds_nothing(workshop: Any) -> None:
    out = workshop.root / "data"
    with write(out, "dataset", Making([], {}, 0, [])) as draft:
        workshop.fill_dataset(draft.path)  # by a writer that forgot them
    with pytest.raises(RectoolError, match=r"rectool\.json is damaged: it has no field digests\['items'\]"):
        workshop.child("sem", "semantic", out)


def test_a_parent_it_does_not_have_is_refused(workshop: Any) -> None:
    child = open_artifact(workshop.child("sem", "semantic", workshop.dataset("data")))
    with pytest.raises(RectoolError, match="has no parent 'cf'; its parents are: dataset"):
        child.parent("cf")


@pytest.mark.parametrize("path", ["", ".", "../x", "../y"])
def test_an_artifact_that_is_made_from_itself_is_refused(
    path: str, workshop: Any, edit: Callable[..., None], rectool: Callable[..., Any]
) -> None:
    data = workshop.dataset("data")
    workshop.child("y", "semantic", data, workshop.child("x", "semantic", data))
    parent = open_artifact(workshop.root / "y").manifest.parents[1]
    assert parent.role == "semantic"
    edit(
        workshop.root / "x",
        lambda value: value["parents"].append(
            {"role": "semantic", "kind": "semantic", "path": path, "digests": dict(parent.digests)}
        ),
    )
    done = rectool("inspect", workshop.root / "x")
    assert done.code == 2
    assert "itself" in done.error


@pytest.mark.parametrize("path", ["\0", "a" * 5000, "../sem/rectool.json", "/dev/null", "../../../../../../../.."])
def test_a_parent_where_none_can_be_is_not_there(
    path: str, workshop: Any, edit: Callable[..., None], rectool: Callable[..., Any]
) -> None:
    child = workshop.child("sem", "semantic", workshop.dataset("data"))
    edit(child, lambda value: value["parents"][0].update(path=path))
    done = rectool("inspect", child, "--json")
    assert done.code in (0, 2)
    if done.code == 0:
        assert [node["parents"] for node in done.json["lineage"]["parents"]] == [[]]
    else:
        assert "cannot be read: File name too long" in done.error or "path has a NUL character" in done.error


def test_a_missing_artifact_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RectoolError, match=r"nowhere does not exist$"):
        open_artifact(tmp_path / "nowhere")
    for kind, command in {"dataset": "rectool prep", "cf": "rectool train-cf", "result": "rectool eval"}.items():
        with pytest.raises(RectoolError, match=f"nowhere does not exist; make one with: {command}"):
            open_artifact(tmp_path / "nowhere", kind)


def test_another_kind_than_is_needed_is_refused(workshop: Any) -> None:
    with pytest.raises(RectoolError, match="data is a dataset artifact, but a cf is needed; make one with: rectool tr"):
        open_artifact(workshop.dataset("data"), "cf")


def test_a_file_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RectoolError, match="file is a file, but an artifact is a folder"):
        open_artifact(tmp_path / "file")


@pytest.mark.parametrize("path", ["/", ".", ".."])
def test_odd_paths_are_no_artifacts(path: str, rectool: Callable[..., Any]) -> None:
    done = rectool("inspect", path)
    assert done.code == 2
    assert "is not a rectool artifact: it has no rectool.json" in done.error


# Files that are not what the kind says


def safetensors_file(header: dict[str, Any], data: bytes = b"", size: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def claims(rows: int) -> dict[str, Any]:
    return {"item": {"dtype": "F32", "shape": [rows, 4], "data_offsets": [0, 16 * rows]}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 100,
        safetensors_file(claims(3)),
        safetensors_file(claims(1 << 40)),
        safetensors_file(claims(1 << 40), size=1 << 62),
        safetensors_file({"item": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 16]}}, b"0" * 16),
        safetensors_file({"item": {"dtype": "F32", "shape": [1 << 40, 0], "data_offsets": [0, 0]}}),
        safetensors_file({"item": {"dtype": "F32", "shape": [-1, 4], "data_offsets": [0, 16]}}, b"0" * 16),
        safetensors_file({"item": {"dtype": "F32", "shape": [1, 4], "data_offsets": [16, 32]}}, b"0" * 32),
        safetensors_file({"item": 1}),
    ],
)
def test_a_damaged_tensor_file_is_refused_without_reading_what_it_claims(content: bytes, workshop: Any) -> None:
    data = open_artifact(workshop.dataset("data"))
    sem = workshop.fill_semantic(workshop.root / "sem")
    (sem / "embeddings.safetensors").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        RectoolError, match=r"embeddings\.safetensors(: tensor 'item'.* is empty| is damaged)"
    ) as problem:
        adopting.check(sem, "semantic", data)
    assert "\n" not in str(problem.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"items": np.ones((3, 4), np.float32)}, "has no tensor 'item'; it has items"),
        ({"item": np.ones(3, np.float32)}, "tensor 'item' has shape (3,), but must be (items, embedding_size)"),
        ({"item": np.ones((3, 4, 1), np.float32)}, "has shape (3, 4, 1), but must be"),
        ({"item": np.ones((3, 0), np.float32)}, "has shape (3, 0): it is empty"),
        ({"item": np.ones((3, 4), np.int32)}, "tensor 'item' is I32, but must be one of F32, F16"),
        ({"item": np.ones((3, 4), np.float64)}, "tensor 'item' is F64, but must be one of F32, F16"),
    ],
)
def test_tensors_that_are_not_of_the_kind_are_refused(
    tensors: dict[str, Any], said: str, workshop: Any, rectool: Callable[..., Any]
) -> None:
    sem = workshop.fill_semantic(workshop.root / "sem", **tensors)
    done = rectool("adopt", sem, "--kind", "semantic", "--data", workshop.dataset("data"))
    assert done.code == 2
    assert said in done.error


def test_tensors_that_disagree_are_refused(workshop: Any, rectool: Callable[..., Any]) -> None:
    cf = workshop.fill_cf(workshop.root / "cf")
    save_file({"user": np.ones((2, 5), np.float32), "item": np.ones((3, 4), np.float32)}, cf / "embeddings.safetensors")
    done = rectool("adopt", cf, "--kind", "cf", "--data", workshop.dataset("data"))
    assert done.code == 2
    assert "tensor 'item' has 4 as embedding_size, but another has 5" in done.error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop_columns(["label"]), "has no column label (int8); it has user, item, timestamp"),
        (
            lambda table: table.set_column(0, "user", table.column("user").cast(pa.int64())),
            "column user is int64, but must be int32",
        ),
        (
            lambda table: table.set_column(5, "split", table.column("split").dictionary_encode()),
            "column split is dictionary<values=string, indices=int32, ordered=0>, but must be string",
        ),
        (lambda table: table.append_column("user", table.column("user")), "has 2 columns called user"),
        (lambda table: table.append_column("x", table.column(0)).append_column("x", table.column(1)), "2 columns"),
    ],
)
def test_a_table_that_is_not_of_the_kind_is_refused(
    change: Callable[[pa.Table], pa.Table], said: str, workshop: Any, rectool: Callable[..., Any]
) -> None:
    data = workshop.fill_dataset(workshop.root / "data")
    pq.write_table(change(workshop.interactions()), data / "interactions.parquet")
    done = rectool("adopt", data, "--kind", "dataset")
    assert done.code == 2
    assert f"{data / 'interactions.parquet'}" in done.error
    assert said in done.error


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 10, b"user,item\n1,2\n"])
def test_a_damaged_table_is_refused(content: bytes, workshop: Any, rectool: Callable[..., Any]) -> None:
    data = workshop.fill_dataset(workshop.root / "data")
    (data / "items.parquet").write_bytes(content)
    done = rectool("adopt", data, "--kind", "dataset")
    assert done.code == 2
    assert f"{data / 'items.parquet'} is damaged" in done.error


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '"x"', "\0"])
def test_a_damaged_document_is_refused(content: str, workshop: Any, rectool: Callable[..., Any]) -> None:
    sem = workshop.fill_semantic(workshop.root / "sem")
    (sem / "config.json").write_text(content)
    done = rectool("adopt", sem, "--kind", "semantic", "--data", workshop.dataset("data"))
    assert done.code == 2
    assert "config.json is damaged: not JSON" in done.error or "config.json must hold one JSON object" in done.error


# Taking in


@pytest.mark.parametrize("kind", ["dataset", "cf", "semantic", "result"])
def test_files_of_another_program_become_an_artifact(kind: str, workshop: Any, rectool: Callable[..., Any]) -> None:
    out = workshop.root / "runs" / kind
    getattr(workshop, f"fill_{kind}")(out)
    (out / "notes.txt").write_text("theirs")
    data = [] if kind == "dataset" else ["--data", workshop.dataset("data")]

    tried = rectool("adopt", out, "--kind", kind, *data, "--dry-run", "--json")
    assert tried.code == 0
    assert tried.json["dry_run"] is True
    assert not (out / "rectool.json").exists()

    done = rectool("adopt", out, "--kind", kind, *data, "--seed", 5, "--json")
    assert done.code == 0
    assert done.json == tried.json | {"dry_run": False}
    adopted = open_artifact(out, kind, verify=True)
    assert adopted.manifest.digests["artifact"] == done.json["digest"]
    assert (adopted.manifest.seed, adopted.manifest.command, adopted.manifest.directory) == (5, [], ".")
    assert [parent.role for parent in adopted.manifest.parents] == ["dataset"] * bool(data)
    assert "notes.txt" not in adopted.manifest.files
    assert sorted(os.listdir(out.parent)) == [kind]
    assert ".rectool.json.partial" not in os.listdir(out)


def test_a_dataset_that_is_taken_in_can_be_built_on(workshop: Any, rectool: Callable[..., Any]) -> None:
    data = workshop.fill_dataset(workshop.root / "data")
    assert rectool("adopt", data, "--kind", "dataset").code == 0
    assert open_artifact(workshop.child("cf", "cf", data)).parent("dataset").path == workshop.root / "cf/../data"


def test_the_folder_one_stands_in_can_be_taken_in(
    workshop: Any, rectool: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sem = workshop.fill_semantic(workshop.root / "sem")
    workshop.dataset("data")
    monkeypatch.chdir(sem)
    assert rectool("adopt", ".", "--kind", "semantic", "--data", "../data").code == 0
    assert open_artifact(sem).parent("dataset").manifest.kind == "dataset"


def test_a_manifest_that_is_there_is_kept(workshop: Any, rectool: Callable[..., Any]) -> None:
    sem = workshop.child("sem", "semantic", workshop.dataset("data"))
    before = (sem / "rectool.json").read_bytes()
    command = ["adopt", sem, "--kind", "semantic", "--data", workshop.root / "data"]
    for flags in ([], ["--dry-run"]):
        refused = rectool(*command, *flags)
        assert refused.code == 2
        assert refused.error == f"{sem} has a manifest already; --overwrite replaces it"
        assert (sem / "rectool.json").read_bytes() == before

    assert rectool(*command, "--overwrite").code == 0
    assert open_artifact(sem).manifest.command == []


BAD_ROWS = [
    ([ROWS[1], ROWS[0]], "row 1 has an earlier place than the row before it: sort by (user, timestamp)"),
    ([ROWS[3], ROWS[0]], "row 1 has an earlier place than the row before it"),
    ([(0, 3, 1, None, None, "train")], "row 0 has an item that items.parquet does not have"),
    ([ROWS[0], (0, -1, 11, None, None, "train")], "row 1 has an item that items.parquet does not have"),
    ([(2, 0, 1, None, None, "train")], "row 0 has a user that users.parquet does not have"),
    ([(-1, 0, 1, None, None, "train")], "row 0 has a user that users.parquet does not have"),
    ([ROWS[0], ROWS[1], (0, 2, 30, 4.0, 2, "train")], "row 2 has a label other than 0, 1 or null"),
    ([(0, 0, 1, None, -1, "train")], "row 0 has a label other than 0, 1 or null"),
    ([(0, 0, 1, None, None, "holdout")], "row 0 has a split other than train, valid, test, context"),
]


@pytest.mark.parametrize(("rows", "said"), BAD_ROWS)
def test_bad_rows_of_a_dataset_are_named(
    rows: list[Any], said: str, workshop: Any, rectool: Callable[..., Any]
) -> None:
    data = workshop.fill_dataset(workshop.root / "data", rows=rows)
    done = rectool("adopt", data, "--kind", "dataset")
    assert done.code == 2
    assert done.error.startswith(f"{data / 'interactions.parquet'}: {said}")
    assert not (data / "rectool.json").exists()


@pytest.mark.parametrize("place", [131_072, 200_000])
def test_bad_rows_are_counted_from_the_start_of_the_file(place: int, workshop: Any) -> None:
    data = workshop.fill_dataset(workshop.root / "data")
    rows = 262_144
    columns = {
        "user": np.zeros(rows, np.int32),
        "item": np.zeros(rows, np.int32),
        "timestamp": np.arange(rows),
        "rating": pa.nulls(rows, pa.float32()),
        "label": pa.nulls(rows, pa.int8()),
        "split": pa.repeat("train", rows),
    }
    columns["timestamp"][place] = 5  # earlier than its predecessor, which may be of another batch
    pq.write_table(pa.table(columns, schema=workshop.interactions().schema), data / "interactions.parquet")
    with pytest.raises(RectoolError, match=f"row {place} has an earlier place"):
        adopting.check(data, "dataset", None)


@pytest.mark.parametrize("name", ["user", "item", "timestamp", "split"])
def test_nulls_where_none_may_be_are_named(name: str, workshop: Any, rectool: Callable[..., Any]) -> None:
    data = workshop.fill_dataset(workshop.root / "data")
    table = workshop.interactions()
    table = pa.table(table.to_pydict(), schema=pa.schema([field.with_nullable(True) for field in table.schema]))
    index = table.schema.get_field_index(name)
    values = pa.array([None, *table.column(name).to_pylist()[1:]], table.schema.field(name).type)
    table = table.set_column(index, table.schema.field(name), values)
    pq.write_table(table, data / "interactions.parquet")
    done = rectool("adopt", data, "--kind", "dataset")
    assert done.code == 2
    assert f"column {name} has nulls" in done.error


def test_items_without_a_title_or_with_one_id_are_named(workshop: Any, rectool: Callable[..., Any]) -> None:
    data = workshop.fill_dataset(workshop.root / "data")
    schema = pa.schema([field.with_nullable(True) for field in workshop.items().schema])
    for ids, titles, said in (
        (["a", "b", "c"], ["x", None, "z"], "items.parquet: title is null in row 1"),
        (["a", "b", None], ["x", "y", "z"], "items.parquet: item_id is null in row 2"),
        (["a", "b", "a"], ["x", "y", "z"], "items.parquet: item_id 'a' stands twice, again in row 2"),
    ):
        pq.write_table(pa.table([ids, titles, [None] * 3], schema=schema), data / "items.parquet")
        done = rectool("adopt", data, "--kind", "dataset")
        assert done.code == 2
        assert said in done.error


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_embeddings_that_are_not_finite_are_named(
    value: float, kind: Any, workshop: Any, rectool: Callable[..., Any]
) -> None:
    table = np.ones((3, 4), kind)
    table[1, 2] = value
    sem = workshop.fill_semantic(workshop.root / "sem", item=table)
    done = rectool("adopt", sem, "--kind", "semantic", "--data", workshop.dataset("data"))
    assert done.code == 2
    assert done.error == f"{sem / 'embeddings.safetensors'}: row 1 of 'item' is not finite"


def test_embeddings_are_checked_to_the_last_row(workshop: Any) -> None:
    table = np.ones((70_000, 2), np.float32)
    table[69_999, 0] = np.nan
    sem = workshop.fill_semantic(workshop.root / "sem", item=table)
    data = open_artifact(workshop.dataset("data", titles=[str(row) for row in range(70_000)]))
    with pytest.raises(RectoolError, match="row 69999 of 'item' is not finite"):
        adopting.check(sem, "semantic", data)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("semantic", {"rows": 4}, "has 4 items, but its data set has 3"),
        ("cf", {"items": 2}, "has 2 items, but its data set has 3"),
        ("cf", {"users": 1}, "has 1 users, but its data set has 2"),
        ("result", {"rows": [0, 6]}, "row 1 has a row number that the data set does not have"),
        ("result", {"rows": [-1]}, "row 0 has a row number that the data set does not have"),
        ("result", {"rows": [0, None]}, "row 1 has a row number that the data set does not have"),
        ("result", {"score": float("nan")}, "row 0 has a score that is not finite"),
        ("result", {"score": None}, "row 0 has a score that is not finite"),
        ("result", {"side": {"rank": pa.array([1, 0])}}, "row 1 has a rank below 1"),
        ("result", {"topk": [(2, 1, 0, 0.5), (2, 2, 3, 0.4)]}, "row 1 has an item that the data set does not have"),
        ("result", {"topk": [(2, 1, None, 0.5)]}, "row 0 has an item that the data set does not have"),
        ("result", {"topk": [(6, 1, 0, 0.5)]}, "row 0 has a row number that the data set does not have"),
        ("result", {"topk": [(2, 0, 0, 0.5)]}, "row 0 has a rank below 1"),
        ("result", {"topk": [(2, 1, 0, float("inf"))]}, "topk.parquet: row 0 has a score that is not finite"),
        ("result", {"side": {"rank": pa.array(["1", "2"])}}, "column rank is string, but must be int64"),
        ("result", {"side": {"group": pa.array([1, 2])}}, "column group is int64, but must be string"),
    ],
)
def test_what_does_not_fit_the_data_set_is_refused(
    kind: str, options: dict[str, Any], said: str, workshop: Any, rectool: Callable[..., Any]
) -> None:
    out = getattr(workshop, f"fill_{kind}")(workshop.root / "out", **options)
    done = rectool("adopt", out, "--kind", kind, "--data", workshop.dataset("data"))
    assert done.code == 2
    assert said in done.error


def test_a_result_may_have_side_columns_and_lists(workshop: Any, rectool: Callable[..., Any]) -> None:
    side = {"group": pa.array(["warm", None], pa.large_string()), "rank": pa.array([3, None], pa.int64())}
    out = workshop.fill_result(workshop.root / "out", side=side, topk=[(2, 1, 0, 0.5), (2, 2, 1, 0.4), (5, 1, 2, 0.3)])
    assert rectool("adopt", out, "--kind", "result", "--data", workshop.dataset("data")).code == 0
    assert open_artifact(out, verify=True).manifest.counts == {"predictions": 2, "recommendations": 3}
    (out / "topk.parquet").unlink()
    assert rectool("adopt", out, "--kind", "result", "--data", workshop.root / "data", "--overwrite").code == 0
    assert open_artifact(out, verify=True).manifest.counts == {"predictions": 2}


def test_the_data_set_must_be_named_where_there_is_one(workshop: Any, rectool: Callable[..., Any]) -> None:
    sem, data = workshop.fill_semantic(workshop.root / "sem"), workshop.dataset("data")
    files = workshop.fill_dataset(workshop.root / "files")
    for arguments, said in (
        ([sem, "--kind", "semantic"], "--kind semantic belongs to a data set; name it with --data DATA"),
        ([files, "--kind", "dataset", "--data", data], "--kind dataset belongs to no data set; leave out --data"),
        ([sem, "--kind", "semantic", "--data", files], f"{files} is not a rectool artifact: it has no rectool.json"),
        ([sem, "--kind", "sematic", "--data", data], "there is no artifact kind 'sematic'; the kinds are dataset, cf"),
        ([workshop.root / "nowhere", "--kind", "dataset"], f"{workshop.root / 'nowhere'} is not a folder"),
    ):
        done = rectool("adopt", *arguments)
        assert done.code == 2
        assert done.error.startswith(said)
    assert not (sem / "rectool.json").exists()


@pytest.mark.parametrize("name", ["config.json", "embeddings.safetensors"])
def test_a_file_that_is_missing_is_named(name: str, workshop: Any, rectool: Callable[..., Any]) -> None:
    sem = workshop.fill_semantic(workshop.root / "sem")
    (sem / name).unlink()
    done = rectool("adopt", sem, "--kind", "semantic", "--data", workshop.dataset("data"))
    assert done.code == 2
    assert f"{sem / name} is missing: an artifact of kind semantic has it" in done.error


def test_a_table_of_a_type_without_a_digest_is_refused(workshop: Any, rectool: Callable[..., Any]) -> None:
    data = workshop.fill_dataset(workshop.root / "data")
    table = workshop.items().append_column("cover", pa.array([b"1", b"2", b"3"]))
    pq.write_table(table, data / "items.parquet")
    done = rectool("adopt", data, "--kind", "dataset")
    assert done.code == 2
    assert "column cover is binary, of which rectool takes no digest" in done.error


# Scripts


def test_a_script_has_each_ancestor_once_and_no_line_from_a_path(workshop: Any) -> None:
    data = workshop.dataset("da\nta")
    semantic = workshop.child("sem", "semantic", data)
    result = workshop.child("result", "result", data, semantic)
    manifest = json.loads((data / "rectool.json").read_text())
    (data / "rectool.json").write_text(json.dumps(manifest | {"command": []}))

    lines = lineage.script(lineage.tree(open_artifact(result))).splitlines()
    assert lines[:3] == ["#!/usr/bin/env bash", "# Rebuilds result.", "set -euo pipefail"]
    assert lines[-2:] == ["rectool made --update", "rectool made --update"]
    assert [line for line in lines if "adopted" in line] == [f"# {result}/../da ta was adopted"]
    assert all(line.startswith(("#", "set ", "cd ", "rectool ")) for line in lines)


def test_a_script_follows_the_places_that_a_command_was_told(workshop: Any, tmp_path: Path) -> None:
    """And does without them, since what was moved is made where it stood; a place of another artifact is left."""
    data = workshop.dataset("data")
    semantic = workshop.child("sem", "semantic", data)
    result = workshop.child("result", "result", workshop.dataset("other"), semantic)
    told = ["rectool", "eval", "--parent", "dataset=away/data", "--parent", "cf=away/mf"]
    manifest = json.loads((result / "rectool.json").read_text())
    (result / "rectool.json").write_text(json.dumps(manifest | {"command": told, "directory": ".."}))
    (tmp_path / "away").mkdir()
    data.rename(tmp_path / "away/data")

    origin = lineage.tree(open_artifact(result))
    assert [node.path for node in lineage.parents_first(origin) if node.path.name == "data"] == [tmp_path / "away/data"]
    assert [lineage.gap(node) for node in lineage.parents_first(origin)] == [None] * 4
    assert f"# {tmp_path / 'away/data'} is made anew where it stood: {data}" in lineage.script(origin)
    assert lineage.steps(origin)[-1].line == " ".join(told)
    assert lineage.steps(origin)[-1].again == "rectool eval --parent cf=away/mf --update"

    (tmp_path / "away/data").rename(tmp_path / "away/gone")
    workshop.dataset("away/data", titles=["Alien", "Heat", "Down"])  # another one
    gaps = [lineage.gap(node) for node in lineage.parents_first(lineage.tree(open_artifact(result)))]
    assert (
        f"made by a command that is not known: {data} is not there any more (--parent dataset=PATH says where it is)"
        in gaps
    )
