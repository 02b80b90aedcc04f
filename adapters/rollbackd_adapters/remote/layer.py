"""The layer that the core sees: all hosts as one."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import NO_RELEASE, Change, Progress, Release
from rollbackd.system.spawner import one_line
from rollbackd_adapters.base import LayerAdapter
from rollbackd_adapters.ids import check_id
from rollbackd_adapters.listed import listed
from rollbackd_adapters.remote.fleet import Fleet
from rollbackd_adapters.remote.host import Host
from rollbackd_adapters.remote.releases import agreed, as_one, common, harmless, order, together
from rollbackd_adapters.remote.settings import RemoteSettings
from rollbackd_adapters.remote.ssh import HostUnreachableError

_T = TypeVar("_T")


class RemoteAdapter(LayerAdapter[RemoteSettings]):
    """A layer on another host, or on several."""

    settings_model: ClassVar[type[Settings]] = RemoteSettings
    fences: ClassVar[bool] = True

    def __new__(cls, settings: RemoteSettings, place: Place) -> "RemoteAdapter":  # noqa: PYI034  # mypy cannot follow Self to a subclass
        """The class with snapshots, or with copies of data, for settings that have them in `traits`."""
        from rollbackd_adapters.remote.keeping import RemoteCopies, RemoteSnapshots  # which derive from this class

        del place
        if "snapshots" not in settings.traits:
            return object.__new__(cls)
        return object.__new__(RemoteCopies if "data" in settings.traits else RemoteSnapshots)

    def __init__(self, settings: RemoteSettings, place: Place) -> None:
        super().__init__(settings, place)
        self._hosts = tuple(Host(each, settings, place) for each in settings.destinations)
        self.resource = ",".join(host.resource for host in self._hosts)
        self.traits = settings.means

    async def current(self) -> Release:
        found = await self._all(lambda host: host.ask("current"))
        present = {host: harmless(release) for host, release in found.items()}
        return agreed(together(present, await self._unfinished(present)), order(self._place.service, self._place.layer))

    async def _unfinished(self, present: Mapping[str, Release]) -> list[str]:
        """The hosts that were taken to what they have now, and did not finish all of it."""
        asked = [host for host in self._hosts if host.name in present]
        found = await asyncio.gather(*(host.finished(present[host.name]) for host in asked))
        return [host.name for host, finished in zip(asked, found, strict=True) if not finished]

    async def releases(self) -> Sequence[Release]:
        found = await self._all(lambda host: host.ask("releases"))
        return common({host: listed(releases, harmless).releases for host, releases in found.items()})

    async def plan(self, target: Release) -> Change:
        target = check_id(target) if self.traits.releases else NO_RELEASE
        found: Mapping[str, Change] = await self._all(lambda host: host.ask("plan", target=target))
        unfinished = await self._unfinished({host: change.before for host, change in found.items()})
        return as_one(self._place.layer, target, found, unfinished)

    async def apply(self, change: Change) -> None:
        self._check(change)
        await Fleet(self._hosts, self._settings, self._place).take_to(change)

    async def progress(self, change: Change) -> Progress:
        self._check(change)
        found = await asyncio.gather(*(self._attempt(host, lambda host: host.progress(change)) for host in self._hosts))
        known = [each for each in found if isinstance(each, Progress)]
        errors = [each for each in found if isinstance(each, AdapterError)]
        self._bear(errors)
        for word in (Progress.RUNNING, Progress.SUPERSEDED, Progress.NOT_STARTED):
            if word in known:
                return word
        if errors:  # all others are done: nothing is left to do, and it is not done
            raise AdapterError("; ".join(map(str, errors)), permanent=True)
        return Progress.DONE

    async def _problems(self) -> list[str]:
        texts = self._missing_here()
        if not texts:
            found = await asyncio.gather(*(self._attempt(host, self._problems_of) for host in self._hosts))
            errors = [each for each in found if isinstance(each, AdapterError)]
            texts = [text for each in found if not isinstance(each, AdapterError) for text in each]
            try:
                self._bear(errors)
            except AdapterError:
                texts += map(str, errors)
        return texts

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        """Have each host drop what is old there; what a host has dropped, after its name."""
        found = await self._all(lambda host: host.prune(spare, last))
        return [f"{host}: {one_line(name)}" for host, names in found.items() for name in names]

    # -- as a bracket ---------------------------------------------------------------------------
    async def inside(self, key: str) -> bool:
        return await self._hosts[0].ask("inside", key=key)  # type: ignore[no-any-return]

    async def enter(self, key: str) -> None:
        await self._hosts[0].order(("enter", {"key": key}))

    async def note(self, key: str) -> str:
        """:raises AdapterError: also when what is there has nothing to tell, ever."""
        return await self._hosts[0].ask("note", key=key)  # type: ignore[no-any-return]

    async def leave(self, key: str) -> None:
        await self._hosts[0].order(("leave", {"key": key}))

    # -- all hosts ------------------------------------------------------------------------------
    async def _all(self, ask: Callable[[Host], Awaitable[_T]]) -> dict[str, _T]:
        """Every host's answer, by its name, asked at once; with `unreachable: skip`, of those that answer."""
        found = await asyncio.gather(*(self._attempt(host, ask) for host in self._hosts))
        self._bear([each for each in found if isinstance(each, AdapterError)])
        return {
            host.name: each for host, each in zip(self._hosts, found, strict=True) if not isinstance(each, AdapterError)
        }

    async def _attempt(self, host: Host, ask: Callable[[Host], Awaitable[_T]]) -> _T | AdapterError:
        try:
            return await ask(host)
        except AdapterError as error:
            return error

    def _bear(self, errors: Sequence[AdapterError]) -> None:
        """Go on without hosts that cannot be reached, if that is wanted and one is left. :raises AdapterError: else."""
        skipping = self._settings.unreachable == "skip" and len(errors) < len(self._hosts)
        for error in errors:
            if not (skipping and isinstance(error, HostUnreachableError)):
                raise error

    def _check(self, change: Change) -> None:
        if not change.key:
            raise AdapterError(f"{change.layer}: a change without a key cannot be applied", permanent=True)
        if self.traits.releases or change.after != NO_RELEASE:
            check_id(change.after)

    # -- being ready ----------------------------------------------------------------------------
    def _missing_here(self) -> list[str]:
        """What this host lacks; without it no other needs to be asked."""
        settings = self._settings
        for program in ("ssh", "timeout", *settings.between[:1]):
            if self._spawner.which(program) is None:
                return [f"{program}: no such program on this host; install it, or correct the configuration"]
        files = {"identity": settings.identity, "known_hosts": settings.known_hosts, "ssh_config": settings.ssh_config}
        return [text for name, path in files.items() if path is not None and (text := _unreadable(name, path))]

    async def _problems_of(self, host: Host) -> list[str]:
        offer, problems = await host.offer()
        texts = [one_line(problem.text) for problem in problems]
        if not set(self._settings.traits) <= set(offer.words):
            texts.append(f"it cannot be used like that; write traits: [{', '.join(offer.words)}]")
        elif self._settings.means.data != offer.traits.data:
            texts.append("it holds data and `traits` does not say so, or the other way round; add data, or remove it")
        return [f"{host.name}: {text}" for text in texts]


def _unreadable(name: str, path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return f"{name}: {path}: {(error.strerror or str(error)).lower()}; let the daemon's user read it"
