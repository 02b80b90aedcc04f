"""What is tried before it counts: alerts, receivers, and all that the configuration names."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from rollbackd.decision.refusals import UnknownName
from rollbackd.operations.base import OperationsBase
from rollbackd.views.shapes import AlertTrialView, LiveCheckView, PassageView, ReceiverTrialView


class TrialOperations(OperationsBase):
    """Nothing is decided and nothing is touched."""

    async def try_alert(self, labels: Mapping[str, str], at: datetime | None = None) -> AlertTrialView:
        """Whose an alert with these labels would be, which rules ask for it, what would be decided, done and told."""
        return await self._parts.alert_trials.judge(labels, at)

    async def try_passage(self, labels: Mapping[str, str], wait: timedelta) -> PassageView:
        """Have Alertmanager bring an alert that no rule judges; whether it came."""
        return await self._parts.passages.send(labels, wait)

    async def try_receiver(self, name: str, actor: str) -> ReceiverTrialView:
        """Send a receiver a test; what the other side said. :raises UnknownName: JournalUnavailable:"""
        trials = self._parts.receiver_trials
        if name not in trials.names:
            known = ", ".join(trials.names) or "none"
            raise UnknownName(f'there is no receiver "{name}"; there are: {known}')
        return await trials.send(name, actor)

    async def check_live(self, actor: str, *, messages: bool) -> LiveCheckView:
        """Ask everything that the configuration names; with `messages` each receiver is sent a test."""
        return await self._parts.live_check.run(messages=messages, actor=actor)
