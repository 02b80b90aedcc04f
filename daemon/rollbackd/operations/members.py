"""The hosts that share a journal: who drives, and who is to."""

from rollbackd import facts
from rollbackd.decision.refusals import OrderRefused
from rollbackd.journal import Entry
from rollbackd.model import FLEET
from rollbackd.operations.base import OperationsBase
from rollbackd.views.shapes import MemberView


class MemberOperations(OperationsBase):
    """Lists them, and orders what is between them."""

    async def members(self) -> list[MemberView]:
        """The daemons that share the journal; none where this one is alone."""
        return [
            MemberView(
                one.host,
                one.version,
                one.since,
                one.silent,
                one.ahead.total_seconds(),
                one.configuration,
                one.drives,
                one.epoch,
            )
            for one in await self._read_model.journal.members()
        ]

    async def drain(self, host: str, actor: str) -> None:
        """Have the host that drives give the journal to another one, between two steps.

        :raises OrderRefused: it does not drive, or nobody would take it.
        """
        here, members = self._config.daemon.here, await self._read_model.journal.members()
        if self.give_away is None or host != here:
            raise OrderRefused(
                f"{host} does not drive; {here} does" if members else f"{here} is alone: nobody else drives"
            )
        if not any(one.host != here and one.alive for one in members):
            raise OrderRefused(f"no other host stands by: nobody would take over from {here}")
        self._log.info("the journal is given away", actor=actor)
        self.give_away()

    async def resume_from(self, host: str, actor: str) -> None:
        """Lift what the signal files of a host that is gone hold; one that lives says it again within a second.

        :raises OrderRefused: they hold nothing.
        """
        if host == self._config.daemon.here:
            raise OrderRefused(f"this is {host}; remove the file in {self._config.daemon.signals}")
        if host not in self._read_model.fleet.signal_holds:
            held = ", ".join(self._read_model.fleet.signal_holds) or "no host"
            raise OrderRefused(f"no signal file of {host} holds anything; those of {held} do")
        await self._read_model.append(Entry(FLEET, facts.SignalHolds(host), actor))
        self._parts.runner.wake_all()
