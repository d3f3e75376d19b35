"""What reaches a terminal, a pipe and a log file, byte for byte."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rectool import following
from rectool.following import Counted, Progress

FOLLOWED = """
import sys, time
from rectool import console
console.configure(quiet="quiet" in sys.argv, json=False)
with console.progress("training a model", 20_000, 10_000) as advance:
    for step in range(6):
        time.sleep(0.15)
        advance(100)
        if step == 3:
            console.say("epoch 1, step 400: loss 0.5")
with console.step("sorting", fraction=lambda: 0.5):
    time.sleep(0.3)
"""
"""A program that follows work for a second and a bit, and says a line meanwhile."""


@dataclass(frozen=True)
class Shown:
    code: int
    text: str

    def screen(self, width: int) -> list[str]:
        """The lines that are left on a terminal of that width; fails on what it does not know."""
        rows, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]", self.text):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif part.endswith("A"):
                row = max(0, row - int(part[2:-1] or 1))
            elif part == "\x1b[2K":
                rows[row] = ""
            elif not part.startswith("\x1b"):
                assert column < width, f"wrapped after {rows[row]!r}"
                rows[row] = rows[row].ljust(column)[:column] + part + rows[row][column + 1 :]
                column += 1
            else:
                assert part.endswith(("m", "h", "l")), part
        return [line.rstrip() for line in rows if line.strip()]

    def drawn(self) -> list[str]:
        """Each state of the live line."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.text)
        return [line.strip() for line in re.split(r"[\r\n]|\x1b\[[?0-9;]*[a-zA-Z]", plain) if line.strip()]


def on_terminal(
    words: Sequence[str], width: int, *, then: Callable[[subprocess.Popen[bytes]], None] | None = None, **more: str
) -> Shown:
    """Run a program on a terminal of a width; `then` is called once it has shown something."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    kept = os.environ.keys() - {"COLUMNS", "NO_COLOR", *following.KEEPERS}
    environment = {**{name: os.environ[name] for name in kept}, "TERM": "xterm-256color", **more}
    running = subprocess.Popen(
        words,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )
    os.close(theirs)
    found, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                read = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            found += read
            if then is not None:
                then, do = None, then
                do(running)
    os.close(ours)
    return Shown(running.wait(10), found.decode())


def in_pipe(words: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **more}, timeout=120)


PROGRAM = [sys.executable, "-c", FOLLOWED]
RECTOOL = [sys.executable, "-m", "rectool"]


# The live line


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("colours", [{}, {"NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_terminal_shows_one_line_that_fits(width: int, colours: dict[str, str]) -> None:
    shown = on_terminal(PROGRAM, width, **colours)
    left = shown.screen(width)  # fails where a line wraps
    assert left[0] == "epoch 1, step 400: loss 0.5"
    assert re.fullmatch(r"sorting, 0\.\d s", left[1])
    assert len(left) == 2  # nothing is left of the bar
    states = [line for line in shown.drawn() if "steps/s" in line]
    assert states
    for state in states:
        assert re.search(r"(10,\d00/20,000|5\d%) [\d.,]+ steps/s \d+:\d\d:\d\d", state), state
        assert state.startswith("training")
        assert len(state) < width
    assert width == 40 or any("left" in state for state in states)
    assert any(bar in state for state in states for bar in "━#") == (width == 80)
    assert bool(re.search(r"\x1b\[[0-9;]+m", shown.text)) == ("NO_COLOR" not in colours)
    assert shown.code == 0


@pytest.mark.parametrize("kept", [{"TERM": "dumb"}, {"CI": "true"}, {"JPY_PARENT_PID": "1"}])
def test_nothing_is_drawn_where_all_that_is_drawn_is_kept(kept: dict[str, str]) -> None:
    """A notebook starts commands on a terminal: nine hours at four lines a second would be kept there."""
    shown = on_terminal(PROGRAM, 80, **kept)
    assert re.fullmatch(r"epoch 1, step 400: loss 0\.5\r\nsorting, 0\.\d s\r\n", shown.text)


def test_a_pipe_gets_plain_lines() -> None:
    done = in_pipe(PROGRAM)
    assert re.fullmatch(r"epoch 1, step 400: loss 0\.5\nsorting, 0\.\d s\n", done.stderr)
    assert done.stdout == ""


def test_a_log_gets_lines_of_how_far_it_is() -> None:
    hurried = FOLLOWED.replace("from rectool import console", "from rectool import console, following as f") + "\n"
    hurried = hurried.replace("console.configure", "f.SHORTEST_PAUSE = f.LONGEST_PAUSE = 0.25\nconsole.configure", 1)
    lines = in_pipe([sys.executable, "-c", hurried]).stderr.splitlines()
    told = [line for line in lines if line.startswith("training")]
    assert 1 <= len(told) <= 4
    for line in told:
        figures = r"10,\d00/20,000, [\d,.]+ steps/s, 0:00:0\d so far(, about \d:\d\d:\d\d left)?"
        assert re.fullmatch(rf"training a model: {figures}", line), line
    assert any(re.fullmatch(r"sorting: 50%, 0:00:00 so far", line) for line in lines)


def test_a_quiet_run_says_nothing() -> None:
    assert on_terminal([*PROGRAM, "quiet"], 80).text == ""


def test_nine_hours_are_a_short_log() -> None:
    now, lines = 0.0, 0
    while now < 9 * 3600:
        now += following.pause(now)
        lines += 1
    assert lines == 116
    assert following.pause(0) == 30
    assert following.pause(1e9) == 600


# How far, how fast, how long


def test_what_earlier_runs_did_is_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted("training", 1000, 900, "steps")
    counted.count(50)
    assert counted.figures(100.0) == ["950/1,000", "0.5 steps/s"]
    assert counted.left(100.0) == pytest.approx(100.0)


def test_the_time_left_is_told_where_it_is_known() -> None:
    assert Counted("training", 1000, 0, "steps").left(10.0) is None
    assert Counted("receiving", None, 0, "MB").left(10.0) is None
    assert Counted("training", 1000, 0, "steps", left=lambda: 7.0).left(10.0) == 7.0
    halves = iter([0.25, 0.5])
    assert Progress("sorting", lambda: next(halves)).left(60.0) == pytest.approx(120.0)


def test_a_name_of_the_data_moves_no_cursor() -> None:
    assert Counted("reading \x1b[2J\n x", 2, 0, "rows").text(60).plain.startswith("reading ?[2J? x ")


@pytest.mark.parametrize("width", [1, 10, 20, 30, 39, 60, 79, 200])
@pytest.mark.parametrize("doing", ["x", "a very long name of some work " * 9, "漢字" * 30])
def test_a_line_is_never_wider_than_it_may_be(width: int, doing: str) -> None:
    counted = Counted(doing, 12_345_678, 0, "prompts")
    counted.started -= 1000
    counted.count(1_234_567)
    for plain in (False, True):
        line = counted.text(width, plain=plain)
        assert line.cell_len <= width
        if width >= 60:
            assert re.search(r"1,234,567/12,345,678 [\d,.]+ prompts/s [\d:]+ left$", line.plain)


# Streams that go away


@pytest.mark.parametrize("words", [["--help"], ["prep", "synthetic", "--help"], ["--version"], ["plot"]])
def test_a_closed_stdout_gives_no_traceback(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*RECTOOL, *words], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert "error" not in done.stderr


def test_work_goes_on_when_nobody_reads_any_more(tmp_path: Path) -> None:
    """`rectool ... 2>&1 | head -1` must not cost what was to be made."""
    reading, writing = os.pipe()
    os.close(reading)
    words = [*RECTOOL, "prep", "synthetic", "--users", "30", "--items", "60", "--out", str(tmp_path / "out")]
    done = subprocess.run(words, stdout=writing, stderr=writing, timeout=120)
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "out" / "rectool.json").exists()


def test_stdout_holds_what_was_asked_for_and_nothing_else(rectool: Any, tmp_path: Path) -> None:
    words = ("prep", "synthetic", "--users", 30, "--items", 60, "--out", tmp_path / "out")
    made = rectool(*words, "--json")
    assert made.json["kind"] == "dataset"
    assert made.stdout.count("\n") == 1
    assert "rows" in made.stderr
    again = rectool(*words, "--json", "--update")
    assert again.json["skipped"] is True
    assert again.stdout.count("\n") == 1
    assert rectool("inspect", tmp_path / "out", "--json").json["artifact"] == str(tmp_path / "out")
    assert rectool(*words, "--json").stdout == ""  # an error is no answer


def test_titles_in_any_script_can_be_shown_anywhere(tmp_path: Path) -> None:
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("user_id,item_id,timestamp,rating\n" + "".join(f"u{n % 4},i{n % 3},{n},5\n" for n in range(24)))
    items.write_text("item_id,title\ni0,漢字\ni1,Ünder\ni2,Up\n", encoding="utf-8")
    words = ["prep", "table", str(log), "--items", str(items), "--out", str(tmp_path / "漢字")]
    done = in_pipe([*RECTOOL, *words], PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    done = in_pipe([*RECTOOL, "inspect", str(tmp_path / "漢字"), "--json"], PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\\u6f22" in done.stdout


# The end by a key


def test_an_interrupt_is_one_line() -> None:
    def interrupt(running: subprocess.Popen[bytes]) -> None:
        time.sleep(0.5)  # until the line stands
        running.send_signal(signal.SIGINT)

    code = "import time\nfrom rectool import cli, console\n"
    code += "def work(**_):\n with console.progress('training', 10) as advance:\n  advance(1)\n  time.sleep(60)\n"
    code += "cli.commands_of = lambda app: work\ncli.main()"
    shown = on_terminal([sys.executable, "-c", code], 80, then=interrupt)
    assert shown.code == 130
    assert shown.screen(80) == ["error: interrupted; no artifact was written"]
    assert shown.text.count("\x1b[?25h") >= 1  # the cursor is back
