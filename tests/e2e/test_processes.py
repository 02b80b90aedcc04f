"""What the process owes its surroundings: as process 1, from any working directory, with a journal that is no more."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.toy import Ear, toy
from tests.servers import wait_until


def _children(pid: int) -> list[tuple[int, str]]:
    """Number and state of each child."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = stat.read_text().split(" ", 1)
        except OSError:
            continue
        state, parent = rest.rpartition(")")[2].split()[:2]
        if int(parent) == pid:
            found.append((int(number), state))
    return found


@pytest.mark.needs("root", "unshare")
def test_as_process_1_it_takes_leave_of_orphans_and_stops_on_the_signal(tmp_path: Path) -> None:
    with toy(tmp_path / "shop") as one:
        look = one.root / "look"
        orphans = "(setsid sleep 0.2 >/dev/null 2>&1 &)\n"
        look.write_text(look.read_text().replace("\n", f"\n{orphans}", 1))
        argv = [sys.executable, "-m", "rollbackd", "run", "--config", str(one.root / "config.yaml")]
        with (one.root / "log").open("ab") as log:
            one.daemon = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--mount-proc", *argv], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        one.until_up()
        one.until_seen("co-v1")
        ((first, _),) = _children(one.daemon.pid)
        one.until_looked()
        wait_until(lambda: not [state for _, state in _children(first) if state == "Z"], "no zombie is left", 5)
        assert len(_children(first)) >= 1
        os.kill(first, signal.SIGHUP)
        wait_until(lambda: one.log.count('"event": "ready"') == 2, "it executed itself anew")
        os.kill(first, signal.SIGTERM)
        assert one.daemon.wait(30) == 0


@pytest.mark.needs("root", "unshare")
def test_as_process_1_it_ends_as_the_daemon_does(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "rollbackd", "run", "--config", str(tmp_path / "nothing.yaml")]
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", *argv], check=False, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert b"nothing.yaml" in done.stderr


@pytest.mark.parametrize("name", ["yaml.py", "rollbackd/__init__.py", "asyncio.py", "json.py", "sitecustomize.py"])
def test_a_reload_imports_nothing_from_where_it_happens_to_be(tmp_path: Path, name: str) -> None:
    place = tmp_path / "cwd"
    (place / name).parent.mkdir(parents=True)
    (place / name).write_text("raise SystemExit('this is not what you look for')\n")
    with toy(tmp_path / "shop") as one:
        rollbackd = Path(sys.executable).with_name("rollbackd")
        with (one.root / "log").open("ab") as log:
            daemon = one.daemon = subprocess.Popen(
                [rollbackd, "run", "--config", str(one.root / "config.yaml")], stdout=log, stderr=log, cwd=place
            )
        one.until_up()
        daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: one.log.count('"event": "ready"') == 2 or daemon.poll() is not None, "it starts anew")
        assert daemon.poll() is None, one.log[-1000:]


@pytest.mark.parametrize("how", ["no bytes", "half of it", "not a database"])
def test_receivers_hear_once_of_a_journal_that_is_damaged_and_when_it_is_back(
    tmp_path: Path, ear: Ear, how: str
) -> None:
    with toy(tmp_path / "shop", told=ear.url) as one:
        one.start_with_two_states()
        one.stop()
        good = one.journal.read_bytes()
        damaged = {"no bytes": b"", "half of it": good[: len(good) // 2], "not a database": b"x" * 8192}[how]
        one.journal.write_bytes(damaged)
        for _ in range(3):
            done = one.command("run")
            assert done.returncode == 1, done.stderr
            assert "the journal is" in done.stderr
            assert "Traceback" not in done.stderr
        (told,) = ear.heard("journal")
        assert told["title"] == "rollbackd cannot start: its journal cannot be used"
        for beside in one.journal.parent.glob("journal.db-*"):
            beside.unlink()
        one.journal.write_bytes(good)
        one.start()
        wait_until(lambda: len(ear.heard("journal")) == 2, "it is told that it is over")
        assert ear.heard("journal")[1]["resolves"]
        assert one.ask("GET", "services/shop")["present"]["ids"]["code"] == "co-v2"
