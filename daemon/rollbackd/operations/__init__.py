"""All that people can ask or order, whichever way they come: socket, HTTP, command line, signal files.

Every order is journaled with its actor before anything happens.
"""

from collections.abc import Sequence

from rollbackd import facts
from rollbackd.decision.refusals import InvalidOrder, OrderRefused, UnknownName
from rollbackd.model import Alert
from rollbackd.operations.base import OperationsParts
from rollbackd.operations.hold_orders import HoldOperations
from rollbackd.operations.incident_answers import IncidentAnswer, IncidentAnswers
from rollbackd.operations.members import MemberOperations
from rollbackd.operations.queries import StateQueries
from rollbackd.operations.report_figures import ReportOperations
from rollbackd.operations.rollbacks import RollbackOperations
from rollbackd.operations.snapshots import SnapshotOperations
from rollbackd.operations.state_marks import StateMarks
from rollbackd.operations.trials import TrialOperations
from rollbackd.operations.upgrades import UpgradeOperations
from rollbackd.signals.alertmanager_webhook import WebhookPayload
from rollbackd.signals.events import Posted
from rollbackd.signals.intake import EventReceipt

__all__ = ["IncidentAnswer", "InvalidOrder", "Operations", "OperationsParts", "OrderRefused", "UnknownName"]


class Operations(
    StateQueries,
    RollbackOperations,
    IncidentAnswers,
    UpgradeOperations,
    StateMarks,
    HoldOperations,
    MemberOperations,
    SnapshotOperations,
    TrialOperations,
    ReportOperations,
):
    """The one way in for people, and for what is sent to the daemon."""

    async def receive(self, alerts: Sequence[Alert], actor: str, *, elsewhere: bool = False) -> tuple[int, int, int]:
        """Accepted, duplicates, unmatched; on disk when it returns. :raises JournalUnavailable:

        :param elsewhere: no Alertmanager knows of them.
        """
        self._parts.passages.arrived(alerts, actor)
        counts = await self._parts.intake.receive(alerts, elsewhere=elsewhere)
        self._parts.intake.posted = self._parts.clock.now()
        self._log.debug("alerts", actor=actor, accepted=counts[0], duplicates=counts[1], unmatched=counts[2])
        return counts

    async def report(self, posted: Sequence[Posted], actor: str) -> EventReceipt:
        """Take events; on disk when it returns. :raises EventError: JournalUnavailable: nothing was kept."""
        taken = await self._parts.intake.report(posted)
        self._log.debug("events", actor=actor, accepted=taken.accepted, unmatched=taken.unmatched)
        return taken

    async def tell_of_source(self, actor: str, text: str) -> None:
        """People hear of a sender that is not understood."""
        await self._read_model.tell(facts.Notice("source_refused", text, details={"subject": actor}))

    async def complete(self, webhook: WebhookPayload) -> None:
        """A truncated group is completed from Alertmanager, when one is configured."""
        await self._parts.intake.complete(webhook)
