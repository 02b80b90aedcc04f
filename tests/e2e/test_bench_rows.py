"""The bench works: every row is measured, printed and cleaned up after. Tiny sizes, so nothing is said about speed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.host import ROOT, wait_until
from bench.leftovers import members
from tests.unit.test_bench import PROMISES


def _argv(directory: Path, *more: str) -> list[str]:
    return [sys.executable, "bench/run.py", "--tiny", "--directory", str(directory), *more]


@pytest.mark.needs("git", "rsync", "pgbackrest", "kubectl")
@pytest.mark.timeout(600)
def test_every_promise_is_a_row_of_the_printed_table(tmp_path: Path) -> None:
    ended = subprocess.run(
        _argv(tmp_path / "bench"),
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        env={**os.environ, "COLUMNS": ""},
    )
    assert ended.returncode in {0, 1}, ended.stderr
    said = ended.stdout.splitlines()
    for name, promise in PROMISES.items():
        (row,) = [line for line in said if line.startswith(f"  {name}: {promise}")]
        assert "nothing" not in row, "a row was not measured"
    assert "load average" in ended.stdout
    assert not (tmp_path / "bench").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_and_no_directory(number: signal.Signals, tmp_path: Path) -> None:
    """What a killed one leaves is cleaned by the next."""
    directory = tmp_path / "bench"
    noted = directory / "session"
    daemon = directory / "row/0/rollbackd.log"
    with subprocess.Popen(_argv(directory, "--only", "memory"), cwd=ROOT, stdout=subprocess.DEVNULL) as run:
        wait_until(daemon.exists, "the daemon's start")
        _boot, session, began = noted.read_text().split()
        # its log is there a moment before it is
        wait_until(lambda: len(members(int(session), int(began))) >= 3, "the row, what its checks ask, the daemon")
        run.send_signal(number)
    if number is signal.SIGKILL:
        assert members(int(session), int(began))
        again = _argv(directory, "--only", "judging")
        assert subprocess.run(again, check=False, cwd=ROOT, capture_output=True, timeout=100).returncode in {0, 1}
    else:
        assert run.returncode == 128 + number
    assert not members(int(session), int(began))
    assert not directory.exists()
