"""Has nginx load its configuration with a link led elsewhere; what it does not take is put back at once."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.units import format_duration
from rollbackd.system.spawner import Finished, Lock, one_line, sync_directory
from rollbackd_adapters.attributes import copy_owner_of_link
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.lacks import missing_programs
from rollbackd_adapters.nginx.included import includes, loaded
from rollbackd_adapters.nginx.settings import NginxSettings
from rollbackd_adapters.nginx.workers import age, master, signalled, workers
from rollbackd_adapters.systemd.manager import Manager
from rollbackd_adapters.web import ask, unprepared, words_of

_LOOK_AGAIN = timedelta(milliseconds=100)
_ASK = timedelta(seconds=5)
_ROUNDED = 0.05
"""Seconds by which the kernel's answers about times may differ."""
_IN_A_ROW = 5
"""Answers of `confirm`: for a tenth of a second nginx lets old workers take connections beside the new ones."""
_PASSING = (
    "host not found",
    "could not be resolved",
    "address already in use",
    "connect to bus",
    "connection timed out",
)
"""What nginx may take the next time without anybody's doing, or systemd hear."""

Shown = Callable[[str], bool]
"""Whether the body that `confirm` answers says that the wanted configuration is loaded."""


class _NotSeen(AdapterError):  # noqa: N818  # an answer too
    """A reload that had no visible effect."""


class Unsettled(AdapterError):  # noqa: N818  # a state of the world
    """The link is back, and nginx may serve what it led to in between all the same."""


class Switch(LayerPart[NginxSettings]):
    """One link that nginx includes."""

    def __init__(self, settings: NginxSettings, place: Place, link: Path) -> None:
        super().__init__(settings, place)
        self._link = link

    def where(self) -> Path | None:
        """Where the link leads, or None when there is none. :raises AdapterError: permanent, when it is no link."""
        try:
            return Path(os.path.normpath(self._link.parent / self._link.readlink()))
        except FileNotFoundError:
            return None
        except OSError as error:
            why = "it is not a link, so it is not rollbackd's" if self._link.exists() else error.strerror
            raise AdapterError(f"{self._link}: {why}; take it away, or correct `link`", permanent=True) from error

    def leads_to(self, target: Path) -> bool:
        """Whether the link leads there, written in whichever way."""
        where = self.where()
        return where is not None and (where == target or os.path.realpath(where) == os.path.realpath(target))

    async def answer(self) -> str:
        """What `confirm` is answered now; empty where there is none, and when nobody answers."""
        with suppress(AdapterError):
            return await self._confirmed() if self._settings.confirm is not None else ""
        return ""

    async def to(self, target: Path | None, back: Path | None, shown: Shown, lock: Lock) -> None:
        """Lead the link there, None for away; test, reload, and see that it took. All of it may be done again.

        :param back: where the link led before, in whichever life that was: what it is put back to.
        :raises AdapterError: nginx did not take it. The link is back, and what is loaded is as before.
        """
        # The configuration is one, whoever has a link in it: a test must not meet half of somebody else's switch.
        async with self._spawner.hold(f"nginx {self._settings.pid}", wait=self._settings.timeout):
            self._lead(target)
            try:
                await self._test(lock)
            except AdapterError:
                self._lead(back)
                raise
            try:
                await self._load(shown, lock)
            except AdapterError as error:
                self._lead(back)
                again = await self._loads_again(lock)
                if again or not isinstance(error, _NotSeen):
                    raise
                text = f"{error}, and nginx was not seen to load that either: look what it serves"
                raise Unsettled(text, permanent=False) from error

    async def _loads_again(self, lock: Lock) -> bool:
        """Whether nginx loads the link that was put back, so that a later try finds serving what the link says."""
        with suppress(AdapterError):  # the first failure is told
            await self._load(text_shown(""), lock)
            return True
        return False

    def _lead(self, target: Path | None) -> None:
        """Replace the link by rename, made under a name that no `*.conf` includes; on disk when this returns."""
        self.where()  # never over something that is not a link
        aside = self._link.with_name(f".{self._link.name}.rollbackd")
        try:
            aside.unlink(missing_ok=True)
            if target is None:
                self._link.unlink(missing_ok=True)
            else:
                aside.symlink_to(target)
                copy_owner_of_link(self._link, aside)
                aside.rename(self._link)
            sync_directory(self._link.parent)
        except OSError as error:
            raise AdapterError(
                f"{self._link}: {error.strerror}; may rollbackd write to {self._link.parent}?", permanent=False
            ) from error

    async def _test(self, lock: Lock | None) -> None:
        if self._settings.test:
            self._must(self._settings.test, await self._run(self._settings.test, lock), "nothing was reloaded")

    async def _load(self, shown: Shown, lock: Lock) -> None:
        """Reload, and wait until what nginx serves says that it took."""
        before = await self._workers()
        self._must(self._settings.reload, await self._run(self._settings.reload, lock), "the old configuration serves")
        until = self._clock.monotonic() + self._settings.timeout.total_seconds()
        wanted = _IN_A_ROW if self._settings.confirm else 1
        seen = 0
        while (seen := seen + 1 if await self._took(before, shown) else 0) < wanted:
            if self._clock.monotonic() >= until:
                raise self._not_seen()
            await self._clock.sleep(_LOOK_AGAIN)

    async def _took(self, before: frozenset[int], shown: Shown) -> bool:
        """Whether new workers serve and old ones do not; where they are hidden, what is answered has to do."""
        try:
            now = await self._workers()
            if (before or now) and (before & now or not now):
                return False
            if self._settings.confirm is None:
                return True
            return shown(await self._confirmed())
        except AdapterError as error:
            if error.permanent:
                raise
            return False  # between two generations of workers nothing may answer

    async def _confirmed(self) -> str:
        assert self._settings.confirm is not None
        limit = min(_ASK, self._settings.timeout)
        answer = await ask(self._settings.confirm, self._place, words_of(self._place), limit)
        return answer.body.decode(errors="replace")

    async def _workers(self) -> frozenset[int]:
        """The workers; empty when they are hidden and `confirm` answers for them."""
        try:
            return await asyncio.to_thread(workers, self._settings.pid)
        except AdapterError:
            if self._settings.confirm is None:
                raise
            return frozenset()

    def _not_seen(self) -> _NotSeen:
        confirm = self._settings.confirm
        wanted = "no new workers" if confirm is None else f"{confirm.url} did not show it"
        limit = format_duration(self._settings.timeout)
        text = f"nginx was told to reload, but {wanted} within {limit}; its error log says why. The link is put back"
        return _NotSeen(text, permanent=False)

    async def _run(self, argv: Sequence[str], lock: Lock | None = None) -> Finished:
        with as_adapter_errors():
            return await self._spawner.run(argv, timeout=self._settings.timeout, lock=lock)

    def _must(self, argv: Sequence[str], finished: Finished, meaning: str) -> None:
        if finished.ok:
            return
        lines = [line for line in finished.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if "[emerg]" in line or "[error]" in line), lines[-1] if lines else "")
        passing = finished.timed_out or any(text in finished.stderr.lower() for text in _PASSING)
        raise AdapterError(
            f"`{one_line(' '.join(argv))}`: {finished.ending}{': ' if said else ''}{one_line(said)}; {meaning}",
            permanent=not passing,
            evidence=finished.tail,
        )

    # -- before anything is touched -------------------------------------------------------------
    async def problems(self, files: Sequence[Path]) -> list[str]:
        """Why a switch to one of these files could not work now. Read only."""
        commands = (self._settings.test, self._settings.reload)
        found = missing_programs(self._spawner, (argv[0] for argv in commands if argv))
        found += [f"{path}: no such file; write it, or correct the path" for path in files if not path.is_file()]
        directory = self._link.parent
        if not directory.is_dir():
            found.append(f"{directory}: no such directory; make it, or correct `link`")
        elif not os.access(directory, os.W_OK | os.X_OK):
            found.append(f"{directory}: rollbackd may not make links there; give its user that right")
        found += await unprepared(self._place, self._settings.confirm)
        for question in (self.where, self._runs, self._signalled):
            try:
                question()
            except AdapterError as error:
                found.append(str(error))
        return list(dict.fromkeys(found)) or await self._refusals()

    def _signalled(self) -> None:
        """:raises AdapterError: a signal reloads it, and it runs as somebody to whom we may send none."""
        if Path(self._settings.reload[0]).name == "nginx" and not signalled(self._settings.pid):
            raise AdapterError(
                "rollbackd's user may send no signal to nginx; use `reload: [systemctl, reload, nginx.service]`",
                permanent=False,
            )

    def _runs(self) -> None:
        if self._settings.confirm is None:
            workers(self._settings.pid)
        else:
            master(self._settings.pid)

    async def _refusals(self) -> list[str]:
        """Why nginx would not take even what it has now, and whether we may tell it to."""
        try:
            await self._test(None)
            if not await self._included():
                return [f"nginx includes no {self._link}; have its configuration include it, or correct `link`"]
        except AdapterError as error:
            return [str(error).partition("; nothing was")[0] + "; its configuration is broken already, or not readable"]
        if (unit := unit_of(self._settings.reload)) and os.geteuid() != 0:
            denied = await Manager(self._spawner).may(self._settings.reload[1], unit)
            return [denied] if denied else []
        return []

    async def _included(self) -> bool:
        """Whether nginx would load the link; True where it does not tell."""
        dump = await self._dump()
        return not dump or includes(dump, self._link)

    async def _dump(self) -> str:
        """What nginx loads, as `nginx -T` prints it; empty where it does not."""
        if not self._settings.test or self._settings.test[-1] != "-t":
            return ""
        finished = await self._run([*self._settings.test[:-1], "-T"])
        return finished.stdout.decode(errors="replace") if finished.ok and not finished.truncated else ""

    async def waiting(self) -> list[str]:
        """Files of the configuration that were changed since nginx read them: a reload loads them too. Read only."""
        with suppress(AdapterError, OSError):
            ages = [age(worker) for worker in await asyncio.to_thread(workers, self._settings.pid)]
            since = self._clock.now().timestamp() - max(ages, default=0.0) + _ROUNDED
            return [str(path) for path in loaded(await self._dump()) if path.stat().st_mtime > since]
        return []


def unit_of(reload: Sequence[str]) -> str:
    """The unit that is told to reload, or nothing: `[systemctl, reload, nginx.service]`."""
    plain = [word for word in reload[1:] if not word.startswith("-")]
    if Path(reload[0]).name != "systemctl" or len(plain) != 2:
        return ""
    return plain[1] if "." in plain[1] else f"{plain[1]}.service"


def text_shown(text: str, *, wanted: bool = True) -> Shown:
    """An answer that has the text, or lacks it."""

    def shown(body: str) -> bool:
        return (text in body) is wanted

    return shown
