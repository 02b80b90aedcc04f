"""Stop signs by API and command line."""

from datetime import datetime, timedelta

from rollbackd import facts
from rollbackd.decision.refusals import InvalidOrder, OrderRefused
from rollbackd.journal import Entry
from rollbackd.model import FLEET, incident_stream, service_stream
from rollbackd.operations.base import OperationsBase
from rollbackd.views.shapes import HoldView


class HoldOperations(OperationsBase):
    """Holds, and the breaker."""

    async def holds(self) -> list[HoldView]:
        """Everything that holds anything."""
        return self._parts.holds.listed()

    def _hold_stream(self, scope: str) -> str:
        return FLEET if scope == "*" else service_stream(self._service(scope).name)

    async def hold(self, scope: str, actor: str, reason: str, until: datetime | None) -> None:
        """A stop sign for a service, or `*`. :raises UnknownName: InvalidOrder:"""
        if until is not None and until <= self._parts.clock.now():
            raise InvalidOrder(f"until {until.isoformat()} is in the past")
        await self._read_model.append(Entry(self._hold_stream(scope), facts.Held(reason, until), actor))
        self._parts.runner.wake_all()

    async def mending(self, name: str, actor: str, length: timedelta, reason: str) -> datetime | None:
        """Somebody mends a service, and says how long that takes: until when nothing goes back.

        None: the estimate is longer than `limits.mending` allows, and holds nothing up; it is recorded and told.

        :raises UnknownName: InvalidOrder: OrderRefused: somebody holds it already.
        """
        service, now = self._service(name).name, self._parts.clock.now()
        if length <= timedelta():
            raise InvalidOrder("say how long it takes, such as 8m")
        ledger = self._read_model.of(service)
        mended = ledger.mending
        own = mended is not None and ledger.hold is not None and ledger.hold.until == mended.until
        if ledger.hold is not None and ledger.hold.holds(now) and not own:
            held = f"{service} is held by {ledger.hold.actor} already"
            raise OrderRefused(f"{held}: nothing goes back until that is lifted")
        since = mended.since_with(now) if mended is not None else now
        heeded = now + length - since <= self._config.limits.mending
        fact = facts.Mending(length, reason, heeded)
        entries = [Entry(service_stream(service), fact, actor)]
        if ledger.open is not None:
            entries.append(Entry(incident_stream(ledger.open.incident), fact, actor))
        await self._read_model.append(*entries)
        self._parts.runner.wake_all()
        return now + length if heeded else None

    async def unhold(self, scope: str, actor: str) -> None:
        """Lift a hold made by `hold`.

        :raises OrderRefused: when there is none; what else holds it, and what lifts that.
        """
        stream = self._hold_stream(scope)
        ledger = self._read_model.fleet if scope == "*" else self._read_model.of(scope)
        if ledger.hold is None or not ledger.hold.holds(self._parts.clock.now()):
            raise OrderRefused(self._parts.holds.how_to_lift(scope))
        await self._read_model.append(Entry(stream, facts.Unheld(), actor))
        self._parts.runner.wake_all()

    async def resume(self, actor: str, reason: str = "") -> None:
        """Let automatic rollbacks go on after the breaker stopped them."""
        await self._read_model.append(Entry(FLEET, facts.BreakerReset(reason), actor))
