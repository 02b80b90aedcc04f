"""The bench works: every row is measured and printed. Tiny sizes, so nothing here says anything about speed."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

from bench.measure import TINY, Row, Sizes, percentile, span
from bench.run import ROWS, table

ROOT = Path(__file__).parents[2]
PROMISES = (
    "durable intake",
    "one request with",
    "POST to the first adapter call",
    "one query's answer",
    "one query's two answers",
    "the engine's share",
    "restart with",
    "memory, idle",
    "a snapshot of",
)


@pytest.mark.timeout(300)
def test_every_promise_is_a_row_of_the_printed_table(tmp_path: Path) -> None:
    argv = [sys.executable, "bench/run.py", "--tiny", "--directory", str(tmp_path / "bench")]
    ended = subprocess.run(
        argv, check=False, cwd=ROOT, capture_output=True, text=True, timeout=280, env={**os.environ, "COLUMNS": ""}
    )
    assert ended.returncode in {0, 1}, ended.stderr
    said = ended.stdout.replace("\n", " ")
    for promise in PROMISES:
        assert promise in said
    assert "nothing" not in said, "a row was not measured"
    assert "load average" in said
    assert not (tmp_path / "bench").exists()


def test_a_missed_promise_is_said_and_a_kept_one_too() -> None:
    console = Console(width=200, record=True)
    console.print(table([Row("a", "1.2", "x", "<= 1.1", ok=False), Row("b", "1.0", "x", "<= 1.1", ok=True)]))
    lines = console.export_text().splitlines()
    assert any("<= 1.1" in line and "NO" in line for line in lines)
    assert any("1.0" in line and "yes" in line for line in lines)


def test_there_is_a_row_for_each_line_of_the_promise() -> None:
    assert len(ROWS) == len(PROMISES)


def test_the_percentile_is_the_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    assert span([2.0, 1.0], ".1f") == "1.0 to 2.0"


def test_tiny_is_smaller_in_everything() -> None:
    sizes = Sizes()
    assert all(getattr(TINY, one.name) < getattr(sizes, one.name) for one in fields(Sizes))
