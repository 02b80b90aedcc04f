"""The daemons that share a journal: each says every second that it lives, and compares its clock with the database.

The one that drives compares their configurations: another one would not do the same with another.
"""

from collections import defaultdict
from contextlib import suppress
from datetime import timedelta

from rollbackd import __version__
from rollbackd.facts import Notice, kinds
from rollbackd.journal import JournalUnavailable
from rollbackd.model import FLEET
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import Clock, JumpWatch

EVERY = timedelta(seconds=1)
APART = timedelta(seconds=2)
"""A clock that is farther from the database's is not trusted: people are asked."""


_COMPARED = timedelta(seconds=30)
"""How often configurations are compared; those that part for one time are being changed."""
_DIFFER = "configurations_differ"


class Membership:
    """This daemon as one of them."""

    def __init__(
        self, host: str, process: str, configuration: str, read_model: ReadModel, clock: Clock, jumps: JumpWatch
    ) -> None:
        """:param configuration: stands for what all should have in common."""
        self._host = host
        self._process = process
        self._configuration = configuration
        self._read_model = read_model
        self._clock = clock
        self._jumps = jumps
        self._compared = clock.monotonic()
        self._differ = False
        """Whether they differed at the last look."""
        self._told: bool | None = None
        """Whether people know that they do; None: whoever drove before may have told them."""

    async def run(self) -> None:
        """For ever, where it drives. :raises JournalUnavailable:"""
        while True:
            await self.attend()
            if self._clock.monotonic() - self._compared >= _COMPARED.total_seconds():
                self._compared = self._clock.monotonic()
                await self.compare()
            await self._clock.sleep(EVERY)

    async def leave(self) -> None:
        """Say that we end, as far as that can be said: who has our name next waits a little longer else."""
        with suppress(JournalUnavailable):
            await self._read_model.journal.leave(self._host, self._process)

    async def compare(self) -> None:
        """Tell people of different configurations that two looks saw, and when all have the same again."""
        hosts = defaultdict[str, list[str]](list)
        for one in await self._read_model.journal.members():
            if one.alive:
                hosts[one.configuration].append(one.host)
        before, self._differ = self._differ, len(hosts) > 1
        if self._differ != before:
            return
        if self._told is None:
            notices = await self._read_model.journal.latest(kinds(Notice), FLEET, 500)
            self._told = next((not one.fact.over for one in notices if one.fact.kind == _DIFFER), False)
        if self._differ != self._told:
            which = "; ".join(f"{digest} on {', '.join(names)}" for digest, names in hosts.items())
            said = f"not all hosts have the same configuration ({which}): who takes over would not do the same"
            text = said if self._differ else "all hosts that live have the same configuration again"
            await self._read_model.tell(Notice(_DIFFER, text, over=not self._differ))
            self._told = self._differ

    async def attend(self) -> None:
        """Say that we live; tell people when our clock goes astray, and when it is right again."""
        ahead = await self._read_model.attend(self._host, self._process, __version__, self._configuration)
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
