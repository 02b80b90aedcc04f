"""The way of an alert through Alertmanager to us, tried with one that is marked as a test and that no rule judges."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from rollbackd.model import Alert
from rollbackd.signals.alertmanager_client import Alertmanager, Unreachable
from rollbackd.signals.alertmanager_webhook import TEST
from rollbackd.syntax.units import format_duration, roughly
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import until_first
from rollbackd.views.shapes import PassageView

_LEFT = timedelta(minutes=1)
"""How long after the wait the alert ends by itself, should we be killed before we end it."""


class AlertPassages:
    """Sends alerts to Alertmanager, and waits until they come by its webhook."""

    def __init__(self, alertmanager: Alertmanager | None, clock: Clock) -> None:
        self._alertmanager = alertmanager
        self._clock = clock
        self._waiting: dict[str, tuple[asyncio.Event, list[str]]] = {}
        """By the value of the label, with who brought it."""

    def arrived(self, alerts: Sequence[Alert], actor: str) -> None:
        """Note the tests among alerts that a webhook brought."""
        for alert in alerts:
            if alert.labels.get(TEST, "") in self._waiting:
                came, brought = self._waiting[alert.labels[TEST]]
                brought.append(actor)
                came.set()

    async def send(self, labels: Mapping[str, str], wait: timedelta) -> PassageView:
        """Have Alertmanager bring an alert with these labels, and one more; whether it came within the time."""
        if self._alertmanager is None:
            return PassageView(came=False, text="no Alertmanager is configured; give `alertmanager: {url: …}`")
        name, begun = secrets.token_hex(8), self._clock.now()
        self._waiting[name] = came, brought = asyncio.Event(), list[str]()
        marked, text = {**labels, TEST: name}, "a test of the way to rollbackd; nothing is wrong"
        began = self._clock.monotonic()
        try:
            await self._alertmanager.post(marked, text, begun, begun + wait + _LEFT)
            await until_first(came.wait(), self._clock.sleep(wait))
        except Unreachable as error:
            return PassageView(came=False, text=str(error))
        finally:
            del self._waiting[name]
            await self._end(marked, text, begun)
        took = timedelta(seconds=self._clock.monotonic() - began)
        if brought:
            return PassageView(came=True, text=f"it came after {roughly(took)}, brought by {brought[0]}", took=took)
        waits = "its route waits longer (`group_wait`), it is silenced, or no route of Alertmanager's leads to us"
        why = f"{waits}; rollbackd check --live looks at the routes"
        return PassageView(came=False, text=f"it did not come within {format_duration(wait)}: {why}", took=took)

    async def _end(self, labels: Mapping[str, str], text: str, begun: datetime) -> None:
        assert self._alertmanager is not None
        with suppress(Unreachable):  # it ends by itself
            await self._alertmanager.post(
                labels, text, begun, max(self._clock.now(), begun + timedelta(milliseconds=1))
            )
