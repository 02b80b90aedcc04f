"""Follows clusters: which workloads take part as services. It only looks, keeps what it found, and tells people.

What was found is read with the configuration, so a change of it is taken over as one of the file is.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from rollbackd import facts, plugins
from rollbackd.adapter import AdapterError, Place
from rollbackd.config import followed
from rollbackd.config.followed import FollowedService
from rollbackd.config.models import Config, ServicesFrom
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.rounds import Recurring
from rollbackd.system.spawner import Spawner, one_line
from rollbackd.system.whole_file import whole_file

_LIMIT = timedelta(minutes=1)
"""For one look at a cluster."""
_BORNE = 5
"""So many looks without an answer are told."""
_SHOWN = 20
"""Sentences of one notice."""


class ServicesFollower:
    """All entries of `services_from`."""

    def __init__(self, config: Config, read_model: ReadModel, spawner: Spawner, clock: Clock) -> None:
        self._config = config
        self._read_model = read_model
        self._spawner = spawner
        self._clock = clock
        self._scratch = config.daemon.scratch
        self._writing = asyncio.Lock()
        self._said: dict[str, tuple[str, ...]] = {}
        """What was told of each entry last: a refusal is told once, not each minute."""
        self._failures: dict[int, int] = {}
        """Looks without an answer, one after the other, by the entries' positions."""
        self._log = log.get("services")
        self.on_change: Callable[[], None] = lambda: None
        """Called when the configuration is to be read again."""

    def turns(self) -> Iterator[Recurring]:
        """A look at each cluster, as often as its entry says."""
        for number, entry in enumerate(self._config.services_from):
            yield Recurring(f"services-from-{number}", entry.every, partial(self.look, number))

    async def look(self, number: int) -> None:
        """Look once at the cluster of one entry. One that cannot be asked changes nothing."""
        entry = self._config.services_from[number]
        try:
            async with asyncio.timeout(_LIMIT.total_seconds()):
                seen = await self._seen(entry)
        except (AdapterError, TimeoutError) as error:
            await self._unanswered(number, self._spawner.clean(str(error)) or "no answer in time")
            return
        if self._failures.pop(number, 0) >= _BORNE:
            await self._tell_of(number, "it answers again", over=True)
        async with self._writing:
            await self._take(entry, seen)

    async def _unanswered(self, number: int, why: str) -> None:
        """Some looks without an answer are borne; then people are told, once."""
        failures = self._failures[number] = self._failures.get(number, 0) + 1
        self._log.warning("a cluster that services follow cannot be asked", entry=number, error=why)
        if failures == _BORNE:
            await self._tell_of(number, f"it cannot be asked which services follow it; all stay as they are: {why}")

    async def _tell_of(self, number: int, text: str, *, over: bool = False) -> None:
        cluster = self._config.services_from[number].cluster
        subject = {"subject": f"services_from/{number}"}
        await self._read_model.tell(
            facts.Notice("backend_unreachable", f"cluster {cluster}: {text}", "", over, subject)
        )

    async def _seen(self, entry: ServicesFrom) -> list[FollowedService]:
        """What takes part there. :raises AdapterError: it cannot be asked."""
        kind: Any = plugins.some_adapters(frozenset({entry.adapter}))[entry.adapter]
        place = Place("", "services-from", self._scratch, self._spawner, self._clock, clusters=self._config.clusters)
        seen = []
        for namespace in entry.namespaces:
            for each in await kind.discover(place, entry.cluster, namespace, entry.label):
                (name,) = each.names
                if followed.is_service_name(name):
                    where = {"namespace": namespace, "workload": each.layer["workload"]}
                    seen.append(FollowedService(cluster=entry.cluster, label=entry.label, name=name, **where))
                else:
                    self._log.warning("a label is no name of a service", cluster=entry.cluster, value=one_line(name))
        return seen

    async def _take(self, entry: ServicesFrom, seen: Sequence[FollowedService]) -> None:
        """Keep what changed, tell it, and have it taken over."""
        known = await asyncio.to_thread(followed.found_in, self._scratch)
        own = tuple(followed.of_entry(known, entry.cluster, entry.label))
        others = tuple(each for each in known if each not in own)
        followers = {each.name for each in known}
        taken = [service.name for service in self._config.services if service.name not in followers]
        taken += [each.name for each in others]
        now = self._clock.now().timestamp()
        found = followed.looked(own, seen, taken, entry.at_most, now)
        if found.services != own:
            await asyncio.to_thread(self._keep, (*others, *found.services))
        key = f"{entry.cluster}/{entry.label}"
        if found.told and found.told != self._said.get(key):
            more = f"; and {len(found.told) - _SHOWN} more" if len(found.told) > _SHOWN else ""
            text = "; ".join(found.told[:_SHOWN]) + more
            await self._read_model.tell(facts.Notice("services_followed", text, details={"subject": key}))
        self._said[key] = found.told
        if found.services != own:
            self.on_change()

    def _keep(self, services: Sequence[FollowedService]) -> None:
        name, text = followed.kept(services)
        with whole_file(self._scratch / name) as file:
            file.write(text)
