"""Whether a program succeeds: exit 0 is good, any other is bad.

A program that could not be started, was killed, or did not end in time says more about this host than about the
service, so it is inconclusive; `timed_out: bad` is for those that hang only when the service does.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.checks.timed import timed, too_late
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.units import format_duration, in_words
from rollbackd.system.spawner import Finished, SpawnError

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
"""What env, npm and the like exit with when it is they who cannot start the program."""
_SHOWN = 200
"""Characters of each line of output that is told."""


def _argv(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv or not argv[0] or any("\0" in argument for argument in argv):
        raise ValueError("this is no argument vector; write it like [npm, run, test:smoke]")
    return argv


class CommandSettings(CheckSettings):
    """A program exits with 0."""

    command: Annotated[tuple[str, ...], AfterValidator(_argv), AfterValidator(in_words)]
    """Its argument vector; there is no shell."""
    cwd: Path | None = None
    timed_out: Literal["inconclusive", "bad"] = "inconclusive"
    """What it means when it does not end within `timeout`."""
    lines: int = Field(default=1, ge=1, le=50)
    """How many of the last lines of its output are told."""


class CommandCheck:
    """A check that runs a program once and ends its process group at the time limit."""

    settings_model: ClassVar[type[CheckSettings]] = CommandSettings

    def __init__(self, settings: CommandSettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place

    async def run(self, since: datetime | None = None) -> CheckResult:  # noqa: ARG002  # it sees only the present
        return await timed(self._place, self._settings, self._ran())

    async def _ran(self) -> tuple[Verdict, str]:
        settings, spawner, tried = self._settings, self._place.spawner, asyncio.get_running_loop().time()
        try:
            finished = await spawner.run(settings.command, cwd=settings.cwd, timeout=settings.timeout)
            return self._judged(finished, self._place.held_up(tried))
        except SpawnError as error:
            return Verdict.INCONCLUSIVE, f"could not be run: {error}"

    def _judged(self, finished: Finished, ours: float) -> tuple[Verdict, str]:
        last = _last_lines(finished.tail.splitlines(), self._settings.lines)
        if finished.timed_out:
            reason = f"did not end within {format_duration(self._settings.timeout)}{last}"
            verdict, blamed = too_late(reason, self._settings.timeout, ours)
            return (verdict, blamed) if self._settings.timed_out == "bad" else (Verdict.INCONCLUSIVE, reason)
        if finished.code < 0:
            return Verdict.INCONCLUSIVE, f"was killed by signal {-finished.code}{last}"
        if finished.code in (_NOT_EXECUTABLE, _NOT_FOUND):
            return Verdict.INCONCLUSIVE, f"exit {finished.code}, a program in it could not be started{last}"
        return (Verdict.BAD if finished.code else Verdict.GOOD), f"exit {finished.code}{last}"


def _last_lines(lines: Sequence[str], most: int) -> str:
    """The last lines of output that say something, to be put after the reason."""
    said = [line.strip()[:_SHOWN] for line in lines if line.strip()][-most:]
    return f": {' / '.join(said)}" if said else ""
