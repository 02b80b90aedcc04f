"""Changes that people or CI jobs announce, and confirm."""

import asyncio
from datetime import datetime

from rollbackd import facts
from rollbackd.decision.refusals import InvalidOrder, OrderRefused, UnknownName
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.model import service_stream
from rollbackd.operations.base import OperationsBase, OperationsParts
from rollbackd.operations.parameters import ChangeBody
from rollbackd.policy.changes import UNCONFIRMED, spell_of
from rollbackd.policy.ledger import Announcement, announced
from rollbackd.snapshots.data_marks import CHANGE
from rollbackd.views.presenters import WAITING, change_view
from rollbackd.views.shapes import ChangeView


class AnnouncedChanges(OperationsBase):
    """Each word is a fact of the service, with its actor."""

    def __init__(self, parts: OperationsParts) -> None:
        super().__init__(parts)
        self._one_at_a_time = asyncio.Lock()
        """The same key twice at once is one announcement."""

    async def changed(self, change: ChangeBody, actor: str) -> ChangeView:
        """A change is announced, before it is made or right after; the same key again is the same change.

        :raises UnknownName: InvalidOrder:
        """
        service = self._service(change.service)
        if "" in change.releases and len(service.layers) == 1:
            change = change.model_copy(update={"releases": {next(iter(service.layers)): change.releases[""]}})
        if set(change.releases) - set(service.layers) == {""}:
            layers = ", ".join(service.layers)
            raise InvalidOrder(f"say LAYER={change.releases['']}; {service.name} has the layers {layers}")
        self._check_layers(service, change.releases)
        async with self._one_at_a_time:
            known, is_new = await self._announce(service.name, change, actor)
        if is_new:
            await self._parts.snapshot_manager.marks.set(service.name, known.at, CHANGE)
        if (known.releases, known.kind, known.priority) != (change.releases, change.kind, change.priority):
            raise InvalidOrder(f'"{known.id}" is another change of {service.name} already; each needs a key of its own')
        return self._change(service.name, known)

    async def _announce(self, service: str, change: ChangeBody, actor: str) -> tuple[Announcement, bool]:
        """The announcement of this key, and whether it is a new one."""
        now = self._parts.clock.now()
        name = change.key or self._name(service, now)
        if (known := self._announced(service, name)) is not None:
            return known, False
        fact = facts.Announced(
            name, change.releases, change.kind, change.priority, self._confirm_by(change, now), change.text, change.by
        )
        records = await self._read_model.append(Entry(service_stream(service), fact, actor))
        self._parts.decision_engine.run_soon(self._look(service))
        return self._announced(service, name) or announced(fact, records[0].at, actor), True

    def _name(self, service: str, now: datetime) -> str:
        """One of our own for a change without a key, that can be typed: `checkout@20260301T120000Z`."""
        name = f"{service}@{now:%Y%m%dT%H%M%SZ}"
        return name if self._announced(service, name) is None else f"{service}@{now:%Y%m%dT%H%M%S.%fZ}"

    def _announced(self, service: str, name: str) -> Announcement | None:
        return next((one for one in self._read_model.of(service).announced if one.id == name), None)

    def _confirm_by(self, change: ChangeBody, now: datetime) -> datetime | None:
        within = change.confirm_within
        if within is None and change.priority is not None:
            within = self._config.priorities[change.priority].confirm_within
        return now + within if within else None

    async def _look(self, service: str) -> None:
        """At once, so that the change's window is short."""
        try:
            await self._parts.state_watcher.look(service)
        except JournalUnavailable as error:
            self._log.warning("a change could not be written; the next look sees it", service=service, error=str(error))

    async def changes(self, service: str) -> list[ChangeView]:
        """What was announced of a service, newest first. :raises UnknownName:"""
        self._service(service)
        return [self._change(service, one) for one in reversed(self._read_model.of(service).announced)]

    def _change(self, service: str, announced: Announcement) -> ChangeView:
        return change_view(self._read_model.of(service), service, announced, self._parts.clock.now())

    async def confirm(self, change: str, actor: str) -> ChangeView:
        """An announced change is well: by its key, or a service's newest that waits for that. Said twice it is once.

        :raises UnknownName: InvalidOrder: several services have a change of this key.
        :raises OrderRefused: it went back already, or is on its way.
        """
        service, key = self._to_confirm(change)
        async with self._one_at_a_time:
            found = self._announced(service, key)
            if found is None:
                raise UnknownName(f'nobody announced a change "{key}" of {service}')
            if not found.confirmed:
                await self._still_runs(service, found)
                await self._read_model.append(Entry(service_stream(service), facts.Confirmed(key), actor))
                await self._no_longer_asked(service, key, actor)
                found = self._announced(service, key) or found
        return self._change(service, found)

    def _to_confirm(self, change: str) -> tuple[str, str]:
        """A service and the key of one of its changes."""
        if self._config.service(change) is not None:
            return change, self._newest(change)
        named = [(service.name, change) for service in self._config.services]
        service, _, key = change.partition("/")
        having = [(name, id_) for name, id_ in (*named, (service, key)) if self._announced(name, id_) is not None]
        if not having:
            raise UnknownName(f'nobody announced a change "{change}"; `rollbackd status SERVICE` lists them')
        if len(having) > 1:
            which = " or ".join(f"{name}/{id_}" for name, id_ in having)
            raise InvalidOrder(f'several services have a change "{change}"; say {which}')
        return having[0]

    def _newest(self, service: str) -> str:
        """The newest change that waits; where none does, the newest that could be confirmed."""
        asked = [
            self._change(service, one) for one in reversed(self._read_model.of(service).announced) if one.confirm_by
        ]
        if not asked:
            raise UnknownName(f"no announced change of {service} waits to be confirmed")
        return next((one.id for one in asked if one.status in WAITING), asked[0].id)

    async def _still_runs(self, service: str, change: Announcement) -> None:
        """:raises OrderRefused: nobody can keep it any more."""
        ledger = self._read_model.of(service)
        spell = spell_of(ledger, change)
        if spell is not None and spell != ledger.spells[-1]:
            raise OrderRefused(f"{change.id} runs no more: {ledger.spells[-1].state.name} does")
        running = ledger.acting
        if running is not None and (await self._incident(running.incident)).acted:
            stop = f"`rollbackd abort {running.incident}` stops it"
            raise OrderRefused(f"{change.id} is not confirmed: {running.incident} takes {service} back already; {stop}")

    async def _no_longer_asked(self, service: str, key: str, actor: str) -> None:
        """A question about just this is answered by it; one that something else joined is not."""
        running = self._read_model.of(service).open
        if running is None or not running.waits:
            return

        def word(found: Incident) -> facts.Denied | None:
            triggers = (found.decision.trigger, *found.joined)
            alone = all(one.episode == f"{UNCONFIRMED}/{service}/{key}" for one in triggers)
            asks = found.waits and found.outcome is None and not found.denied
            return facts.Denied("confirmed the change") if alone and asks else None

        await self._say(running.incident, actor, word)
