"""Two processes never drive one journal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rollbackd.journal import Exclusive, JournalRefused

HOLD = """
import sys
from rollbackd.journal import Exclusive
with Exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/journal.db"


def holder(url: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", HOLD, url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_with_the_number_of_the_first(url: str, tmp_path: Path) -> None:
    with holder(url) as process:
        with pytest.raises(JournalRefused) as caught, Exclusive(url):
            pass
        assert str(caught.value) == (
            f"{tmp_path}/journal.db: journal is in use by process {process.pid}; "
            "ask that one, or end it first (systemctl stop rollbackd)"
        )
        process.communicate()
    with Exclusive(url):
        pass


def test_a_killed_holder_leaves_nothing_behind(url: str) -> None:
    with holder(url) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with Exclusive(url) as lock:
        assert lock.path.read_text() == f"{os.getpid()}\n"
        assert lock.path.stat().st_mode & 0o777 == 0o600


def test_a_child_that_outlives_its_holder_does_not_keep_the_lock(url: str) -> None:
    with Exclusive(url):
        command = [sys.executable, "-c", "print('there', flush=True); input()"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
    with child, Exclusive(url):
        assert child.poll() is None
        child.communicate(b"\n")


def test_the_same_process_does_not_get_it_twice(url: str) -> None:
    with (
        Exclusive(url),
        pytest.raises(JournalRefused, match=f"in use by process {os.getpid()}"),
        Exclusive(url),
    ):
        pass


def test_a_lock_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "journal.db.lock").mkdir()
    with (
        pytest.raises(JournalRefused, match=r"journal\.db\.lock: Is a directory; run as the user of rollbackd"),
        Exclusive(f"sqlite:///{tmp_path}/journal.db"),
    ):
        pass
