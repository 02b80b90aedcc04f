"""Check `log` on the journal of a real systemd: what its units write, and what a user may read of it."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import CheckPlace
from rollbackd.checks.log import LogCheck, LogSettings
from rollbackd.model import CheckResult, Verdict
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from tests.contract.worlds import script
from tests.e2e.debian import PROGRAMS, Machine, booted, wait_for

pytestmark = [
    pytest.mark.needs(*PROGRAMS),
    pytest.mark.timeout(600),  # the first test makes the Debian
]
HOUR = timedelta(hours=1)
NATIVE = """
import socket, sys
def field(name, value):
    return name.encode() + b"\\n" + len(value).to_bytes(8, "little") + value + b"\\n"
there = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
there.connect("/run/systemd/journal/socket")
for fields in ([b"begin\\nERROR in the second line\\nERROR in the third"], [b"ERROR \\0 after a NUL"], [b"one", b"ERROR"],
               [b"x" * 70_000 + b"\\nERROR far behind"], [b"fine"], []):
    there.send(b"".join(field("MESSAGE", each) for each in fields) + b"PRIORITY=3\\n")
"""
_numbers = count(1)


class InAnHour(SystemClock):
    """Looks an hour back, and so to a time that is over."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self._now = now

    def now(self) -> datetime:
        return self._now


class Journal:
    """A machine's journal, and a check that asks it as one of the machine's users."""

    def __init__(self, machine: Machine, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self._machine = machine
        self._directory = directory
        self._patch = patch
        self.begin = datetime.now(UTC)
        self.as_user()

    def as_user(self, *options: str) -> None:
        """From now on; root when nothing is said."""
        inside = f"nsenter -t {self._machine.leader} -m -u -i -n -p -C"
        user = f"setpriv {' '.join(options)}" if options else ""
        script(self._directory / "journalctl", f'exec {inside} {user} journalctl "$@"')
        self._patch.setenv("PATH", f"{self._directory}:/usr/sbin:/usr/bin:/sbin:/bin")

    def unit(self, *argv: str, **properties: str) -> str:
        """Run a unit to its end, and have all it wrote in the journal; its name."""
        name = f"noisy-{next(_numbers)}.service"
        options = [f"--property={key}={value}" for key, value in properties.items()]
        program = ["--quiet", "--wait", f"--unit={name}", "--description=noisy", *options, *argv]
        self._machine.run("systemd-run", *program)
        self._machine.run("journalctl", "--sync")
        return name

    def writes(self, text: str, **properties: str) -> str:
        return self.unit("printf", text, **properties)

    def rotate(self, *options: str) -> None:
        self._machine.run("journalctl", "--rotate", *options)

    def look(self, unit: str, since: datetime | None = None, **settings: Any) -> CheckResult:
        """At what was written since the journal's `begin`, or since a later step."""
        given = {"log": {"unit": unit}, "matching": "ERROR", "within": HOUR} | settings
        clock = InAnHour(self.begin + HOUR)
        place = CheckPlace("log", "shop", {}, Spawner(), clock, lambda: None, None)
        return asyncio.run(LogCheck(LogSettings(**given), place).run(since))


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with booted() as machine:
        machine.run("useradd", "--uid=1234", "joe")

        def reaches_back() -> str:
            last = ("journalctl", "--quiet", "_UID=0", f"--until=@{int(time.time())}", "--reverse", "--lines=1")
            return machine.run(*last).stdout

        wait_for(reaches_back, "its journal is from before this second")
        yield machine


@pytest.fixture
def journal(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    return Journal(machine, tmp_path, monkeypatch)


def test_whatever_a_unit_prints_is_counted_by_lines(journal: Journal) -> None:
    long = "x" * 40_000 + "ERROR"
    unit = journal.writes(
        f"ERROR one\nfine\nERROR \\377\\376 bytes\nERROR before\\000after\n\tERROR \\033[31mred\n{long}\n"
    )
    result = journal.look(unit, fewer_than=5)
    assert result.verdict is Verdict.BAD
    assert result.reason.startswith(
        '5 lines match "ERROR" in 1h, wants fewer than 5; the last: ERROR before | ERROR red |'
    )
    good = journal.look(unit, fewer_than=6)
    assert (good.verdict, good.reason) == (Verdict.GOOD, '5 lines match "ERROR" in 1h, fewer than 6')


def test_messages_with_lines_bytes_and_fields_of_their_own_count_once(journal: Journal) -> None:
    unit = journal.unit("python3", "-c", NATIVE)
    result = journal.look(unit, matching="^ERROR", fewer_than=9)
    assert (result.verdict, result.reason) == (Verdict.GOOD, '4 lines match "^ERROR" in 1h, fewer than 9')


def test_what_was_written_before_the_last_step_is_not_counted(journal: Journal) -> None:
    unit = journal.writes("ERROR\nERROR\n")
    assert journal.look(unit).verdict is Verdict.BAD
    step = datetime.now(UTC)
    after = journal.look(unit, step)
    assert after.verdict is Verdict.INCONCLUSIVE
    assert after.reason.startswith('0 lines match "ERROR" so far; looks 1h back, to before the last step')
    journal.begin = step
    assert journal.look(unit).verdict is Verdict.GOOD


def test_a_unit_that_does_not_exist_says_nothing(journal: Journal) -> None:
    result = journal.look("no-such-thing.service")
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "the journal has nothing of it at all; is that its name" in result.reason


def test_who_may_not_read_the_journal_is_told_what_to_do_and_nothing_is_good(journal: Journal) -> None:
    unit = journal.writes("fine\n")
    journal.as_user("--reuid=nobody", "--regid=nogroup", "--clear-groups")
    result = journal.look(unit)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason == (
        f"{unit}: journalctl: exit 1: No journal files were opened due to insufficient permissions; its user has to be "
        "in the group systemd-journal"
    )
    journal.as_user("--reuid=nobody", "--regid=nogroup", "--groups=systemd-journal")
    assert journal.look(unit).verdict is Verdict.GOOD


def test_who_may_read_only_what_is_his_own_sees_errors_and_never_that_there_are_none(journal: Journal) -> None:
    of_root, of_joe = journal.writes("ERROR\n"), journal.writes("ERROR\n", User="joe")
    journal.as_user("--reuid=joe", "--regid=joe", "--clear-groups")
    assert journal.look(of_joe).verdict is Verdict.BAD
    journal.begin = datetime.now(UTC) + timedelta(seconds=1)  # now his own journal reaches back
    blind = journal.look(of_joe)
    assert blind.verdict is Verdict.INCONCLUSIVE
    assert "or this user may not read all of it (group systemd-journal)" in blind.reason
    assert "may this user read the journal" in journal.look(of_root).reason


def test_lines_that_journald_dropped_are_not_taken_for_silence(journal: Journal) -> None:
    storm = "i=0; while [ $i -lt 200 ]; do echo fine; i=$((i+1)); done; sleep 0.4; echo over"
    limits = {"LogRateLimitBurst": "5", "LogRateLimitIntervalSec": "200ms"}
    result = journal.look(journal.unit("sh", "-c", storm, **limits))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "more, written too fast (LogRateLimitBurst= of the unit)" in result.reason


def test_rotated_journals_are_read_and_what_was_thrown_away_is_not_taken_for_silence(journal: Journal) -> None:
    unit = journal.writes("ERROR\n")
    journal.rotate()
    assert journal.look(unit).verdict is Verdict.BAD
    assert journal.look(unit, fewer_than=2).verdict is Verdict.GOOD
    journal.rotate("--vacuum-size=1")
    other = journal.writes("fine\n")
    gone = journal.look(other)
    assert gone.verdict is Verdict.INCONCLUSIVE
    assert "the journal begins later" in gone.reason
