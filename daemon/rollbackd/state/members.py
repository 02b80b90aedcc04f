"""The daemons that share a journal: each says every second that it lives, and compares its clock with the database."""

from contextlib import suppress
from datetime import timedelta

from rollbackd import __version__
from rollbackd.facts import Notice
from rollbackd.journal import JournalUnavailable
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import Clock, JumpWatch

EVERY = timedelta(seconds=1)
APART = timedelta(seconds=2)
"""A clock that is farther from the database's is not trusted: people are asked."""


class Membership:
    """This daemon as one of them."""

    def __init__(self, host: str, process: str, read_model: ReadModel, clock: Clock, jumps: JumpWatch) -> None:
        self._host = host
        self._process = process
        self._read_model = read_model
        self._clock = clock
        self._jumps = jumps

    async def run(self) -> None:
        """For ever. :raises JournalUnavailable:"""
        while True:
            await self.attend()
            await self._clock.sleep(EVERY)

    async def leave(self) -> None:
        """Say that we end, as far as that can be said: who has our name next waits a little longer else."""
        with suppress(JournalUnavailable):
            await self._read_model.journal.leave(self._host, self._process)

    async def attend(self) -> None:
        """Say that we live; tell people when our clock goes astray, and when it is right again."""
        ahead = await self._read_model.attend(self._host, self._process, __version__)
        was, self._jumps.astray = self._jumps.astray, _astray(ahead)
        if bool(was) != bool(self._jumps.astray):
            over = not self._jumps.astray
            said = f"the clock of {self._host} agrees with the database's again"
            now = f"on {self._host} {self._jumps.astray}; until they agree nothing is rolled back by itself there"
            await self._read_model.tell(
                Notice("clock", said if over else now, over=over, details={"subject": self._host})
            )


def _astray(ahead: timedelta) -> str:
    if abs(ahead) <= APART:
        return ""
    where = "ahead of" if ahead > timedelta() else "behind"
    return f"our clock is {abs(ahead).total_seconds():.1f}s {where} the database's"
