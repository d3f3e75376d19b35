"""Artifacts that lie in folders of another one, each valid alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rectool.artifacts import Draft, Making, Parent, open_artifact, write
from rectool.errors import RectoolError

PARENTS = [
    Parent("dataset", "dataset", "../data", {"users": "u", "items": "i", "training": "t"}),
    Parent("semantic", "semantic", "../../items", {"artifact": "a"}),
    Parent("model", "hub", "owner/name", {"commit": "c"}),
]


def making() -> Making:
    return Making(command=["rectool", "align"], settings={"epochs": 1}, seed=3, parents=PARENTS)


def fill(draft: Draft) -> None:
    (draft.path / "comparison.json").write_text("{}")
    part = draft.part("inner", "comparison")
    (part.path / "comparison.json").write_text('{"of": "the part"}')
    part.metrics.update(auc=0.5)
    draft.run.update(device="a GPU")


def test_a_part_is_an_artifact_of_its_own(tmp_path: Path) -> None:
    with write(tmp_path / "out", "comparison", making()) as draft:
        fill(draft)
    whole, part = (
        open_artifact(path, "comparison", verify=True) for path in (tmp_path / "out", tmp_path / "out/inner")
    )
    assert set(whole.manifest.files) == {"comparison.json", "inner/comparison.json", "inner/rectool.json"}
    assert set(part.manifest.files) == {"comparison.json"}
    for name in ("command", "settings", "seed"):
        assert getattr(part.manifest, name) == getattr(whole.manifest, name)
    assert part.manifest.metrics == {"auc": 0.5}
    assert part.manifest.run["device"] == whole.manifest.run["device"] == "a GPU"
    assert (tmp_path / "out/inner" / part.manifest.directory).resolve() == Path.cwd()
    assert [parent.path for parent in part.manifest.parents] == ["../../data", "../../../items", "owner/name"]


@pytest.mark.parametrize(
    ("kind", "binds"), [("cf", {"users", "items", "training"}), ("semantic", {"items"}), ("projector", set())]
)
def test_a_part_binds_what_its_kind_does(kind: str, binds: set[str]) -> None:
    data, semantic, _ = making().of_part(kind).parents
    assert set(data.digests) == binds
    assert semantic.digests == {"artifact": "a"}


def test_a_part_without_its_files_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(RectoolError, match=r"inner/comparison\.json is missing"),
        write(tmp_path / "out", "comparison", making()) as draft,
    ):
        (draft.path / "comparison.json").write_text("{}")
        draft.part("inner", "comparison")
    assert not (tmp_path / "out").exists()


def test_changing_a_part_damages_the_whole(tmp_path: Path) -> None:
    with write(tmp_path / "out", "comparison", making()) as draft:
        fill(draft)
    (tmp_path / "out/inner/comparison.json").write_text('{"of": "the PART"}')
    with pytest.raises(RectoolError, match="has changed"):
        open_artifact(tmp_path / "out", verify=True)
