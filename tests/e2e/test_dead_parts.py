"""Each task and thread of the daemon is killed in turn: it is noticed within five seconds, and the process ends with the reason.

And what observes stops nothing: with nobody who reads the log a bad release goes back all the same.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.e2e.toy import REPO, Ear, Toy, toy
from tests.servers import wait_until

_SOON = 5.0
_ON_ITS_OWN = re.compile(
    r"task (Task-\d+|resume|incident .*|drill of .*|copies of .*)|thread (Thread-.*|prometheus|files .*|probe|log-writer)"
)
"""Lives shorter than the daemon, and is begun again by who needs it; `Task-1` is the process's own, `probe` the tests'."""


def _start(one: Toy) -> Path:
    order = one.root / "kill"
    one.start("--kill-part", str(order))
    wait_until(order.with_suffix(".parts").exists, "the parts are known")
    return order


def _parts(one: Toy) -> list[str]:
    """Those that live as long as the daemon."""
    names = _start(one).with_suffix(".parts").read_text().splitlines()
    return [name for name in names if name == "task Task-1" or not _ON_ITS_OWN.fullmatch(name)]


def _stir(one: Toy) -> None:
    """Something for every thread to do: one that waits for work in C notices only then that it is to end."""

    def ask(path: str) -> None:
        with suppress(OSError, HTTPException):
            _get(one, path) if path else one.ask("PUT", "holds/shop", {"reason": f"anew {time.monotonic_ns()}"})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, ["api/v1/incidents", "api/v1/incidents", "openapi.json", ""]))


def _get(one: Toy, path: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{one.port}/{path}", headers=one.headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return str(answer.read().decode())


def _noticed(root: Path, part: str, told: str) -> str:
    """Kill one part; what is wrong with how that was noticed, else nothing."""
    with toy(root, told=told) as one:
        order = _start(one)
        _stir(one)
        order.with_suffix(".told").write_text(part)
        order.with_suffix(".told").rename(order)
        daemon = one.daemon
        assert daemon is not None
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(_SOON)
        if part.startswith("task teller: "):
            return "" if f"{part.partition(' ')[2]} was cancelled" in one.log else f"{part}: not noticed"
        if daemon.poll() is None:
            return f"{part}: not noticed"
        if daemon.returncode != 1:
            return f"{part}: exit {daemon.returncode}"
        name = "its main task" if part == "task Task-1" else part.partition(" ")[2]
        names = (
            [name, "states shop"] if part == "task rounds" else [name]
        )  # what it had at work dies with it, or before
        return "" if any(each in one.log.splitlines()[-1] for each in names) else f"{part}: {one.log[-500:]}"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with toy(tmp_path_factory.mktemp("p") / "shop") as one:
        yield _parts(one)


@pytest.mark.timeout(300)
def test_whichever_part_dies_it_is_noticed_and_the_process_ends(tmp_path: Path, parts: list[str], ear: Ear) -> None:
    for wanted in ("task judge", "task orders", "task teller: room", "task rounds", "thread journal-writer"):
        assert any(part.startswith(wanted) for part in [*parts, "task teller: room"]), parts
    every = sorted({*parts, "task teller: room"})
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda at: _noticed(tmp_path / str(at), every[at], ear.url), range(len(every)))
        assert [text for text in found if text] == []


def test_a_writer_that_hangs_is_noticed_and_told_directly(tmp_path: Path, ear: Ear) -> None:
    with toy(tmp_path / "shop", told=ear.url) as one:
        order = _start(one)
        order.write_text("hang")

        def not_ready() -> bool:
            try:
                _get(one, "readyz")
            except HTTPError as error:
                with error:
                    return "the journal's writer did not answer for" in error.read().decode()
            return False

        wait_until(not_ready, "it is not ready", _SOON)
        wait_until(lambda: "the journal's writer did not answer for" in ear.text(), "people hear of it")
        wait_until(lambda: "the journal can be written again" in ear.text(), "it is over")
        assert one.daemon is not None
        assert one.daemon.poll() is None


def test_what_died_is_told_after_the_next_start(tmp_path: Path, ear: Ear) -> None:
    with toy(tmp_path / "shop", told=ear.url) as one:
        order = _start(one)
        order.write_text("task orders")
        assert one.daemon is not None
        assert one.daemon.wait(10) == 1
        order.unlink()
        one.start()
        wait_until(lambda: "the task orders was cancelled" in ear.text(), "it is told")


@pytest.mark.parametrize("reads", ["gone", "stopped"])
def test_nobody_who_reads_the_log_stops_nothing(tmp_path: Path, ear: Ear, reads: str) -> None:
    with toy(tmp_path / "shop", told=ear.url) as one:
        reader, writer = os.pipe()
        argv = [sys.executable, "-m", "rollbackd", "run", "--config", str(one.root / "config.yaml")]
        one.configure(daemon={"log_level": "debug"})
        one.daemon = subprocess.Popen(argv, stdout=writer, stderr=writer, stdin=subprocess.DEVNULL, cwd=REPO)
        os.close(writer)
        one.until_up()
        if reads == "gone":
            os.close(reader)
        else:
            _fill(one.daemon.pid)
        one.until_seen("co-v1")
        one.ask("POST", "services/shop/good", {})
        one.deploy("v2")
        one.until_seen("co-v2")
        one.alert()
        wait_until(lambda: bool(one.incidents()), "it is opened")
        assert one.until_closed("shop-1")["outcome"] == "recovered"
        assert json.loads(_get(one, "readyz"))["ready"]
        metrics = _get(one, "metrics")
        assert float(metrics.split("\nrollbackd_log_lines_dropped_total ")[1].split()[0]) > 0
        assert one.stop() == 0
        if reads != "gone":
            os.close(reader)


def _fill(pid: int) -> None:
    """Fill the pipe that a process writes its log into."""
    fd = os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(fd, b"x" * 4096)
    with suppress(BlockingIOError):
        while True:
            os.write(fd, b"x")
    os.close(fd)
