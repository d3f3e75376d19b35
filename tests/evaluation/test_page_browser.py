"""The page of a comparison in a real browser, where there is one."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROBE = """
const said = {};
const table = document.querySelector("table.sortable");
const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.startsWith("auc"));
const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.value));
const button = table.tHead.rows[0].cells[column].querySelector("button");
const seen = () => [...document.querySelectorAll("#task-1 .group")].filter((part) => part.offsetParent !== null);
button.focus();
said.focused = document.activeElement === button;
button.click();
said.down = values();
said.state = table.tHead.rows[0].cells[column].getAttribute("aria-sort");
button.click();
said.up = values();
said.foot = table.tFoot.rows[0].cells[0].textContent;
said.first = [...new Set(seen().map((part) => part.dataset.group))];
document.querySelector("#task-1 input[value=cold]").click();
said.cold = [...new Set(seen().map((part) => part.dataset.group))];
document.querySelector("#task-1 input[name=group][value='']").click();
said.every = new Set(seen().map((part) => part.dataset.group)).size;
const ends = document.querySelector("#task-1 .ends");
said.ends = [ends.offsetParent !== null];
document.querySelector("#task-1 input[name=ends]").click();
said.ends.push(ends.offsetParent !== null);
const minor = document.querySelector("#task-1 td.minor");
said.minor = [minor.offsetParent !== null];
document.querySelector("#task-1 input[name=minor]").click();
said.minor.push(minor.offsetParent !== null);
said.drawn = [...document.querySelectorAll("figure svg")].every((each) => each.getBoundingClientRect().height > 100);
said.loaded = performance.getEntriesByType("resource").length;
const answer = document.createElement("output");
answer.id = "answer";
answer.textContent = JSON.stringify(said);
document.body.append(answer);
"""


@pytest.fixture
def browser(tmp_path: Path) -> Any:
    """Opens a page without a network; returns its document after its scripts, and what it said on the console."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium or Chrome here")

    def look(page: Path) -> tuple[str, list[str]]:
        done = subprocess.run(
            [
                *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"),
                *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"),
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return look


def test_a_browser_shows_it_sorts_and_chooses(results: Any, browser: Any, tmp_path: Path) -> None:
    page = results.compared / "report.html"
    document, console = browser(page)
    assert console == []
    assert "<button" in document  # the script ran: its hash is that of the policy

    text = page.read_text("utf-8")
    policy = text[text.index("script-src") : text.index("style-src")]
    probed = tmp_path / "probed.html"
    probed.write_text(
        text.replace(policy, "script-src 'unsafe-inline'; ").replace("</body>", f"<script>{PROBE}</script></body>")
    )
    document, console = browser(probed)
    assert console == []
    answer = document[document.index('<output id="answer">') + len('<output id="answer">') :]
    said = json.loads(html.unescape(answer[: answer.index("</output>")]))
    assert said["focused"]
    assert len(set(said["down"])) == 2
    assert said["down"] == sorted(said["down"], reverse=True)
    assert said["state"] == "descending"
    assert said["up"] == sorted(said["down"])
    assert said["foot"] == "best reachable"
    assert (said["first"], said["cold"]) == (["all"], ["cold"])
    assert said["every"] == 6
    assert (said["ends"], said["minor"]) == ([True, False], [False, True])
    assert said["drawn"]
    assert said["loaded"] == 0


def test_the_policy_keeps_out_what_was_put_into_the_page(results: Any, browser: Any, tmp_path: Path) -> None:
    page = results.compared / "report.html"
    changed = tmp_path / "changed.html"
    inserted = "<script>document.title = 'taken'</script><img src='https://example.org/x.png'>"
    changed.write_text(page.read_text("utf-8").replace("</main>", inserted + "</main>"))
    document, console = browser(changed)
    assert "<title>4 results compared</title>" in document
    assert len(console) >= 2
    assert all("Content Security Policy" in line for line in console)
