"""Stop signs by API and command line."""

from datetime import datetime

from rollbackd import facts
from rollbackd.decision.refusals import InvalidOrder, OrderRefused
from rollbackd.journal import Entry
from rollbackd.model import FLEET, service_stream
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
