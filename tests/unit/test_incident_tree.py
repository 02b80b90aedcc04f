"""The tree of an incident that goes on: in a terminal what the page shows, in the same words."""

import asyncio
import os
import pty
import re
import sys
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path

from pydantic_core import to_jsonable_python
from rich.console import Console

from rollbackd.cli.incident_tree import tree
from rollbackd.model import Request
from rollbackd.views.shapes import IncidentDetail, IncidentView, StepView, VerificationView
from tests.fakes.operations import ASKING, DECIDED, NOON, OPENED, FakeOperations
from tests.fakes.serving import serving

NOW = NOON + timedelta(minutes=2)
STEPS = (
    StepView("config", "c2", "c1", "done", took=timedelta(seconds=3), expected=timedelta(seconds=4)),
    StepView("code", "v41", "v40", "running", reversible=False, risks=("loses 2 uploads",), attempt=2,
             since=NOON + timedelta(minutes=1), expected=timedelta(seconds=40)),
    StepView("process", "-", "-", "waiting"),
)  # fmt: skip
STEP = "Step 2 of 3, code, runs for 1m, usually 40s."
NOTE = "Attempt 2. Since 12:01:00, for 1m. Usually 40s. Irreversible. loses 2 uploads"


def shown(one: IncidentView) -> list[str]:
    console = Console(width=400, no_color=True, record=True, file=StringIO())
    console.print(tree(to_jsonable_python(IncidentDetail(one, DECIDED, ())), NOW))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_each_step_has_its_state_attempt_time_so_far_and_usual_time() -> None:
    checks = VerificationView(1, 3, NOW + timedelta(seconds=12), NOW + timedelta(minutes=5))
    assert shown(replace(OPENED, steps=STEPS, entered=("traffic",), verification=checks)) == [
        "checkout-1 ↺ rolling back",
        f"├── checkout: ordered by hand, P1. Rolling back to code v40 (77d0e1f2a3b4). {STEP}",
        "└── plan default",
        "    ├── traffic entered",
        "    ├── config ✓ done c2 -> c1 Took 3s. Usually 4s.",
        f"    ├── code ↺ running v41 -> v40 {NOTE}",
        "    ├── process ◦ waiting",
        "    └── checks: 1 of 3 good rounds, the next at 12:02:12, in 12s; the deadline is at 12:07:00, in 5m",
    ]


def test_a_question_is_said_and_nothing_foreign_reaches_the_terminal() -> None:
    lines = shown(replace(ASKING, id="checkout-2", plan="[red]\x1b[2J", steps=()))
    assert lines[0] == "checkout-2 ? approval pending"
    assert "missing is one of product" in lines[1]
    assert lines[2] == "└── plan [red]\\x1b[2J"


async def test_on_a_terminal_the_tree_is_kept_until_the_end_with_the_incidents_exit_status(tmp_path: Path) -> None:
    operations = FakeOperations()
    await operations.rollback(Request("checkout", "unix:ann"))
    async with serving(tmp_path / "s.sock", operations):
        ours, theirs = pty.openpty()
        arguments = ("--socket", str(tmp_path / "s.sock"), "incidents", "checkout-1", "--watch")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rollbackd", *arguments),
            stdin=asyncio.subprocess.DEVNULL, stdout=theirs, stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "ROLLBACKD_CONFIG": "/nonexistent"},
        )  # fmt: skip
        os.close(theirs)
        said = ""
        async with asyncio.timeout(90):
            said += await until(ours, "code ◦ waiting")
            operations.incidents_["checkout-1"] = replace(OPENED, steps=STEPS)
            await operations.note("checkout-1", "ApplyStarted", "applying code")
            said += await until(ours, "code ↺ running")
            await operations.close("checkout-1", "ineffective")
            said += await until(ours, "checkout-1: ineffective")
            assert await process.wait() == 1
        os.close(ours)
    assert "applying code" in said
    assert "✕ still failing after the rollback" in said


async def until(terminal: int, words: str) -> str:
    """What a terminal shows until it has these words, without colours and movements."""
    seen = b""
    while words not in (said := re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="ignore"))):
        seen += await asyncio.to_thread(os.read, terminal, 65536)
    return said
