"""Takes hosts to a release, so many at once, with a look between them; what became of each is said, never guessed."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import Change
from rollbackd.system.spawner import Finished, one_line
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.remote.host import Host
from rollbackd_adapters.remote.releases import order, typed
from rollbackd_adapters.remote.settings import RemoteSettings
from rollbackd_adapters.remote.ssh import HostUnreachableError
from rollbackd_adapters.then import environment

_ONE_LOOK = timedelta(seconds=30)
"""For one run of `between`."""
_LOOK_AGAIN = timedelta(seconds=1)


class Fleet(LayerPart[RemoteSettings]):
    """The way of one change through all hosts."""

    def __init__(self, hosts: Sequence[Host], settings: RemoteSettings, place: Place) -> None:
        super().__init__(settings, place)
        self._hosts = hosts

    async def take_to(self, change: Change) -> None:
        """All hosts, in their order.

        :raises AdapterError: at the first that fails, or at the end when some cannot be reached; says which are done.
        """
        done: list[Host] = []
        failed: dict[Host, AdapterError] = {}
        waiting = list(self._hosts)
        while waiting:
            now, waiting = waiting[: self._settings.parallel], waiting[self._settings.parallel :]
            results = await asyncio.gather(*(_tried(host, change) for host in now))
            failed |= {host: error for host, error in zip(now, results, strict=True) if error is not None}
            fresh = [host for host in now if host not in failed]
            done += fresh
            if not all(self._may_skip(error) for error in failed.values()):
                break
            if waiting and (error := await self._look(fresh, change)) is not None:
                failed[fresh[-1]] = error
                break
        if failed:
            raise self._partial(change, done, failed)

    def _may_skip(self, error: AdapterError) -> bool:
        return self._settings.unreachable == "skip" and isinstance(error, HostUnreachableError)

    def _partial(self, change: Change, done: Sequence[Host], failed: dict[Host, AdapterError]) -> AdapterError:
        """What happened, with every host in it. A fleet that is short of one host is not done."""
        errors = list(failed.values())
        if len(self._hosts) == 1:
            return errors[0]
        missing = [host for host in self._hosts if host not in done]
        names = ", ".join(host.name for host in missing) or "none"
        text = "; ".join(map(str, errors))
        skipped = bool(done) and not missing[len(failed) :] and all(map(self._may_skip, errors))
        helps = f"{order(self._place.service, self._place.layer)}={typed(change.after)}"
        differ = f"the hosts differ now; `{helps}`, once all of them answer, takes the rest there"
        return AdapterError(
            f"{text}; done on {', '.join(host.name for host in done) or 'none'}, not on {names}: "
            f"{differ if done and missing else 'they are as they were, or not known'}",
            permanent=skipped or any(error.permanent for error in errors),
            evidence="\n".join(error.evidence for error in errors if error.evidence)[-(2**14) :],
        )

    # -- between hosts --------------------------------------------------------------------------
    async def _look(self, hosts: Sequence[Host], change: Change) -> AdapterError | None:
        """Ask `between` about each host until it passes; why it does not."""
        if not self._settings.between:
            return None
        try:
            for host in hosts:
                await self._passes(host, change)
        except AdapterError as error:
            return error
        return None

    async def _passes(self, host: Host, change: Change) -> None:
        deadline = self._clock.monotonic() + self._settings.between_within.total_seconds()
        while not (finished := await self._ask_between(host, change)).ok:
            if self._clock.monotonic() >= deadline:
                raise AdapterError(
                    f"{host.name} does not get well: `{one_line(' '.join(finished.argv))}`: {finished.ending}",
                    permanent=False,
                    evidence=finished.tail,
                )
            await self._clock.sleep(_LOOK_AGAIN)

    async def _ask_between(self, host: Host, change: Change) -> Finished:
        argv = [part.replace("{host}", host.name) for part in self._settings.between]
        with as_adapter_errors():
            return await self._spawner.run(argv, timeout=_ONE_LOOK, env=environment(self._place, change))


async def _tried(host: Host, change: Change) -> AdapterError | None:
    try:
        await host.take_to(change)
    except AdapterError as error:
        return error
    return None
