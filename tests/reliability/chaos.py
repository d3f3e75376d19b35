"""Disturb every command that writes, continue it, and see whether it ends as an undisturbed run does.

    python tests/reliability/chaos.py --trials 200             all commands in turn, 200 trials together
    python tests/reliability/chaos.py --minutes 60 --seed 7
    python tests/reliability/chaos.py --case tune-lora --disturbance SIGTERM --trials 20

A trial starts a command over nothing, or (`--overwrite`, `--update`) over an artifact of another seed; disturbs it
one to three times at moments that its seed chooses, each time after what a user would type next; and lets it come to
its end. After each disturbance `rectool inspect --verify` must find the old artifact or the new one, whole; in the
end the artifact must be that of an undisturbed run (`states.content` says what that means), and nothing may lie
beside it. Prints each failure with the flags that repeat it, then a table of what was tried; exits with 1 if
anything failed. `--json` prints the figures instead.
"""

from __future__ import annotations

import os

os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"})
os.environ.update({"COLUMNS": "200", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"})

import argparse
import gc
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import states
from breaking import Breaking
from cases import CASES, Case, with_needs, write_raw
from children import Child, learn, warm_up
from disturbing import Attempt, Disturbance, Undisturbed, available

STANCES = ((), ("--overwrite",), ("--update",))
OLD, NEW = 1, 0
"""Seeds of what stands there before, and of what is made."""


@dataclass
class Found:
    """What the trials of a case came to.

    Attributes:
        trials: how many there were.
        disturbed: runs that were disturbed before their end, by disturbance.
        resumed: runs that went on from a checkpoint.
        lost: artifacts that were gone, damaged or other than they should be.
        problems: what was wrong, with the flags that repeat it.
    """

    trials: int = 0
    disturbed: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)


class Chaos:
    """Trials in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disturbances = available(root)
        self.usual: dict[str, Undisturbed] = {}
        self.content: dict[tuple[str, int], dict[str, object]] = {}
        self.found: dict[str, Found] = {}

    def prepare(self, names: list[str]) -> None:
        """Run each case, and those that it needs, without disturbance."""
        write_raw(self.root / "raw")
        for name in with_needs(names):
            self._run_undisturbed(name, NEW)

    def _run_undisturbed(self, name: str, seed: int) -> None:
        """The new one stays where others read it, at `NAME/x`, the old one at `NAME.old/x`."""
        folder = self.root / (name if seed == NEW else f"{name}.old")
        folder.mkdir()
        self._lay_out(CASES[name], folder)
        noted = folder.with_name(f"{folder.name}.noted")
        child = Child(folder, words(CASES[name], seed), lambda: _Counting(noted))
        code = child.wait()
        if code != 0:
            raise SystemExit(f"{name} does not even run: {child.said}")
        seconds = time.monotonic() - child.began
        size = sum(path.stat().st_size for path in (folder / "x").rglob("*") if path.is_file())
        calls, *modules = noted.read_text().split()
        self.usual[name] = Undisturbed(seconds, int(calls), size)
        learn(modules)
        self.content[name, seed] = states.content(folder / "x")

    def _lay_out(self, case: Case, folder: Path) -> None:
        if case.adopts:
            shutil.copytree(self.root / case.adopts / "x", folder / "x")
            (folder / "x" / states.MANIFEST).unlink()

    def trial(self, name: str, disturbance: str, seed: int) -> None:
        """One command, disturbed and brought to its end; what is wrong goes to `found`."""
        chance = random.Random(f"{name} {disturbance} {seed}")
        found = self.found.setdefault(name, Found())
        found.trials += 1
        folder = self.root / "trial"
        for path in self.root.glob("trial*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder.mkdir()
        try:
            self._play(CASES[name], name, self.disturbances[disturbance], disturbance, folder, chance, found)
        except (AssertionError, TimeoutError) as problem:
            found.problems.append(
                f"--case {name} --disturbance '{disturbance}' --only {seed}: {problem}".replace("\n", "\n    ")
            )

    def _play(
        self,
        case: Case,
        name: str,
        disturb: Disturbance,
        called: str,
        folder: Path,
        chance: random.Random,
        found: Found,
    ) -> None:
        stance = chance.choice(STANCES)
        before = None
        if stance:
            if (name, OLD) not in self.content:
                self._run_undisturbed(name, OLD)
            shutil.copytree(self.root / f"{name}.old" / "x", folder / "x")
            before = OLD
        else:
            self._lay_out(case, folder)
        flags, now = stance, before
        for _ in range(chance.choice((1, 1, 2, 3))):
            resumes = states.has_checkpoint(folder) and flags != ("--overwrite",)
            line = (*words(case, NEW), *flags)
            is_disturbed = disturb(Attempt(folder, line, self.usual[name], chance))
            found.disturbed[called] += is_disturbed
            found.resumed += resumes
            now = self._standing(folder, name, before, found)
            if not is_disturbed:
                assert now == NEW, f"it ended well, but seed {now} stands there"
            if now == NEW:
                break
            flags = next_flags(case, folder, stance, chance)
        is_calm = now != NEW
        if is_calm:
            found.resumed += "--resume" in flags
            child = Child(folder, (*words(case, NEW), *flags))
            code = child.wait()
            assert code == 0, f"{flags} ended with {code}: {child.said}"
            now = self._standing(folder, name, before, found)
        assert now == NEW, f"seed {now} stands there in the end"
        left = {path.name for path in folder.iterdir()} - {"x"}
        left |= {path.name for path in (folder / "x").glob(states.UNFINISHED)}
        if not is_calm:  # the last run died with all done, or could not remove its lock, which holds nobody up
            left.discard(".x.lock")
        assert not left, f"beside it are {sorted(left)}"

    def _standing(self, folder: Path, name: str, before: int | None, found: Found) -> int | None:
        """The seed of what a reader finds: the old or the new one, all of it."""
        try:
            now = states.standing(folder)
            assert now in (before, NEW), f"seed {now} stands there, not {before} or {NEW}"
            if now is not None:
                other = states.differences(states.content(folder / "x"), self.content[name, now])
                assert not other, f"seed {now} stands there with other {other}"
        except AssertionError:
            found.lost += 1
            raise
        return now


class _Counting(Breaking):
    """Writes to a file how many calls changed the disk, and which modules have been imported."""

    def __init__(self, path: Path) -> None:
        super().__init__(0, kill=True)
        self.path = path

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.path.write_text(" ".join([str(self.calls), *sorted(sys.modules)]))


def words(case: Case, seed: int) -> tuple[str, ...]:
    """The whole command."""
    return (*case.words, *(() if case.adopts else ("--out", "x")), "--seed", str(seed))


def next_flags(case: Case, folder: Path, stance: tuple[str, ...], chance: random.Random) -> tuple[str, ...]:
    """What a user would add to a command that was disturbed."""
    if (folder / ".x.partial" / states.MANIFEST).exists():  # nothing is left to resume
        return ("--update",)
    if case.resumable and states.has_checkpoint(folder):
        return (chance.choice(("--resume", "--resume", "--update")),)
    return stance


def plan(names: list[str], disturbances: list[str], seed: int) -> Iterator[tuple[str, str, int]]:
    """Case, disturbance and seed of each trial, without end: all cases in turn, each time by another disturbance."""
    for number in itertools.count():
        for index, name in enumerate(names):
            yield name, disturbances[(number + index + seed) % len(disturbances)], seed + number


def main() -> None:
    arguments = _arguments()
    names = arguments.case or [name for name, case in CASES.items() if not case.helps]
    if any(CASES[name].resumable for name in with_needs(names)):
        warm_up()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a kill loses nothing there, and it is fast
    with tempfile.TemporaryDirectory(prefix="rectool-chaos-", dir=memory) as root:
        chaos = Chaos(Path(root))
        chaos.prepare(names)
        chosen = arguments.disturbance or list(chaos.disturbances)
        until = time.monotonic() + 60 * arguments.minutes if arguments.minutes else None
        trials = plan(names, [name for name in chosen if name in chaos.disturbances], arguments.seed)
        for number, (name, disturbance, seed) in enumerate(trials):
            if time.monotonic() >= until if until else number >= arguments.trials:
                break
            if arguments.only is not None:
                seed = arguments.only
            problems = len(chaos.found.get(name, Found()).problems)
            chaos.trial(name, disturbance, seed)
            for problem in chaos.found[name].problems[problems:]:
                sys.stderr.write(f"{problem}\n")
    _report(chaos, as_json=arguments.json)
    gc.unfreeze()
    sys.exit(any(found.problems for found in chaos.found.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--minutes", type=float, help="instead of a number of trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the seed of every trial, to repeat one")
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--disturbance", action="append")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _report(chaos: Chaos, *, as_json: bool) -> None:
    if as_json:
        figures = {
            name: {
                "trials": found.trials,
                "disturbed": dict(found.disturbed),
                "resumed": found.resumed,
                "lost": found.lost,
                "problems": found.problems,
            }
            for name, found in chaos.found.items()
        }
        sys.stdout.write(json.dumps(figures))
        return
    rows = [
        (name, found.trials, found.disturbed.total(), found.resumed, found.lost) for name, found in chaos.found.items()
    ]
    rows.append(("all", *(sum(row[column] for row in rows) for column in range(1, 5))))
    sys.stdout.write(
        "| command | trials | disturbed runs | resumed | artifacts lost |\n| --- | ---: | ---: | ---: | ---: |\n"
    )
    sys.stdout.writelines(f"| {' | '.join(map(str, row))} |\n" for row in rows)
    by_kind = sum((found.disturbed for found in chaos.found.values()), Counter[str]())
    sys.stdout.write("\n" + ", ".join(f"{kind}: {count}" for kind, count in sorted(by_kind.items())) + "\n")


if __name__ == "__main__":
    main()
