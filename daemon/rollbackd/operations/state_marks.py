"""What people know of states: good, or quarantined."""

from collections.abc import Mapping

from rollbackd import facts
from rollbackd.decision.refusals import InvalidOrder, OrderRefused
from rollbackd.execution.layers import LookFailed
from rollbackd.journal import Entry
from rollbackd.model import State, service_stream
from rollbackd.operations.base import OperationsBase
from rollbackd.views.presenters import state_view
from rollbackd.views.shapes import StateView


class StateMarks(OperationsBase):
    """Each is a fact of the service, with its actor."""

    async def good(self, service: str, releases: Mapping[str, str], actor: str) -> StateView:
        """Mark a state good: the present one, with these layers' releases instead.

        :raises UnknownName: InvalidOrder: OrderRefused:
        """
        found = self._service(service)
        if self._read_model.of(service).acting is not None:
            raise OrderRefused(f"{service} is being rolled back; mark it good when that is over")
        present = await self._parts.state_watcher.look(service)
        if present is None:
            problem = self._parts.state_watcher.problems.get(service, "two looks differ, something is being deployed")
            raise InvalidOrder(f"the present state cannot be told: {problem}")
        try:
            resolved = await self._resolve(found, releases)
        except LookFailed as error:
            raise InvalidOrder(str(error)) from error
        state = State({**present.releases, **resolved})
        if blocked := self._read_model.of(service).blocked(state):
            raise OrderRefused(f"{', '.join(blocked)} is quarantined; lift that first: `rollbackd quarantine --lift`")
        entry = Entry(service_stream(service), facts.MarkedGood(state, f"marked by {actor}"), actor)
        await self._read_model.append(entry)
        return state_view(self._read_model.of(service), state)

    async def quarantine(self, service: str, releases: Mapping[str, str], actor: str, lift: bool = False) -> None:
        """Releases that are never a target, or are one again. :raises UnknownName: InvalidOrder:"""
        found = self._service(service)
        if not releases:
            raise InvalidOrder("name the releases as LAYER=RELEASE")
        ledger = self._read_model.of(service)
        known = {(layer, ident) for layer, ident in ledger.quarantined}
        try:
            resolved = {layer: release.id for layer, release in (await self._resolve(found, releases)).items()}
        except LookFailed as error:
            exact = dict(releases)
            if not lift or not set(exact.items()) <= known:
                raise InvalidOrder(str(error)) from error
            resolved = exact
        if lift and not set(resolved.items()) <= known:
            raise InvalidOrder(f"not quarantined: {', '.join(f'{layer}={ident}' for layer, ident in resolved.items())}")
        why = f"by {actor}"
        fact = facts.QuarantineLifted(resolved, why) if lift else facts.Quarantined(resolved, why)
        await self._read_model.append(Entry(service_stream(service), fact, actor))
