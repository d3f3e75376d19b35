"""How every command that writes an artifact runs: check, skip or refuse, make, report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectool import console, processes
from rectool.commands.flags import command_line
from rectool.commands.options import Make, Resumable
from rectool.errors import RectoolError
from rectool.settings import recorded

if TYPE_CHECKING:
    from rectool.artifacts import Draft, Input, Making, Manifest
    from rectool.data.estimate import Plan


def make_artifact(
    kind: str,
    words: Sequence[str],
    make: Make,
    groups: Sequence[Any],
    *,
    plan: Callable[[], Plan],
    inputs: Callable[[], Sequence[Input]],
    build: Callable[[Draft], None],
    show: Callable[[Manifest], None],
    temp_dir: Path | None = None,
    above: Collection[str] = (),
) -> None:
    """Make an artifact as the shared flags say.

    A command whose `make` is `Resumable` can be continued, and works in all processes: only the main one
    checks, decides and writes, the others `build` into a draft that is thrown away.

    Args:
        words: the command's own words, such as `rectool prep movielens`.
        groups: all its settings, `make` aside.
        plan: checks the inputs and tells what would be done.
        inputs: the raw files and artifacts that are read; may download.
        build: writes the files into the draft.
        show: prints what was made.
        above: roles that `--parent` may name beside those of `inputs`: of what these are made from, and is read too.

    Raises:
        RectoolError: bad input or settings, or something stands at `--out`.
    """
    from rectool.artifacts import draft, manifest

    resumable = isinstance(make, Resumable)
    if resumable and not processes.is_main():
        with draft.away(resumed=processes.broadcast_json()) as written:
            build(written)
        return
    ready = _check(kind, words, make, groups, plan=plan, inputs=inputs, above=above)
    if ready is None:
        return
    making, resume = ready
    replace = make.overwrite or make.update
    with draft.write(
        make.out, kind, making, replace=replace, temp_dir=temp_dir, resumable=resumable, resume=resume
    ) as written:
        processes.broadcast_json(written.resumed)
        build(written)
    made = manifest.read(make.out)
    show(made)
    console.say(
        f"{make.out}: {kind} written in {made.run['wall_seconds']:.1f} s; rectool inspect {make.out} tells more"
    )
    _report(make.out, made, skipped=False)


def _check(
    kind: str,
    words: Sequence[str],
    make: Make,
    groups: Sequence[Any],
    *,
    plan: Callable[[], Plan],
    inputs: Callable[[], Sequence[Input]],
    above: Collection[str],
) -> tuple[Making, bool] | None:
    """How it is to be made, and whether a run that stopped is to be continued; None if there is nothing to make."""
    from rectool.artifacts import Making, draft, folder, kinds, manifest, open_artifact, unfinished
    from rectool.artifacts.artifact import is_whole, manifest_exists
    from rectool.artifacts.inputs import same_making

    out = make.out
    resumable = isinstance(make, Resumable)
    resume = isinstance(make, Resumable) and make.resume
    settings = recorded(groups)
    folder.settle(out, is_whole, replace=resume or make.update)
    draft.refuse_foreign(out)
    if not (make.overwrite or make.update):
        folder.refuse_busy(out)  # else what it has done so far would look like a run that stopped
    if resume:
        unfinished.expect(out)
    elif not (make.overwrite or make.update):
        draft.refuse_existing(out)
    planned = plan()
    there = manifest_exists(out)
    asked = kind != "dataset" and (resume or make.parent)  # a data set is made of raw files alone
    sources = inputs() if asked or not make.dry_run else []
    known = {source.role for source in sources if source.artifact is not None}.union(above)
    for role in sorted(make.parents().keys() - known):
        those = f"those that it reads are: {', '.join(sorted(known))}" if known else "it reads none at all"
        raise RectoolError(f"--parent {role}: {' '.join(words)} reads no artifact in this role; {those}")
    if there:
        _refuse_replaced(out, map(Path, planned.reads) if make.dry_run else (source.path for source in sources))

    def making() -> Making:
        return Making(
            command=command_line(words, [*groups, make]),
            settings=settings,
            seed=make.seed,
            parents=[source.parent(out, kind) for source in sources],
            world_size=processes.world_size() if resumable else 1,
        )

    if make.dry_run:
        if resume:
            unfinished.to_resume(out, making().recipe(kind))
        _tell(out, kind, planned)
        return None
    if there and make.update:
        made = manifest.read(out)
        differs = same_making(
            made,
            kind=kind,
            kind_version=kinds.named(kind).version,
            settings=settings,
            seed=make.seed,
            inputs=sources,
        )
        if differs is None:
            open_artifact(out, kind)
            report_kept(out, made)
            return None
        console.say(f"{out} is made again: {differs}")
    made_so = making()
    earlier = unfinished.find(out) if make.update else None
    if earlier is not None:
        changed = earlier.changed(made_so.recipe(kind))
        resume = not changed
        if changed:
            console.say(f"{out} starts anew, not from step {earlier.step}: {changed[0]}")
    return made_so, resume


def _refuse_replaced(out: Path, sources: Iterable[Path]) -> None:
    """Raises RectoolError if something that is read lies in what is to be replaced."""
    from rectool.artifacts import folder

    for source in sources:
        if folder.real(source).is_relative_to(folder.real(out)):
            raise RectoolError(f"{source} lies in {out}, which is to be replaced; choose another --out")


def _tell(out: Path, kind: str, plan: Plan) -> None:
    for source in plan.reads:
        console.show(f"would read   {source}")
    console.show(f"would write  {out} ({kind}, about {_size(plan.disk_bytes)})")
    console.show(
        f"would need   up to {_size(plan.scratch_bytes)} of temporary files, {_size(plan.memory_bytes)} of memory"
    )
    console.result(
        {
            "dry_run": True,
            "artifact": str(out),
            "kind": kind,
            "reads": list(plan.reads),
            "disk_bytes": plan.disk_bytes,
            "scratch_bytes": plan.scratch_bytes,
            "memory_bytes": plan.memory_bytes,
        }
    )


def report_kept(out: Path, made: Manifest) -> None:
    """Say that what stands at `--out` is up to date."""
    console.say(f"{out} is up to date")
    _report(out, made, skipped=True)


def _report(out: Path, made: Manifest, *, skipped: bool) -> None:
    console.result(
        {
            "artifact": str(out),
            "kind": made.kind,
            "skipped": skipped,
            "digest": made.digests["artifact"],
            "counts": made.counts,
            "metrics": made.metrics,
            "wall_seconds": made.run.get("wall_seconds"),
        }
    )


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count = round(count / 1000)
    return f"{count} GB"
