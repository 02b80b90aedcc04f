"""All that people can ask or order, whichever way they come: socket, HTTP, command line, signal files.

Every order is journaled with its actor before anything happens.
"""

from collections.abc import Mapping, Sequence

from rollbackd.desk.answers import Answer, Answers
from rollbackd.desk.base import Invalid, NotFound, Parts, Refused
from rollbackd.desk.holds import Stops
from rollbackd.desk.marks import Announce, Marks
from rollbackd.desk.plans import Plans
from rollbackd.desk.reading import Reading
from rollbackd.desk.snapshots import Snapshotting
from rollbackd.judge.intake import Taken
from rollbackd.model import Alert
from rollbackd.sources.events import Posted
from rollbackd.sources.webhook import Webhook

__all__ = ["Announce", "Answer", "Desk", "Invalid", "NotFound", "Parts", "Refused"]


class Desk(Reading, Plans, Answers, Marks, Stops, Snapshotting):
    """The one way in for people, and for what is sent to the daemon."""

    def wants(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels belongs to a service and a rule."""
        return self._parts.live.wanted(labels) is not None

    async def receive(self, alerts: Sequence[Alert], actor: str) -> tuple[int, int, int]:
        """Accepted, duplicates, unmatched; on disk when it returns. :raises JournalUnavailable:"""
        counts = await self._parts.intake.receive(alerts)
        self._log.debug("alerts", actor=actor, accepted=counts[0], duplicates=counts[1], unmatched=counts[2])
        return counts

    async def report(self, posted: Sequence[Posted], actor: str) -> Taken:
        """Take events; on disk when it returns. :raises EventError: JournalUnavailable: nothing was kept."""
        taken = await self._parts.intake.report(posted)
        self._log.debug("events", actor=actor, accepted=taken.accepted, unmatched=taken.unmatched)
        return taken

    async def complete(self, webhook: Webhook) -> None:
        """A truncated group is completed from Alertmanager, when one is configured."""
        await self._parts.intake.complete(webhook)
