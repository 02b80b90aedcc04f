"""Checks of the kind log: files for real, and a journalctl that takes nothing but what it should be asked."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import Check, CheckPlace
from rollbackd.checks import log_lines
from rollbackd.checks.log import LogCheck, LogSettings, _remembered
from rollbackd.model import CheckResult, Verdict
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from tests.servers import program

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ISO = "%Y-%m-%dT%H:%M:%S%z"
MINUTE = timedelta(minutes=1)


@dataclass
class HandClock:
    """Its hands are moved by the test; how long something takes is real."""

    at: datetime = NOON
    real: SystemClock = field(default_factory=SystemClock)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.real.monotonic()


class WatchedLog:
    """A file, and the check that looks at it again and again, as the daemon's own."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.file = directory / "checkout.log"
        self.clock = HandClock()
        self.memory: dict[str, Any] = {}
        given = {"log": {"file": str(self.file)}, "matching": "ERROR|FATAL", "fewer_than": 3} | settings
        self.settings = LogSettings(**given)

    def write(self, *lines: str, at: datetime | None = None) -> None:
        """More lines, written when the clock says."""
        with self.file.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        self.touch(at)

    def touch(self, at: datetime | None = None) -> None:
        stamp = (at or self.clock.at).timestamp()
        os.utime(self.file, (stamp, stamp))

    def at(self, minutes: float) -> "WatchedLog":
        """So long after noon."""
        self.clock.at = NOON + minutes * MINUTE
        return self

    async def look(self, since: datetime | None = None) -> CheckResult:
        place = CheckPlace(
            "log", "shop", {}, Spawner(secrets=["s3cret-of-the-shop"]), self.clock, lambda: None, None,
            memory=self.memory,
        )  # fmt: skip
        return await LogCheck(self.settings, place).run(since)


def iso(minutes: float, text: str) -> str:
    return f"{(NOON + minutes * MINUTE).isoformat(timespec='seconds')} {text}"


def test_it_follows_the_contract() -> None:
    place = CheckPlace("log", "shop", {}, None, SystemClock(), lambda: None, None)
    assert isinstance(LogCheck(LogSettings(log={"unit": "x"}, matching="x"), place), Check)


# -- a file whose lines have times --------------------------------------------------------------
@pytest.mark.parametrize(("errors", "verdict"), [(0, GOOD), (2, GOOD), (3, BAD), (50, BAD)])
async def test_lines_of_the_last_minutes_are_counted(tmp_path: Path, errors: int, verdict: Verdict) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    watched.write(*(iso(-20, f"ERROR old {n}") for n in range(10)), iso(-4, "all is well"))
    watched.write(*(iso(-4 + n / 60, f"ERROR new {n}") for n in range(errors)))
    result = await watched.look()
    assert result.verdict is verdict, result.reason
    assert result.reason.startswith(f'{errors} lines match "ERROR|FATAL" in 5m, ')


async def test_what_is_bad_shows_the_last_lines_without_their_secrets(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    watched.write(
        iso(-9, "begin"), *(iso(-1, f"ERROR {n} password=hunter2 s3cret-of-the-shop\x1b[2J") for n in range(6))
    )
    watched.write(iso(-1, "FATAL " + "x" * 10_000))
    result = await watched.look()
    at = (NOON - MINUTE).isoformat(timespec="seconds")
    shown = "password=[secret] [secret]"
    assert result.reason.startswith(
        '7 lines match "ERROR|FATAL" in 5m, wants fewer than 3; the last: '
        f"{at} ERROR 4 {shown} | {at} ERROR 5 {shown} | {at} FATAL xxx"
    )
    assert len(result.reason) < 600


async def test_lines_from_before_the_last_step_are_not_counted(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    watched.write(iso(-9, "begin"), *(iso(-2, f"ERROR {n}") for n in range(9)), iso(-0.5, "ERROR again"))
    result = await watched.look(since=NOON - MINUTE)
    said = '1 lines match "ERROR|FATAL" so far; looks 5m back, to before the last step; conclusive in 4m'
    assert (result.verdict, result.reason) == (UNKNOWN, said)
    assert (await watched.at(4).look(since=NOON - MINUTE)).verdict is GOOD


async def test_enough_lines_since_the_last_step_are_bad_at_once(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    watched.write(iso(-9, "begin"), *(iso(-0.5, f"ERROR {n}") for n in range(3)))
    result = await watched.look(since=NOON - MINUTE)
    assert result.verdict is BAD
    assert result.reason.startswith('3 lines match "ERROR|FATAL" in 1m, wants fewer than 3')


async def test_lines_without_a_time_belong_to_the_one_before_them(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    watched.write(iso(-9, "trouble"), "  ERROR in old stack", "  ERROR in old stack", "  ERROR in old stack")
    assert (await watched.look()).reason.startswith("0 lines match")
    watched.write(iso(-1, "trouble"), "  ERROR in stack", "  ERROR in stack", "  ERROR in stack")
    assert (await watched.look()).verdict is BAD


@pytest.mark.parametrize("hours", [-5, -0.25, 0.25, 9])
async def test_lines_of_another_zone_than_is_believed_say_nothing(tmp_path: Path, hours: float) -> None:
    watched = WatchedLog(tmp_path, time="%Y-%m-%d %H:%M:%S", matching="ERROR")
    local = (NOON + timedelta(hours=hours)).astimezone()
    lines = [(minute, "ERROR" if minute < -30 else "fine") for minute in range(-600, 0)]
    watched.write(*(f"{local + minute * MINUTE:%Y-%m-%d %H:%M:%S} {text}" for minute, text in lines))
    result = await watched.look()
    assert result.verdict is UNKNOWN
    assert "zone" in result.reason


async def test_a_file_that_begins_too_late_says_nothing_unless_it_is_bad(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    watched.write(iso(-2, "begin"), iso(-1, "ERROR"))
    result = await watched.look()
    assert result.verdict is UNKNOWN
    assert "so far, wants to look 5m back; it begins at 2026-01-01T11:58:00" in result.reason
    watched.write(iso(-1, "ERROR"), iso(-1, "ERROR"))
    assert (await watched.look()).verdict is BAD


async def test_a_young_file_that_was_looked_at_before_says_enough(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    watched.write(at=NOON - 9 * MINUTE)
    assert (await watched.look()).verdict is GOOD
    watched.write(iso(1, "begin"), at=NOON + MINUTE)
    assert (await watched.at(2).look()).verdict is UNKNOWN, "the look at noon does not reach back to two minutes before"
    assert (await watched.at(5).look()).verdict is GOOD


async def test_lines_that_all_lack_such_a_time_say_nothing(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    watched.write("ERROR", "ERROR", "ERROR")
    result = await watched.look()
    assert (result.verdict, result.reason) == (
        UNKNOWN, f"{watched.file}: has no time like {ISO} in its lines",
    )  # fmt: skip


async def test_a_long_file_is_read_only_as_far_back_as_is_needed(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    with watched.file.open("w") as file:
        file.truncate(2**33)  # eight GiB of nothing, without room on the disk
    watched.write("", iso(-9, "x" * 2**20), *(iso(-1, "ERROR " + "y" * 1000) for _ in range(3000)))
    result = await watched.look()
    assert result.verdict is BAD
    assert result.reason.startswith("3000 lines")


async def test_more_than_can_be_looked_through_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = WatchedLog(tmp_path, time=ISO)
    watched.write(iso(-9, "begin"), *(iso(-1, "x" * 1000) for _ in range(3000)))
    fd = os.open(watched.file, os.O_RDONLY)
    request = {"since": NOON.timestamp() - 300, "now": NOON.timestamp(), "time": ISO, "matching": "ERROR"}
    monkeypatch.setattr(log_lines, "LARGEST", 2**20)
    try:
        answer = log_lines._timed(fd, watched.file.stat().st_size, request, [], False)
        plain = log_lines._by_marks(fd, watched.file.stat().st_size, request, [{"at": 0, "offset": 0}], False)
    finally:
        os.close(fd)
    assert answer["gap"] == plain["gap"] == "more than 1 MiB were written"


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("%Y-%m-%dT%H:%M:%S%z", "2026-01-01T11:59:00Z ERROR"),
        ("%Y-%m-%dT%H:%M:%S.%f%z", '{"time":"2026-01-01T11:59:00.123456789+00:00","level":"ERROR"}'),
        ("%d/%b/%Y:%H:%M:%S %z", '127.0.0.1 - - [01/Jan/2026:12:59:00 +0100] "GET / ERROR'),
        ("%Y-%m-%d %H:%M:%S,%f", "2026-01-01 11:59:00,123 ERROR"),
        ("%b %d %H:%M:%S", "Jan  1 11:59:00 host shop[12]: ERROR"),
        ("%m/%d/%y %I:%M:%S %p", "01/01/26 11:59:00 AM ERROR"),
    ],
)
def test_times_are_read_in_the_formats_that_people_have(
    written: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    found = log_lines.LineTimes(written, NOON).of(line)
    assert found is not None
    assert found.replace(microsecond=0) == NOON - MINUTE
    LogSettings(log={"file": "/var/log/x"}, matching="x", time=written)


def test_a_time_without_a_year_is_the_last_that_fits() -> None:
    times = log_lines.LineTimes("%b %d %H:%M:%S %z", NOON)
    assert [getattr(times.of(f"{day} 11:00:00 +0000 x"), "year", None) for day in ("Dec 31", "Jan  1", "Jan  4")] == [
        2025, 2026, 2025,
    ]  # fmt: skip
    assert times.of("Feb 30 11:00:00 +0000 x") is None


# -- a file whose lines have none ---------------------------------------------------------------
async def test_without_times_lines_are_counted_from_the_first_look_on(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path)
    watched.write("ERROR", "ERROR", "ERROR", "ERROR")
    first = await watched.look()
    assert first.verdict is UNKNOWN
    assert "its lines have no times, and are counted from now on" in first.reason
    watched.at(1).write("ERROR")
    assert (await watched.at(3).look()).verdict is UNKNOWN
    result = await watched.at(5).look()
    assert (result.verdict, result.reason) == (GOOD, '1 lines match "ERROR|FATAL" in 5m, fewer than 3')
    watched.at(6).write("ERROR", "fine", "FATAL")
    assert (await watched.at(7).look()).reason.startswith("2 to 3 lines match"), "the first may be too old by now"
    watched.at(8).write("ERROR")
    assert (await watched.at(8).look()).verdict is BAD
    assert (await watched.at(20).look()).verdict is GOOD
    watched.at(21).write("ERROR", "ERROR", "ERROR")
    watched.at(29).write("fine")
    unknown = '0 to 3 lines match "ERROR|FATAL" in 5m; which of them, the next look will tell'
    assert (await watched.at(30).look()).reason == unknown
    watched.at(31).write("fine")
    assert (await watched.at(35).look()).reason.startswith("0 lines match")


async def test_a_file_that_nobody_wrote_to_for_so_long_is_good_at_once(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path)
    watched.write("ERROR", "ERROR", "ERROR", at=NOON - 6 * MINUTE)
    assert (await watched.look()).verdict is GOOD


async def test_without_times_a_look_from_before_the_step_tells_what_came_after(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path)
    watched.write("ERROR", "ERROR", "ERROR")
    await watched.look()
    watched.write("ERROR", "ERROR", at=NOON + MINUTE)
    early = await watched.at(2).look(since=NOON + MINUTE / 2)
    assert (early.verdict, early.reason.partition(" so far")[0]) == (UNKNOWN, '0 to 2 lines match "ERROR|FATAL"')
    watched.at(3).write("ERROR", "ERROR", "ERROR")
    assert (await watched.look(since=NOON + MINUTE / 2)).verdict is BAD


async def test_a_line_that_is_just_being_written_is_counted_once(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, fewer_than=2)
    watched.write("begin")
    await watched.look()
    watched.at(1)
    with watched.file.open("a") as file:
        file.write("ERR")
    watched.touch()
    await watched.look()
    watched.at(2).write("OR")
    await watched.look()
    for minutes in (5, 6):
        watched.at(minutes).write("fine")
        assert (await watched.look()).reason.startswith("1 lines match")


@pytest.mark.parametrize("way", ["moved", "copied and cut short", "written anew, longer than before"])
async def test_a_rotated_file_says_nothing_until_it_was_watched_long_enough(tmp_path: Path, way: str) -> None:
    watched = WatchedLog(tmp_path)
    watched.write(*(f"fine {n}" for n in range(20)), at=NOON - 9 * MINUTE)
    assert (await watched.look()).verdict is GOOD
    if way == "moved":
        watched.file.rename(tmp_path / "checkout.log.1")
    else:
        os.truncate(watched.file, 0)
    watched.at(1).write(*(["fine"] if way == "copied and cut short" else ["fine, and more"] * 40))
    result = await watched.at(2).look()
    assert result.verdict is UNKNOWN
    assert "the file was rotated or cut short" in result.reason
    assert (await watched.at(6.5).look()).verdict is GOOD, "nothing was written since"


def test_what_is_remembered_stays_small_and_reaches_back_far_enough() -> None:
    marks: list[dict[str, Any]] = []
    for second in range(1200):
        now = NOON + timedelta(seconds=second)
        marks = _remembered([*marks, {"at": now.timestamp()}], now, 5 * MINUTE)
        assert len(marks) <= 66
        ages = [now.timestamp() - mark["at"] for mark in marks]
        assert second <= 300 or 300 <= ages[0] < 310
        assert ages[-1] < 5


# -- files that cannot be read ------------------------------------------------------------------
async def test_what_cannot_be_read_says_nothing_and_says_why(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path)
    missing = await watched.look()
    assert (missing.verdict, missing.reason) == (UNKNOWN, f"{watched.file}: no such file or directory")
    os.mkfifo(watched.file)
    pipe = await watched.look()
    assert (pipe.verdict, pipe.reason) == (UNKNOWN, f"{watched.file}: is no regular file")
    watched.file.unlink()
    watched.file.mkdir()
    assert (await watched.look()).reason == f"{watched.file}: is no regular file"
    watched.file.rmdir()
    watched.file.symlink_to(watched.file)
    assert "too many levels of symbolic links" in (await watched.look()).reason


async def test_no_line_makes_an_expression_slow_that_a_linear_engine_can_say(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, matching="(a+)+$|(.|.)*!{9}", timeout="5s")
    await watched.look()
    watched.write("begin")
    await watched.look()
    watched.at(1).write("a" * 60 + "!")
    assert "not looked through" not in (await watched.look()).reason


async def test_a_costly_expression_ends_with_the_time_limit(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, matching="(a+)+(?!.)", timeout="500ms")
    await watched.look()
    watched.write("begin")
    await watched.look()
    watched.at(1).write("a" * 60 + "!")
    result = await watched.look()
    assert result.verdict is UNKNOWN
    assert result.reason.endswith('not looked through within 500ms; is "(a+)+(?!.)" too costly?')


async def test_lines_may_hold_anything(tmp_path: Path) -> None:
    watched = WatchedLog(tmp_path, time=ISO, matching="ERROR.*ü$")
    watched.write(iso(-9, "begin"))
    with watched.file.open("ab") as file:
        file.write(iso(-1, "\0").encode() + b"\xff\xfe ERROR \r ERROR " + "ü".encode() + b"\n" + b"\n" * 3)
    watched.touch()
    assert (await watched.look()).reason.startswith("1 lines match")


# -- the journal --------------------------------------------------------------------------------
JOURNALCTL = """\
#!{python}
import json, sys
assert sys.argv[1:4] == ["--output=json", "--no-pager", "--quiet"], sys.argv
rest = sys.argv[4:]
if rest == ["_UID=0", "--until=@{since}", "--reverse", "--lines=1"]:
    sys.stdout.write({earlier!r})
    sys.exit()
assert rest[:3] == ["--unit=checkout.service", "--output-fields=MESSAGE,MESSAGE_ID,N_DROPPED", "--all"], rest
assert rest[3:] in (["--since=@{since}", "--lines=20000"], ["--lines=1"]), rest
{body}
sys.stdout.write(open({entries!r}).read())
"""


class Journal:
    """What the journal has of a unit, and a check that asks it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        self.say()

    def say(
        self,
        entries: Iterable[tuple[float, Any]] = (),
        body: str = "",
        cut: str = "",
        since: float = -5,
        earlier: str = '{"MESSAGE": "of root"}\n',
    ) -> None:
        """Entries, and what it is asked since, by minutes after noon; `body` is what it does before it prints them.

        An entry is its message, or all its fields; `earlier` is what root has from before.
        """
        lines = [
            json.dumps(
                {"__REALTIME_TIMESTAMP": str(round((NOON + at * MINUTE).timestamp() * 1e6))}
                | (said if isinstance(said, dict) else {"MESSAGE": said})
            )
            for at, said in entries
        ]
        path = self.directory / "entries"
        path.write_text("".join(f"{line}\n" for line in lines) + cut)
        script = self.directory / "journalctl"
        asked = int((NOON + since * MINUTE).timestamp())
        known = {"python": sys.executable, "entries": str(path), "since": asked, "earlier": earlier}
        script.write_text(JOURNALCTL.format(body=body, **known))
        script.chmod(0o755)

    async def look(self, since: datetime | None = None, **settings: Any) -> CheckResult:
        given = {"log": {"unit": "checkout.service"}, "matching": "ERROR", "fewer_than": 3} | settings
        place = CheckPlace("log", "shop", {}, Spawner(), HandClock(), lambda: None, None)
        return await LogCheck(LogSettings(**given), place).run(since)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    return Journal(tmp_path, monkeypatch)


async def test_entries_of_a_unit_are_counted(journal: Journal) -> None:
    few = [(-5.1, "ERROR, in the second before"), (-4, "ERROR 1"), (-3, "fine"), (-2, "ERROR\nin two lines: ERROR")]
    journal.say(few)
    result = await journal.look()
    assert (result.verdict, result.reason) == (GOOD, '2 lines match "ERROR" in 5m, fewer than 3')
    journal.say([*few, (-1, list(b"ERROR \xff in bytes")), (-1, None)])
    result = await journal.look()
    assert result.verdict is BAD
    assert result.reason.endswith("; the last: ERROR 1 | ERROR in two lines: ERROR | ERROR \ufffd in bytes")


async def test_a_unit_that_is_silent_is_good_and_one_that_never_spoke_says_nothing(journal: Journal) -> None:
    journal.say([(-60, "started")], body='if "--lines=1" not in rest: sys.exit()')
    assert (await journal.look()).verdict is GOOD
    journal.say(body='sys.stderr.write("No journal files were opened due to insufficient permissions.")')
    result = await journal.look()
    assert result.verdict is UNKNOWN
    assert result.reason.startswith("checkout.service: the journal has nothing of it at all; is that its name, and")
    assert result.reason.endswith("No journal files were opened due to insufficient permissions.")


async def test_entries_from_before_the_last_step_are_not_counted(journal: Journal) -> None:
    journal.say([(-4, "ERROR")] * 9 + [(-0.5, "ERROR")], since=-1)
    result = await journal.look(NOON - MINUTE)
    assert (result.verdict, result.reason.partition(" so far")[0]) == (UNKNOWN, '1 lines match "ERROR"')
    journal.say([(-4, "ERROR")] * 9)
    assert (await journal.look(NOON - 6 * MINUTE)).verdict is BAD


async def test_more_entries_than_are_read_say_nothing_unless_they_are_bad(journal: Journal) -> None:
    journal.say([(-1, "fine")] * 20_000, cut='{"__REALTIME_TIMESTAMP": "17672')
    result = await journal.look()
    assert result.verdict is UNKNOWN
    assert result.reason.endswith("there are more than 20000 entries")


async def test_an_entry_counts_once_whichever_of_its_lines_matches(journal: Journal) -> None:
    lines = "begin\n" + "x" * 2**16 + "\nERROR at last\nERROR again"
    journal.say(
        [(-1, lines), (-1, ["ERROR in one field", "ERROR in another"]), (-1, [list(b"\xff"), " ERROR"]), (-1, [])]
    )
    result = await journal.look(matching="^ERROR")
    assert (result.verdict, result.reason.partition(",")[0]) == (GOOD, '2 lines match "^ERROR" in 5m')
    result = await journal.look()
    assert result.verdict is BAD
    assert result.reason.endswith("; the last: ERROR at last | ERROR in one field ERROR in another | \ufffd ERROR")


async def test_silence_says_nothing_where_the_journal_does_not_reach_back(journal: Journal) -> None:
    journal.say([(-1, "ERROR")], earlier="")
    result = await journal.look()
    assert result.verdict is UNKNOWN
    assert result.reason.endswith(
        "the journal begins later, or this user may not read all of it (group systemd-journal)"
    )
    journal.say([(-1, "ERROR")] * 3, earlier="")
    assert (await journal.look()).verdict is BAD


@pytest.mark.parametrize(("number", "said"), [("184", "184"), ("many", "1"), ("9" * 5000, "1"), (None, "1")])
async def test_lines_that_journald_dropped_may_have_matched(journal: Journal, number: str | None, said: str) -> None:
    dropped = {"MESSAGE": "Suppressed", "MESSAGE_ID": "a596d6fe7bfa4994828e72309e95d61e", "N_DROPPED": number}
    journal.say([(-1, "ERROR"), (-1, dropped)])
    result = await journal.look()
    assert result.verdict is UNKNOWN
    assert f"journald dropped {said} more, written too fast (LogRateLimitBurst= of the unit)" in result.reason
    journal.say([(-5.001, dropped)])
    assert (await journal.look()).verdict is GOOD


async def test_a_user_without_rights_is_told_what_to_do(journal: Journal) -> None:
    journal.say(body='sys.exit("No journal files were opened due to insufficient permissions.")')
    result = await journal.look()
    assert result.verdict is UNKNOWN
    assert result.reason.endswith("insufficient permissions; its user has to be in the group systemd-journal")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('sys.exit("Failed to open files")', "journalctl: exit 1: Failed to open files"),
        ("import os; os.kill(os.getpid(), 9)", "journalctl: killed by SIGKILL: "),
        ("import time; time.sleep(60)", "not looked through within 500ms"),
    ],
)
async def test_a_journalctl_that_fails_says_nothing(journal: Journal, body: str, said: str) -> None:
    journal.say([(-1, "ERROR")] * 9, body=body)
    result = await journal.look(timeout="500ms" if "sleep" in body else "10s")
    assert result.verdict is UNKNOWN
    assert said in result.reason


async def test_without_a_journalctl_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    place = CheckPlace("log", "shop", {}, Spawner(), HandClock(), lambda: None, None)
    result = await LogCheck(LogSettings(log={"unit": "x.service"}, matching="x"), place).run()
    assert (result.verdict, result.reason) == (UNKNOWN, "x.service: could not be read: journalctl: no such program")


async def test_the_real_journalctl_takes_what_it_is_asked() -> None:
    program("journalctl")
    place = CheckPlace("log", "shop", {}, Spawner(), SystemClock(), lambda: None, None)
    result = await LogCheck(LogSettings(log={"unit": "no-such-unit-anywhere.service"}, matching="x"), place).run()
    assert result.verdict is UNKNOWN
    assert "the journal has nothing of it at all" in result.reason


# -- settings -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"log": {}}, "a log is of one place"),
        ({"log": {"unit": "a.service", "file": "/x"}}, "a log is of one place"),
        ({"log": {"file": "x.log"}}, "is not an absolute path"),
        ({"log": {"unit": "--root=/"}}, "unit"),
        ({"log": {"unit": "a b"}}, "unit"),
        ({"matching": "("}, "is not a regular expression"),
        ({"matching": ""}, "matching"),
        ({"matching": "x" * 1001}, "matching"),
        ({"fewer_than": 0}, "fewer_than"),
        ({"within": "0s"}, "within"),
        ({"time": ISO, "log": {"unit": "a.service"}}, "the journal knows the times"),
        ({"time": "%H:%M"}, "it has no day, hour and minute"),
        ({"time": "%Y-%m-%d %H:%M %Z"}, "%Z is not known"),
        ({"time": "%Y-%m-%d %H:%M %"}, "is not known"),
        ({"time": "noon"}, "it has no day"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        LogSettings(**({"log": {"file": "/var/log/x"}, "matching": "x"} | settings))
    assert said in str(error.value)


def test_a_log_is_called_by_its_unit_or_file() -> None:
    assert str(LogSettings(log={"unit": "a.service"}, matching="x").log) == "a.service"
    assert str(LogSettings(log={"file": "/var/log/x"}, matching="x").log) == "/var/log/x"
