"""Whether few enough lines of a log match. A log that cannot be read as far back as asked is inconclusive.

Lines from before the last step are not counted; enough of them after it are bad at once, and few are good only when
the whole time has passed. A unit's lines come from journalctl, which knows when each was written. Lines of a file are
placed by the times in them; without, by where the file ended at earlier looks, which the daemon remembers.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import re2
from pydantic import AfterValidator, Field, model_validator

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.checks import log_lines
from rollbackd.checks.timed import timed
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.units import Duration, Spec, format_duration, roughly, show
from rollbackd.system.redaction import one_line
from rollbackd.system.spawner import Finished, Spawner, SpawnError

_UNIT = r"^[A-Za-z0-9@_:.*\\][A-Za-z0-9@_:.*\\-]*$"
_ENTRIES = 20_000
"""Entries of the journal that are looked through; where there are more, only enough of them that match say anything."""
_JOURNAL = 64 * 2**20
"""Bytes of journalctl's output that are read."""
_MARKS = 64
"""Looks that are remembered over the time that is asked for."""
_SAMPLE = datetime(2024, 5, 6, 17, 8, 9, 123456, UTC)


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError(f"{show(str(path))} is not an absolute path; write it like /var/log/checkout.log")
    return path


def _pattern(text: str) -> str:
    try:
        log_lines.searcher(text, re2)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{show(text)} is not a regular expression: {error}; write one of RE2's or Python's") from None
    return text


def _time(text: str) -> str:
    try:
        readable = not text or log_lines.LineTimes(text, _SAMPLE).of(_SAMPLE.strftime(text)) is not None
    except ValueError as error:
        raise ValueError(f"{show(text)} is not a format of times that can be read: {error}") from None
    if not readable:
        raise ValueError(f"{show(text)} is not a format of times that can be read; write it like %Y-%m-%dT%H:%M:%S%z")
    return text


class Source(Spec):
    """Where lines come from: a unit's journal, or a file."""

    unit: str = Field(default="", pattern=_UNIT + r"|^$", max_length=255)
    """As systemd calls it; `*` stands for anything."""
    file: Annotated[Path, AfterValidator(_absolute)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.unit) == (self.file is not None):
            raise ValueError("a log is of one place; give {unit: checkout.service} or {file: /var/log/checkout.log}")
        return self

    def __str__(self) -> str:
        return self.unit or str(self.file)


class LogSettings(CheckSettings):
    """Fewer lines of a log than so many match, over a time."""

    log: Source
    matching: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_pattern)]
    """A regular expression of RE2's, found anywhere in a line; what only Python's can say may take too long."""
    fewer_than: int = Field(default=1, ge=1)
    """That many lines are too many."""
    within: Annotated[Duration, Field(gt=timedelta())] = timedelta(minutes=5)
    """How far back is looked, but never to before the last step."""
    time: Annotated[str, Field(max_length=100), AfterValidator(_time)] = ""
    """How a file's lines say when they were written, as `strptime` has it: `%Y-%m-%dT%H:%M:%S%z`."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.time and self.log.unit:
            raise ValueError("the journal knows the times of its lines; `time` is for a file")
        return self


@dataclass(frozen=True, slots=True)
class _Counted:
    """What was found since a time."""

    sure: int
    maybe: int
    """As many, or more when lines without times came between two looks."""
    gap: str
    """Why lines may be missing; empty when none are."""
    last: Sequence[str]


class _Unread(Exception):  # noqa: N818  # a finding: there is nothing to count
    """The log cannot be read; the text says why."""


class LogCheck:
    """A check that counts matching lines once, in a process of its own, which ends at the time limit."""

    settings_model: ClassVar[type[CheckSettings]] = LogSettings

    def __init__(self, settings: LogSettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place

    async def run(self, since: datetime | None = None) -> CheckResult:
        return await timed(self._place, self._settings, self._looked(since))

    async def _looked(self, since: datetime | None) -> tuple[Verdict, str]:
        clock, settings = self._place.clock, self._settings
        deadline, now = clock.monotonic() + settings.timeout.total_seconds(), clock.now()
        start = now - settings.within
        missing = max(timedelta(), (since or start) - start)
        try:
            return self._judged(await self._counted(start + missing, now, deadline), missing)
        except _Unread as error:
            return Verdict.INCONCLUSIVE, f"{settings.log}: {error}"

    def _judged(self, found: _Counted, missing: timedelta) -> tuple[Verdict, str]:
        settings = self._settings
        within = format_duration(settings.within)
        number = str(found.sure) if found.sure == found.maybe else f"{found.sure} to {found.maybe}"
        said = f"{number} lines match {show(settings.matching)}"
        if found.sure >= settings.fewer_than:
            over = format_duration(settings.within - missing)
            return Verdict.BAD, f"{said} in {over}, wants fewer than {settings.fewer_than}{self._shown(found)}"
        if missing:
            rest = f"looks {within} back, to before the last step; conclusive in {roughly(missing)}"
            return Verdict.INCONCLUSIVE, f"{said} so far; {rest}"
        if found.gap:
            return Verdict.INCONCLUSIVE, f"{said} so far, wants to look {within} back; {found.gap}"
        if found.maybe >= settings.fewer_than:
            return Verdict.INCONCLUSIVE, f"{said} in {within}; which of them, the next look will tell"
        return Verdict.GOOD, f"{said} in {within}, fewer than {settings.fewer_than}"

    def _shown(self, found: _Counted) -> str:
        spawner: Spawner = self._place.spawner
        lines = [one_line(spawner.clean(line)) for line in found.last]
        return f"; the last: {' | '.join(lines)}" if lines else ""

    async def _counted(self, since: datetime, now: datetime, deadline: float) -> _Counted:
        if self._settings.log.file is not None:
            return await self._in_file(self._settings.log.file, since, now, deadline)
        return await self._in_journal(since, deadline)

    # -- a file ---------------------------------------------------------------------------------
    async def _in_file(self, file: Path, since: datetime, now: datetime, deadline: float) -> _Counted:
        settings, memory = self._settings, self._place.memory
        answer = await self._ask_counter(
            {
                "file": str(file),
                **self._looked_for(),
                "since": since.timestamp(),
                "now": now.timestamp(),
                "time": settings.time,
                "marks": memory.get(str(file), []),
            },
            b"",
            deadline,
        )
        if "problem" in answer:
            raise _Unread(answer["problem"])
        memory[str(file)] = _remembered([*answer["marks"], answer["mark"]], now, settings.within)
        return _Counted(answer["sure"], answer["maybe"], answer["gap"], answer["last"])

    def _looked_for(self) -> dict[str, str]:
        """What is searched for, and where the counter finds RE2."""
        return {"matching": self._settings.matching, "re2": str(Path(re2.__file__).parents[1])}

    async def _ask_counter(self, request: Mapping[str, Any], entries: bytes, deadline: float) -> dict[str, Any]:
        argv = [sys.executable, "-I", "-S", log_lines.__file__, json.dumps(request)]
        finished = await self._spawned(argv, deadline, entries)
        if not finished.ok:
            raise _Unread(f"its lines could not be counted: {finished.ending}: {finished.tail[-200:]}")
        answer: dict[str, Any] = json.loads(finished.stdout)
        return answer

    async def _spawned(self, argv: Sequence[str], deadline: float, stdin: bytes = b"") -> Finished:
        """A program's result. :raises _Unread: it cannot be started, or does not end in time."""
        spawner: Spawner = self._place.spawner
        left = timedelta(seconds=max(0.0, deadline - self._place.clock.monotonic()))
        try:
            finished = await spawner.run(argv, timeout=left, stdin=stdin, limit=_JOURNAL)
        except SpawnError as error:
            raise _Unread(f"could not be read: {error}") from error
        if finished.timed_out:
            limit = format_duration(self._settings.timeout)
            raise _Unread(f"not looked through within {limit}; is {show(self._settings.matching)} too costly?")
        return finished

    # -- the journal ----------------------------------------------------------------------------
    async def _in_journal(self, since: datetime, deadline: float) -> _Counted:
        begin = since.timestamp()
        finished = await self._of_unit([f"--since=@{int(begin)}", f"--lines={_ENTRIES}"], deadline)
        request = {**self._looked_for(), "since": begin}
        answer = await self._ask_counter(request, finished.stdout, deadline)
        if answer["seen"] == 0 and not (await self._of_unit(["--lines=1"], deadline)).stdout.strip():
            raise _Unread(
                "the journal has nothing of it at all; is that its name, and may this user read the journal"
                f" (group systemd-journal)? {one_line(finished.stderr)}".rstrip()
            )
        gap = ""
        if finished.truncated or answer["seen"] >= _ENTRIES:
            gap = f"there are more than {answer['seen']} entries"
        elif answer["dropped"]:
            gap = f"journald dropped {answer['dropped']} more, written too fast (LogRateLimitBurst= of the unit)"
        elif answer["sure"] < self._settings.fewer_than and not await self._reaches(begin, deadline):
            gap = "the journal begins later, or this user may not read all of it (group systemd-journal)"
        return _Counted(answer["sure"], answer["maybe"], gap, answer["last"])

    async def _reaches(self, begin: float, deadline: float) -> bool:
        """Whether the journal reaches back so far; after a reboot, or once it was cleared, silence says nothing.

        There is always something of root's. A user without rights sees at most its own journal, without that. Only
        with `--reverse` does `--lines` begin at `--until` and not at the end (systemd 252).
        """
        options = ["_UID=0", f"--until=@{int(begin)}", "--reverse", "--lines=1"]
        return bool((await self._journalctl(options, deadline)).stdout.strip())

    async def _of_unit(self, options: Sequence[str], deadline: float) -> Finished:
        """Entries of the unit; with `--all`, since longer messages come as null without it."""
        fields = "--output-fields=MESSAGE,MESSAGE_ID,N_DROPPED"
        return await self._journalctl([f"--unit={self._settings.log.unit}", fields, "--all", *options], deadline)

    async def _journalctl(self, options: Sequence[str], deadline: float) -> Finished:
        finished = await self._spawned(["journalctl", "--output=json", "--no-pager", "--quiet", *options], deadline)
        if not finished.ok:
            said = one_line(finished.stderr).rstrip(".")
            help_ = "; its user has to be in the group systemd-journal" if "permission" in said.lower() else ""
            raise _Unread(f"journalctl: {finished.ending}: {said}{help_}")
        return finished


def _remembered(marks: Sequence[dict[str, Any]], now: datetime, within: timedelta) -> list[dict[str, Any]]:
    """The marks to keep: those of the time that is asked about, thinned out, and the newest one before it."""
    start, apart = (now - within).timestamp(), within.total_seconds() / _MARKS
    older = [mark for mark in marks if mark["at"] <= start]
    kept: list[dict[str, Any]] = older[-1:]
    for mark in marks:
        if mark["at"] > start and (not kept or mark["at"] >= kept[-1]["at"] + apart):
            kept.append(mark)
    return kept
